//! Requests that are malformed or could be read in two ways: refused and the connection closed,
//! never guessed at, and never a second request to the backend.

use std::time::{Duration, Instant};

use crate::harness::client::ReadError;
use crate::harness::{Answer, Connection, Site, mostly_within, once_within, within};

/// A request that a lenient reader would find behind the first one.
const SMUGGLED: &str = "GET /open/smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";

fn chunked_smuggled() -> String {
    format!("0\r\n\r\n{SMUGGLED}")
}

/// A POST with these header lines and this after the head.
fn post(lines: &str, rest: &str) -> Vec<u8> {
    format!("POST /open/x HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n{rest}").into_bytes()
}

/// A GET with these header lines.
fn get(lines: &str) -> Vec<u8> {
    format!("GET /open/x HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n").into_bytes()
}

/// A whole request without anything behind it.
fn whole(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// How a row must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// 400 `invalid_request`, and the connection is closed.
    Refused,
    /// 400, or forwarded as one request that is unambiguous.
    RefusedOrClean,
    /// Another status and error.
    Status(u16, &'static str),
}
use End::{Refused, RefusedOrClean, Status};

#[expect(clippy::too_many_lines, reason = "a table")]
fn framing_rows() -> Vec<(&'static str, Vec<u8>, End)> {
    let tail = chunked_smuggled();
    let te = "Transfer-Encoding: chunked\r\n";
    vec![
        // Content-Length with Transfer-Encoding.
        ("CL.TE", post(&format!("Content-Length: 6\r\n{te}"), &tail), Refused),
        ("TE.CL", post(&format!("{te}Content-Length: 4\r\n"), &tail), Refused),
        ("CL 0 and TE", post(&format!("Content-Length: 0\r\n{te}"), &tail), Refused),
        (
            "CL and TE identity",
            post("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "hello"),
            Refused,
        ),
        ("CL and TE on GET", get(&format!("Content-Length: 0\r\n{te}")), Refused),
        (
            "CL.TE named by Connection",
            post(&format!("Connection: Content-Length\r\nContent-Length: 6\r\n{te}"), &tail),
            Refused,
        ),
        (
            "TE named by Connection",
            post(&format!("Connection: Transfer-Encoding\r\nContent-Length: 6\r\n{te}"), &tail),
            Refused,
        ),
        // Differing and odd lengths.
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Refused),
        ("a list of lengths", post("Content-Length: 5, 6\r\n", "hello"), Refused),
        (
            "the same length twice",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            RefusedOrClean,
        ),
        ("a list of the same length", post("Content-Length: 5, 5\r\n", "hello"), RefusedOrClean),
        (
            "the same length in other digits",
            post("Content-Length: 5\r\nContent-Length: 05\r\n", "hello"),
            Refused,
        ),
        ("a signed length", post("Content-Length: +5\r\n", "hello"), Refused),
        ("a negative length", post("Content-Length: -1\r\n", ""), Refused),
        ("a hexadecimal length", post("Content-Length: 0x5\r\n", "hello"), Refused),
        ("a length with a unit", post("Content-Length: 5b\r\n", "hello"), Refused),
        ("a length with a point", post("Content-Length: 5.0\r\n", "hello"), Refused),
        ("an empty length", post("Content-Length: \r\n", ""), Refused),
        ("a length with a space", post("Content-Length: 1 0\r\n", "hello12345"), Refused),
        ("a length with an underscore", post("Content-Length: 1_0\r\n", "hello12345"), Refused),
        (
            "a length past 64 bits",
            post("Content-Length: 18446744073709551621\r\n", "hello"),
            Refused,
        ),
        ("a length with a vertical tab", post("Content-Length: \u{b}5\r\n", "hello"), Refused),
        ("a length with a bare CR", post("Content-Length: 5\r6\r\n", "hello"), Refused),
        ("a length in other script", post("Content-Length: \u{665}\r\n", "hello"), Refused),
        // Transfer-Encoding that is not exactly chunked.
        ("TE twice", post(&format!("{te}{te}"), &tail), Refused),
        ("TE chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n", &tail), Refused),
        ("TE identity", post("Transfer-Encoding: identity\r\n", &tail), Refused),
        ("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", &tail), Refused),
        ("TE chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", &tail), Refused),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", &tail), Refused),
        ("TE chunkedx", post("Transfer-Encoding: chunkedx\r\n", &tail), Refused),
        ("TE in quotes", post("Transfer-Encoding: \"chunked\"\r\n", &tail), Refused),
        ("TE with a parameter", post("Transfer-Encoding: chunked;q=1\r\n", &tail), Refused),
        ("TE empty", post("Transfer-Encoding: \r\n", &tail), Refused),
        ("TE with a vertical tab", post("Transfer-Encoding: \u{b}chunked\r\n", &tail), Refused),
        ("TE with a NUL", post("Transfer-Encoding: chunked\u{0}\r\n", &tail), Refused),
        ("TE with a bare CR", post("Transfer-Encoding: chunked\r \r\n", &tail), Refused),
        (
            "TE and cow",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", &tail),
            Refused,
        ),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", &tail), Refused),
        (
            "TE with a space before the colon",
            post("Transfer-Encoding : chunked\r\n", &tail),
            Refused,
        ),
        ("TE behind a space", post(" Transfer-Encoding: chunked\r\n", &tail), Refused),
        (
            "TE on HTTP/1.0",
            format!("POST /open/x HTTP/1.0\r\nHost: shop.test\r\n{te}\r\n{tail}").into_bytes(),
            Refused,
        ),
        // Chunks.
        ("a chunk size that is no number", post(te, &format!("zz\r\nhello\r\n{tail}")), Refused),
        ("a signed chunk size", post(te, &format!("+5\r\nhello\r\n{tail}")), Refused),
        ("a chunk size with 0x", post(te, &format!("0x5\r\nhello\r\n{tail}")), Refused),
        (
            "a chunk size past 64 bits",
            post(te, &format!("1{}5\r\nhello\r\n{tail}", "0".repeat(16))),
            Refused,
        ),
        ("an empty chunk size", post(te, &format!("\r\nhello\r\n{tail}")), Refused),
        (
            "a chunk that is longer than it says",
            post(te, &format!("3\r\nhello\r\n{tail}")),
            Refused,
        ),
        ("a chunk size ended by LF", post(te, &format!("5\nhello\r\n{tail}")), Refused),
        ("a chunk ended by LF", post(te, &format!("5\r\nhello\n{tail}")), Refused),
        ("a chunk extension with LF", post(te, &format!("5;a\nb\r\nhello\r\n{tail}")), Refused),
        (
            "a chunk size line of 64 KiB",
            post(te, &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(65536))),
            RefusedOrClean,
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn head_rows() -> Vec<(&'static str, Vec<u8>, End)> {
    let host = "Host: shop.test\r\n";
    vec![
        // Host.
        ("no Host", whole("GET /open/x HTTP/1.1\r\n\r\n"), Refused),
        ("two Hosts", get("Host: other.test\r\n"), Refused),
        ("the same Host twice", get(host), Refused),
        ("two Hosts in other case", get("hOST: other.test\r\n"), Refused),
        ("an empty Host", whole("GET /open/x HTTP/1.1\r\nHost:\r\n\r\n"), Refused),
        (
            "a Host with a comma",
            whole("GET /open/x HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n"),
            Refused,
        ),
        (
            "a Host with a space",
            whole("GET /open/x HTTP/1.1\r\nHost: a.test b.test\r\n\r\n"),
            Refused,
        ),
        ("a Host with a path", whole("GET /open/x HTTP/1.1\r\nHost: a.test/b\r\n\r\n"), Refused),
        ("a Host that is dots", whole("GET /open/x HTTP/1.1\r\nHost: ..\r\n\r\n"), Refused),
        ("two trailing dots", whole("GET /open/x HTTP/1.1\r\nHost: a.test..\r\n\r\n"), Refused),
        (
            "a padded Content-Length",
            whole("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 01\r\n\r\nx"),
            Refused,
        ),
        ("a Host with userinfo", whole("GET /open/x HTTP/1.1\r\nHost: a@b.test\r\n\r\n"), Refused),
        (
            "a Host with a bad port",
            whole("GET /open/x HTTP/1.1\r\nHost: a.test:8o\r\n\r\n"),
            Refused,
        ),
        ("a Host with a query", whole("GET /open/x HTTP/1.1\r\nHost: a.test?x\r\n\r\n"), Refused),
        (
            "a Host with a fragment",
            whole("GET /open/x HTTP/1.1\r\nHost: a.test#x\r\n\r\n"),
            Refused,
        ),
        ("a Host with a quote", whole("GET /open/x HTTP/1.1\r\nHost: a\".test\r\n\r\n"), Refused),
        // The request line.
        (
            "a target without slash",
            whole("GET open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("asterisk", whole("GET * HTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        ("authority form", whole("GET shop.test:80 HTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        (
            "absolute form of another host",
            whole("GET http://other.test/open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "absolute form with userinfo",
            whole("GET http://shop.test@other.test/open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("absolute form of no host", whole("GET http:///open/x HTTP/1.0\r\n\r\n"), Refused),
        (
            "absolute form of another scheme",
            whole("GET ftp://shop.test/open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "a space in the target",
            whole("GET /open/x y HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("a tab for a space", whole("GET\t/open/x\tHTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        ("two spaces", whole("GET  /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        (
            "a space after the version",
            whole("GET /open/x HTTP/1.1 \r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "a NUL in the target",
            whole("GET /open/x\u{0} HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "a control byte in the target",
            whole("GET /open/x\u{1} HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "DEL in the target",
            whole("GET /open/x\u{7f} HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "raw UTF-8 in the target",
            whole("GET /open/é HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            RefusedOrClean,
        ),
        ("a fragment", whole("GET /open/x#y HTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        (
            "a bare CR in the request line",
            whole("GET /open/x\r HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        (
            "an unknown minor version",
            whole("GET /open/x HTTP/1.9\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("HTTP/2 in text", whole("GET /open/x HTTP/2.0\r\nHost: shop.test\r\n\r\n"), Refused),
        ("HTTP/0.9", whole("GET /open/x\r\n\r\n"), Refused),
        ("lower-case http", whole("GET /open/x http/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        ("no version number", whole("GET /open/x HTTP/\r\nHost: shop.test\r\n\r\n"), Refused),
        (
            "a method that is no token",
            whole("G@T /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("an empty method", whole(" /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"), Refused),
        (
            "CONNECT",
            whole("CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n"),
            Status(405, "method_not_allowed"),
        ),
        (
            "CONNECT of a path",
            whole("CONNECT /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Status(405, "method_not_allowed"),
        ),
        (
            "TRACE",
            whole("TRACE /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Status(405, "method_not_allowed"),
        ),
        (
            "TRACE of everything",
            whole("TRACE * HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Status(405, "method_not_allowed"),
        ),
        (
            "TRACE of an authority",
            whole("TRACE shop.test:443 HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            Status(405, "method_not_allowed"),
        ),
        // Header lines.
        ("a folded line", get("X-A: 1\r\n 2\r\n"), Refused),
        ("a line folded by a tab", get("X-A: 1\r\n\t2\r\n"), Refused),
        (
            "a first line that is folded",
            whole("GET /open/x HTTP/1.1\r\n Host: shop.test\r\nHost: shop.test\r\n\r\n"),
            Refused,
        ),
        ("a line without colon", get("X-A\r\n"), Refused),
        ("an empty name", get(": value\r\n"), Refused),
        ("a space before the colon", get("X-A : 1\r\n"), Refused),
        ("a tab before the colon", get("X-A\t: 1\r\n"), Refused),
        ("a space in a name", get("X A: 1\r\n"), Refused),
        ("a NUL in a name", get("X\u{0}A: 1\r\n"), Refused),
        ("a NUL in a value", get("X-A: 1\u{0}2\r\n"), Refused),
        ("a bare CR in a value", get("X-A: 1\r2\r\n"), Refused),
        ("a bell in a value", get("X-A: 1\u{7}2\r\n"), Refused),
        ("DEL in a value", get("X-A: 1\u{7f}2\r\n"), Refused),
        ("UTF-8 in a name", get("X-é: 1\r\n"), Refused),
        ("a parenthesis in a name", get("X(A): 1\r\n"), Refused),
        ("a head ended by LF LF", whole("GET /open/x HTTP/1.1\nHost: shop.test\n\n"), Refused),
        ("one line ended by LF", get("X-A: 1\nX-B: 2\r\n"), Refused),
        (
            "a head ended by CRLF LF",
            whole("GET /open/x HTTP/1.1\r\nHost: shop.test\r\n\n"),
            Refused,
        ),
        ("TLS on a plain port", vec![22, 3, 1, 0, 5, 1, 0, 0, 1, 0, 13, 10, 13, 10], Refused),
        ("the HTTP/2 preface", whole("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), RefusedOrClean),
        // Limits.
        (
            "a target over 8 KiB",
            whole(&format!(
                "GET /open/{} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
                "a".repeat(8 * 1024)
            )),
            Status(414, "uri_too_long"),
        ),
        (
            "a method of 70,000 letters",
            whole(&format!("{} /open/x HTTP/1.1\r\nHost: shop.test\r\n\r\n", "A".repeat(70_000))),
            RefusedOrClean,
        ),
        (
            "a header over 32 KiB",
            get(&format!("X-A: {}\r\n", "a".repeat(33 * 1024))),
            Status(431, "header_fields_too_large"),
        ),
        (
            "many headers over 32 KiB",
            get(&"X-A: 0123456789012345678901234567890123456789\r\n".repeat(900)),
            Status(431, "header_fields_too_large"),
        ),
    ]
}

fn assert_row(site: &Site, (what, bytes, end): &(&'static str, Vec<u8>, End)) {
    site.upstream.forget();
    let mut connection = site.connect();
    connection.send(bytes);
    let answer = match connection.try_answer("GET") {
        Ok(answer) => answer,
        // What is no HTTP at all may be met by silence.
        Err(ReadError::Closed | ReadError::Cut(_)) if *end == RefusedOrClean => return,
        Err(error) => panic!("{what}: {error:?}"),
    };
    let seen = site.upstream.requests();
    let targets: Vec<&str> = seen.iter().map(|request| request.target.as_str()).collect();
    assert!(!targets.iter().any(|target| target.contains("smuggled")), "{what}: {targets:?}");
    assert!(site.upstream.garbage().is_empty(), "{what}: {:?}", site.upstream.garbage());
    match end {
        Refused => {
            assert_eq!(answer.status, 400, "{what}: {}", answer.text());
            answer.assert_refused(400, "invalid_request");
            assert!(connection.is_closed_by_gateway(), "{what}: still open or more answers");
        }
        Status(status, error) => {
            assert_eq!(answer.status, *status, "{what}: {}", answer.text());
            answer.assert_refused(*status, error);
            assert!(seen.is_empty(), "{what} reached the backend: {}", seen[0].raw());
        }
        RefusedOrClean => {
            let refused = (400..500).contains(&answer.status);
            assert!(refused || answer.status == 200, "{what}: {} {}", answer.status, answer.text());
            for request in &seen {
                assert!(request.values("Content-Length").len() <= 1, "{what}: {}", request.raw());
                let length = request.header("Content-Length").unwrap_or("0");
                assert!(length.bytes().all(|b| b.is_ascii_digit()), "{what}: {}", request.raw());
            }
        }
    }
    if *end == Refused {
        // A chunked body may turn out bad after the head went on; the backend then gets no
        // complete request.
        for request in &seen {
            assert!(!request.complete, "{what} reached the backend: {}", request.raw());
        }
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    let site = Site::start();
    for row in &framing_rows() {
        assert_row(&site, row);
    }
}

#[test]
fn malformed_heads_are_refused() {
    let site = Site::start();
    for row in &head_rows() {
        assert_row(&site, row);
    }
}

#[test]
fn the_tables_hold_at_least_a_hundred_attacks() {
    assert!(framing_rows().len() + head_rows().len() >= 100);
}

#[test]
fn the_same_attacks_are_refused_where_a_token_is_needed_and_shown() {
    let site = Site::start();
    let token = site.log_in("alice");
    for (what, bytes, end) in framing_rows().into_iter().chain(head_rows()) {
        if end != Refused {
            continue;
        }
        let text = String::from_utf8(bytes).unwrap_or_default();
        let text = text.replace("/open/x", "/api/x");
        let text = text.replacen(
            "Host: shop.test\r\n",
            &format!("Host: shop.test\r\nAuthorization: Bearer {token}\r\n"),
            1,
        );
        if text.contains("Authorization") {
            assert_row(&site, &(what, text.into_bytes(), end));
        }
    }
}

#[test]
fn the_gateways_own_endpoints_refuse_them_too() {
    let site = Site::start();
    for (what, bytes, end) in framing_rows() {
        if end != Refused {
            continue;
        }
        let text = String::from_utf8(bytes).unwrap().replace("/open/x", "/wx/auth");
        let mut connection = site.connect();
        let answer = connection.send(text).answer();
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(connection.is_closed_by_gateway(), "{what}: still open or more answers");
    }
    assert!(site.wechat.calls().is_empty() && site.upstream.requests().is_empty());
}

#[test]
fn absolute_form_of_the_same_host_is_forwarded_in_origin_form() {
    let site = Site::start();
    for target in ["http://shop.test/open/x?y", "HTTP://SHOP.TEST/open/x?y"] {
        let answer = site.get(target).send();
        if answer.status == 400 {
            answer.assert_refused(400, "invalid_request");
            continue;
        }
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(site.upstream.last().target, "/open/x?y", "{target}");
    }
    let guarded = site.get("http://shop.test/api/x").send();
    assert!(matches!(guarded.status, 400 | 401), "{}", guarded.status);
}

#[test]
fn a_target_of_8_kib_less_the_rest_of_the_line_is_fine() {
    let site = Site::start();
    let target = format!("/open/{}", "a".repeat(8 * 1024 - 64));
    assert_eq!(site.get(&target).send().status, 200);
    assert_eq!(site.upstream.last().target, target);
}

#[test]
fn a_header_section_of_the_limit_is_fine_and_the_limit_is_configured() {
    let site = Site::with().server("max_header_bytes = \"4KiB\"").start();
    let send = |length: usize| {
        let bare = site.get("/open/x").header("X-A", "").bytes().len();
        site.get("/open/x").header("X-A", &"a".repeat(length - bare)).send()
    };
    assert_eq!(send(4 * 1024).status, 200);
    send(4 * 1024 + 1).assert_refused(431, "header_fields_too_large");
    let target = |length: usize| format!("/open/{}", "a".repeat(length));
    site.get(&target(5 * 1024)).send().assert_refused(431, "header_fields_too_large");
    site.get(&target(9 * 1024)).send().assert_refused(414, "uri_too_long");
    let mut slow = site.connect();
    slow.send(format!("GET {}", target(5 * 1024)));
    slow.send("a".repeat(4 * 1024)).answer().assert_refused(414, "uri_too_long");
}

#[test]
fn options_asterisk_is_not_forwarded() {
    let site = Site::start();
    let answer = site.request("OPTIONS", "*").send();
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn a_head_that_never_ends_is_cut_at_the_limit() {
    let site = Site::start();
    let mut connection = site.connect();
    connection.send("GET /open/x HTTP/1.1\r\nHost: shop.test\r\n");
    let line = format!("X-A: {}\r\n", "a".repeat(1000));
    for _ in 0..4096 {
        if connection.try_send(line.as_bytes()).is_err() {
            break;
        }
    }
    match connection.try_answer("GET") {
        Ok(answer) => {
            answer.assert_refused(431, "header_fields_too_large");
        }
        // The reset may overtake the answer when the caller is still sending.
        Err(error) => assert!(matches!(error, ReadError::Closed | ReadError::Cut(_)), "{error:?}"),
    }
}

#[test]
fn a_slow_head_is_408_and_its_time_is_a_total() {
    let site = Site::with().server("header_timeout = \"1s\"").start();
    // Nothing more than the beginning.
    once_within(Duration::from_secs(4), || {
        let mut silent = site.connect();
        let begin = Instant::now();
        silent.send("GET /open/x HTTP/1.1\r\nHost: sh");
        silent.answer().assert_refused(408, "request_timeout");
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
        assert!(silent.is_closed_by_gateway());
    });
    // A byte now and then does not buy time.
    once_within(Duration::from_secs(4), || drip(&site)).assert_refused(408, "request_timeout");
}

fn drip(site: &Site) -> Answer {
    let mut dripping = site.connect();
    let begin = Instant::now();
    dripping.send("GET /open/x HTTP/1.1\r\nHost: shop.test\r\nX-A: ");
    dripping.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        dripping.send("a");
        match dripping.try_answer("GET") {
            Ok(answer) => return answer,
            Err(ReadError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(8), "drips for ever");
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let site = Site::with().server("idle_timeout = \"1s\"").start();
    let mut connection = site.connect();
    assert_eq!(site.get("/open/x").send_on(&mut connection).status, 200);
    let begin = Instant::now();
    assert!(connection.is_closed_by_gateway());
    assert!(begin.elapsed() >= Duration::from_millis(800), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn pipelined_requests_are_answered_in_order_or_the_connection_ends_after_the_first() {
    let site = Site::start();
    let mut connection = site.connect();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    connection.send(format!("{}{}{}", request("/open/1"), request("/api/2"), request("/open/3")));
    assert_eq!(connection.answer().status, 200);
    match connection.try_answer("GET") {
        Ok(second) => {
            assert_eq!(second.status, 401, "each request is judged on its own");
            if let Ok(third) = connection.try_answer("GET") {
                assert_eq!(third.status, 200);
            }
        }
        Err(error) => assert!(matches!(error, ReadError::Closed | ReadError::Cut(_)), "{error:?}"),
    }
    assert!(site.upstream.requests_to("/api/2").is_empty());
}

#[test]
fn what_follows_a_refused_body_is_never_read_as_a_request() {
    let site = Site::with().server("max_body_bytes = \"1KiB\"").start();
    let body = SMUGGLED.repeat(100);
    for path in ["/open/x", "/api/x", "/nothing", "/wx/session"] {
        let mut connection = site.connect();
        connection.send(format!(
            "POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = connection.answer();
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        // Either the connection is over, or what follows is the next request and nothing else.
        connection.send(site.get("/open/next").bytes());
        if let Ok(next) = connection.try_answer("GET") {
            assert_eq!(next.text(), "hello", "{path}");
            assert_eq!(site.upstream.last().target, "/open/next", "{path}");
            connection.finish_sending();
            assert!(connection.is_closed_by_gateway(), "{path}: a third answer");
        }
    }
    assert!(site.upstream.requests_to("/open/smuggled").is_empty());
}

#[test]
fn a_get_with_a_body_stays_in_step() {
    let site = Site::start();
    let mut connection = site.connect();
    let answer = site.get("/open/x").body(SMUGGLED).send_on(&mut connection);
    assert_eq!(answer.status, 200);
    assert_eq!(site.upstream.last().body, SMUGGLED.as_bytes());
    if site.get("/open/y").try_send().is_ok() {
        assert!(site.upstream.requests_to("/open/smuggled").is_empty());
    }
}

#[test]
fn an_http_1_0_caller_is_answered_and_may_leave_out_host() {
    let site = Site::start();
    for head in ["GET /open/x HTTP/1.0\r\n\r\n", "GET /open/x HTTP/1.0\r\nHost: shop.test\r\n\r\n"]
    {
        let mut connection = site.connect();
        connection.send(head);
        let bytes = connection.rest().expect("an HTTP/1.0 connection ends with the answer");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.0 200"), "{text}");
        assert!(text.ends_with("hello"), "{text}");
        assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    }
    let mut connection = site.connect();
    let refused = connection.send("GET /api/x HTTP/1.0\r\n\r\n").rest().unwrap();
    assert!(String::from_utf8_lossy(&refused).contains(" 401 "));
}

#[test]
fn the_gateway_goes_on_after_all_of_it() {
    let site = Site::start();
    for (_, bytes, _) in framing_rows().into_iter().chain(head_rows()) {
        // Cut anywhere and let go.
        for part in [1, 2, 3] {
            site.connect().send(&bytes[..bytes.len() * part / 4]);
        }
    }
    let token = site.log_in("alice");
    assert_eq!(site.get("/api/x").bearer(&token).send().status, 200);
    assert!(!site.gateway.stderr().contains("panicked"));
}

#[test]
fn two_hundred_slow_callers_do_not_hold_up_a_quick_one() {
    let site = Site::start();
    let slow: Vec<Connection> = (0..200)
        .map(|number| {
            let mut connection = site.connect();
            let head =
                "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n12345";
            // Some stand still in the head, some in the body.
            connection.send(if number % 2 == 0 { &head[..40] } else { head });
            connection
        })
        .collect();
    mostly_within(Duration::from_secs(2), || {
        assert_eq!(site.get("/open/x").send().status, 200);
    });
    drop(slow);
}

#[test]
fn a_gateway_out_of_file_descriptors_serves_again_when_there_are_some() {
    let mut site = Site::start();
    site.gateway.limit_open_files(100);
    let mut hoard: Vec<std::net::TcpStream> = (0..200)
        .filter_map(|_| std::net::TcpStream::connect(site.gateway.address()).ok())
        .collect();
    assert!(site.gateway.is_running());
    hoard.clear();
    within(Duration::from_secs(5), "it serves again", || {
        site.get("/open/x").try_send().is_ok_and(|answer| answer.status == 200)
    });
    assert!(site.gateway.is_running());
}

#[test]
fn close_ends_the_connection_wherever_it_is_said() {
    let site = Site::start();
    for lines in [
        "Connection: keep-alive\r\nConnection: close\r\n",
        "Connection: close\r\nConnection: keep-alive\r\n",
        "Connection: keep-alive, Close\r\n",
    ] {
        let mut connection = site.connect();
        let answer = connection.send(get(lines)).answer();
        assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")), "{lines}");
        assert!(connection.is_closed_by_gateway(), "{lines}");
    }
}

#[test]
fn a_badly_chunked_body_that_comes_with_its_head_reaches_no_backend() {
    let site = Site::start();
    for body in ["zz\r\nhello\r\n", "5\nhello\r\n", "3\r\nhello\r\n", "5\r\nhello\r\n-1\r\n"] {
        let answer = site.raw(post("Transfer-Encoding: chunked\r\n", body));
        answer.assert_refused(400, "invalid_request");
    }
    assert_eq!(site.upstream.connections(), 0);
}
