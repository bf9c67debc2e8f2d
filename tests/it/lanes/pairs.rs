//! Request and answer pairs from a seed: the usual, the rare and the hostile, mixed by chance.

use crate::harness::Reply;

/// The same numbers for the same seed, on every machine (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What the client sends and the backend answers.
pub(super) struct Pair {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The request, in the pieces in which it is sent.
    pub(super) request: Vec<Vec<u8>>,
    pub(super) reply: Reply,
    pub(super) answer: String,
}

const METHODS: [&str; 10] =
    ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"];

const REQUEST_HEADERS: [&str; 40] = [
    "Accept: */*",
    "accept-encoding: gzip, br",
    "ACCEPT-LANGUAGE: zh-CN,zh;q=0.9",
    "User-Agent: MicroMessenger/8.0 (点)",
    "Referer: https://servicewechat.com/wx0123456789abcdef/1/page-frame.html",
    "X-Empty:",
    "X-Spaces:   a  b   ",
    "X-Twice: 1",
    "X-Twice: 2",
    "x-twice: 3",
    "Cookie: a=1; wxgate_session=x; b=2",
    "Cookie: c=3",
    "X-WX-OPENID: evil",
    "x_wx_openid: evil",
    "X.WX.Unionid: evil",
    "X-Wx-Anything: evil",
    "Content_Length: 5",
    "Transfer.Encoding: chunked",
    "Host_: evil",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Proto: https",
    "X_Forwarded_Host: evil",
    "Forwarded: for=1.2.3.4",
    "X-Real-IP: 1.2.3.4",
    "X-Request-Id: chosen",
    "Keep-Alive: timeout=5",
    "TE: trailers",
    "Trailer: X-WX-OPENID",
    "Proxy: http://evil",
    "Proxy-Authorization: Basic x",
    "Connection: X-Hop, keep-alive",
    "X-Hop: 1",
    "Connection: X-WX-OPENID, Cookie, X-Forwarded-For",
    "If-None-Match: \"x\"",
    "Range: bytes=0-1",
    "Authorization: Basic dTpw",
    "Content-Type: application/json",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABk",
    "X-Session-Token: x",
];

const TARGETS: [&str; 6] = ["", "?a=1&b=%20", "/..;x", "//deep/./x", "/%41?x=/../", "/;v=1/x"];

const STATUSES: [&str; 12] = [
    "200 OK",
    "200 OK",
    "200",
    "201 Created",
    "204 No Content",
    "206 Partial Content",
    "302 Found",
    "304 Not Modified",
    "401 Unauthorized",
    "404 Gibt es nicht",
    "500 Internal Server Error",
    "599 Odd",
];

const ANSWER_HEADERS: [&str; 21] = [
    "Content-Type: text/plain; charset=utf-8",
    "Set-Cookie: a=1; Path=/",
    "Set-Cookie: b=2",
    "set-cookie: c=3",
    "X-Empty:",
    "Server: backend",
    "Location: /elsewhere",
    "WWW-Authenticate: Basic realm=\"x\"",
    "Cache-Control: no-store",
    "ETag: \"x\"",
    "Keep-Alive: timeout=5, max=100",
    "Connection: keep-alive",
    "Connection: X-Hop",
    "X-Hop: 1",
    "Proxy-Authenticate: Basic",
    "X-Request-Id: theirs",
    "Vary: Accept-Encoding",
    "X-Accel-Buffering: no",
    // A proxy mends these (RFC 9112 sections 5.1 and 5.2).
    "X-Spaced : a",
    "X-Folded: a\r\n b \r\n\tc",
    "X-Below:\r\n a",
];

impl Pair {
    /// Pair `number` of the series, for a client that shows this token on some of its requests.
    pub(super) fn of(number: u64, token: &str) -> Self {
        let mut dice = Dice(number.wrapping_mul(0x0005_deec_e66d));
        let method = dice.pick(&METHODS);
        let base = dice.pick(&["/open/", "/maybe/", "/api/"]);
        let path = format!("{base}{number}");
        let request = request(&mut dice, method, &path, token);
        let (reply, answer) = answer(&mut dice, method);
        Self { method, path, request: split(&mut dice, request), reply, answer }
    }
}

fn bytes(dice: &mut Dice) -> Vec<u8> {
    let length = dice.pick(&[0, 1, 5, 100, 4_000, 17_000, 70_000]);
    (0..length).map(|at| b"0123456789abcdef\r\n"[at % 18]).collect()
}

fn request(dice: &mut Dice, method: &str, path: &str, token: &str) -> Vec<u8> {
    let target = if dice.one_in(6) { dice.pick(&TARGETS) } else { "" };
    let mut head = format!("{method} {path}{target} HTTP/1.1\r\nHost: shop.test\r\n");
    if !dice.one_in(4) {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    for _ in 0..dice.below(7) {
        head.push_str(dice.pick(&REQUEST_HEADERS));
        head.push_str("\r\n");
    }
    if dice.one_in(12) {
        head.push_str("Connection: close\r\n");
    }
    let body = if matches!(method, "GET" | "HEAD" | "OPTIONS") && !dice.one_in(8) {
        None
    } else {
        Some(bytes(dice))
    };
    let mut request = head.into_bytes();
    match body {
        None => request.extend(b"\r\n"),
        Some(body) if dice.one_in(6) => {
            request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            request.extend(chunks(dice, &body, true));
        }
        Some(body) => {
            request.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            request.extend(body);
        }
    }
    request
}

fn chunks(dice: &mut Dice, body: &[u8], whole: bool) -> Vec<u8> {
    let mut chunks = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((1 + dice.below(9_000)).min(rest.len()));
        let extension = if dice.one_in(4) { ";a=\"b c\"" } else { "" };
        chunks.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
        rest = after;
    }
    if whole {
        let trailer = if dice.one_in(3) { "X-WX-OPENID: evil\r\nX-Sum: 1\r\n" } else { "" };
        chunks.extend(format!("0\r\n{trailer}\r\n").bytes());
    }
    chunks
}

/// In one piece mostly, else in two or three.
fn split(dice: &mut Dice, request: Vec<u8>) -> Vec<Vec<u8>> {
    let mut pieces = vec![request];
    while dice.one_in(4) {
        let last = pieces.pop().unwrap();
        let (first, second) = last.split_at(dice.below(last.len()));
        pieces.extend([first.to_vec(), second.to_vec()]);
    }
    pieces
}

fn answer(dice: &mut Dice, method: &str) -> (Reply, String) {
    let status = dice.pick(&STATUSES);
    let has_body = method != "HEAD" && !status.starts_with("204") && !status.starts_with("304");
    let mut head = String::new();
    if dice.one_in(10) {
        head.push_str("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    }
    let version = if dice.one_in(12) { "1.0" } else { "1.1" };
    head.push_str(&format!("HTTP/{version} {status}\r\n"));
    for _ in 0..dice.below(5) {
        head.push_str(dice.pick(&ANSWER_HEADERS));
        head.push_str("\r\n");
    }
    let body = bytes(dice);
    let shown = if has_body { &body[..] } else { &[] };
    let kind = dice.below(24);
    let (line, sent, closes) = match kind {
        0..=11 => (format!("Content-Length: {}\r\n", body.len()), shown.to_vec(), false),
        12 => (format!("Content-Length :\r\n {}\r\n", body.len()), shown.to_vec(), false),
        13 if has_body => {
            ("Transfer-Encoding : chunked\r\n".to_owned(), chunks(dice, shown, true), false)
        }
        14..=18 if has_body => {
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks(dice, shown, true), false)
        }
        19 if has_body => (String::new(), shown.to_vec(), true),
        // From here on the backend breaks its word.
        20 if has_body => {
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks(dice, shown, false), true)
        }
        21 if has_body => (format!("Content-Length: {}\r\n", body.len() + 1), shown.to_vec(), true),
        22 => ("Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(), b"hello!".to_vec(), true),
        _ if dice.one_in(4) => return (Reply::default().then_close(), format!("{kind}: nothing")),
        _ => (format!("Content-Length: {}\r\n", shown.len()), shown.to_vec(), false),
    };
    head.push_str(&format!("{line}\r\n"));
    let shown_head = format!("{kind}: {head:?} and {} bytes", sent.len());
    let mut reply = if dice.one_in(3) {
        Reply::raw(head).then(sent)
    } else {
        let mut all = head.into_bytes();
        all.extend(sent);
        Reply::raw(all)
    };
    if closes || version == "1.0" {
        reply = reply.then_close();
    }
    (reply, shown_head)
}
