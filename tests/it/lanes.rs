//! Two lanes, one behaviour: whatever a client sends and a backend answers, the fast lane and the
//! full one do the same with it.

mod pairs;

use crate::harness::client::{Framing, ReadError};
use crate::harness::token::Forge;
use crate::harness::{Answer, Connection, Recorded, Reply, Site, eventually};
use pairs::Pair;

const PAIRS: u64 = 2_400;

/// A gateway with one lane, and a client's connection to it.
struct Lane {
    site: Site,
    connection: Connection,
}

/// What a pair led to, in a form that can be compared.
#[derive(Debug, PartialEq)]
struct Outcome {
    answer: Result<Answered, &'static str>,
    requests: Vec<Seen>,
}

#[derive(Debug, PartialEq)]
struct Answered {
    status: u16,
    interim: Vec<u16>,
    body: Vec<u8>,
    has_body: bool,
    headers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body_length: u64,
    body: Vec<u8>,
    complete: bool,
    trailers: Vec<String>,
}

/// What may differ in a request as the upstream sees it, and why.
const FREE_REQUEST_HEADERS: [&str; 1] = [
    // Made anew for every request.
    "x-request-id",
];

/// What may differ in an answer as the client sees it, and why.
const FREE_ANSWER_HEADERS: [&str; 5] = [
    "x-request-id",
    // The full lane writes its own, the fast lane leaves the backend's.
    "date",
    // Each lane frames the answer for the client as it sees fit; that it frames it rightly is
    // seen by the body. The full lane leaves a doubtful connection open less often.
    "connection",
    "content-length",
    "transfer-encoding",
];

/// By name, since each lane writes different names in an order of its own; the lines of one name
/// stay in theirs.
fn comparable(headers: &[(String, String)], free: &[&str]) -> Vec<(String, String)> {
    let lower = |(name, value): &(String, String)| (name.to_ascii_lowercase(), value.clone());
    let mut headers: Vec<_> = headers.iter().map(lower).collect();
    headers.retain(|(name, _)| !free.contains(&name.as_str()));
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    headers
}

fn seen(request: &Recorded) -> Seen {
    Seen {
        line: format!("{} {}", request.method, request.target),
        headers: comparable(&request.headers, &FREE_REQUEST_HEADERS),
        body_length: request.body_length,
        body: request.body.clone(),
        complete: request.complete,
        trailers: request.trailers.clone(),
    }
}

impl Lane {
    fn start(fast: bool) -> Self {
        let site = Site::with()
            .server(&format!("fast_lane = {fast}"))
            .server("threads = 1")
            .upstream("retries = 0")
            .start();
        let connection = site.connect();
        Self { site, connection }
    }

    fn play(&mut self, pair: &Pair) -> Outcome {
        self.site.upstream.forget();
        self.site.upstream.answers(&pair.path, pair.reply.clone());
        let answer = self.send(pair);
        let requests = self.site.upstream.requests();
        Outcome { answer, requests: requests.iter().map(seen).collect() }
    }

    fn send(&mut self, pair: &Pair) -> Result<Answered, &'static str> {
        for piece in &pair.request {
            self.connection.send(piece);
        }
        let answer = self.connection.try_answer(pair.method);
        let goes_on =
            |answer: &Answer| answer.header("Connection").is_some_and(|word| word == "keep-alive");
        if !answer.as_ref().is_ok_and(goes_on) {
            self.connection = self.site.connect();
        }
        let answer = answer.map_err(|error| match error {
            // How much of an answer that breaks off had left before is a matter of time.
            ReadError::Closed | ReadError::Cut(_) => "broken off",
            ReadError::TimedOut => "timed out",
            ReadError::Malformed(_) => "malformed",
        })?;
        // A refusal names its request.
        let is_ours = answer.status >= 400 && answer.text().contains("\"request_id\"");
        Ok(Answered {
            status: answer.status,
            interim: answer.interim.clone(),
            has_body: answer.framing != Framing::None,
            headers: comparable(&answer.headers, &FREE_ANSWER_HEADERS),
            body: if is_ours { Vec::new() } else { answer.body },
        })
    }
}

#[test]
fn both_lanes_do_the_same_with_every_request_and_every_answer() {
    let (mut fast, mut full) = (Lane::start(true), Lane::start(false));
    let token = Forge::of("alice").token();
    let mut differences = Vec::new();
    for number in 0..PAIRS {
        let pair = Pair::of(number, &token);
        let (fast, full) = (fast.play(&pair), full.play(&pair));
        if fast != full {
            let request = String::from_utf8_lossy(&pair.request.concat()).into_owned();
            let request = request.chars().take(1_000).collect::<String>();
            let (fast, full, answer) = (short(&fast), short(&full), pair.answer);
            differences.push(format!(
                "pair {number}: {request}\nanswer {answer}\nfast: {fast}\nfull: {full}\n"
            ));
        }
    }
    let some: Vec<_> = differences.iter().take(12).cloned().collect();
    assert!(differences.is_empty(), "{} pairs differ\n{}", differences.len(), some.join("\n"));
    for lane in [&fast, &full] {
        assert!(lane.site.upstream.garbage().is_empty(), "{:?}", lane.site.upstream.garbage());
    }
}

/// Without the bytes of bodies.
fn short(outcome: &Outcome) -> String {
    let text = format!("{outcome:?}");
    let kept = text.split(", ").filter(|part| part.parse::<u8>().is_err());
    kept.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_request_that_is_cut_at_any_byte_arrives_as_it_is() {
    let site = Site::start();
    let request = b"POST /open/cut?a=1 HTTP/1.1\r\nHost: shop.test\r\nX-A: b\r\n\
        Content-Length: 5\r\n\r\nhello";
    let mut connection = site.connect();
    for at in 1..request.len() {
        let (first, second) = request.split_at(at);
        connection.send(first);
        // Nobody can be asked whether the gateway has read the first part; mostly it has.
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        connection.send(second);
        assert_eq!(connection.answer().status, 200, "cut at {at}");
        let seen = site.upstream.last();
        assert_eq!((seen.target.as_str(), seen.body.as_slice()), ("/open/cut?a=1", &b"hello"[..]));
    }
    assert_eq!(site.upstream.requests().len(), request.len() - 1);
}

#[test]
fn an_answer_that_is_cut_at_any_byte_arrives_as_it_is() {
    let site = Site::start();
    let answer = b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n";
    let mut connection = site.connect();
    for at in 1..answer.len() {
        let (first, second) = answer.split_at(at);
        site.upstream.answers("/open/cut", Reply::raw(first).then(second));
        let answer = site.get("/open/cut").send_on(&mut connection);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello!"), "cut at {at}");
        assert_eq!(answer.header("X-A"), Some("b"));
    }
}

#[test]
fn pipelined_requests_of_both_lanes_are_answered_in_their_order() {
    let site = Site::start();
    let mut bytes = Vec::new();
    for round in 0..20 {
        site.upstream.answers(&format!("/open/{round}"), Reply::ok(&format!("answer {round}")));
        let head = format!("POST /open/{round} HTTP/1.1\r\nHost: shop.test\r\n");
        bytes.extend(
            match round % 3 {
                0 => format!("{head}Content-Length: 3\r\n\r\nabc"),
                1 => format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
                _ => format!("{head}\r\n"),
            }
            .into_bytes(),
        );
    }
    let mut connection = site.connect();
    connection.send(bytes);
    for round in 0..20 {
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text()), (200, format!("answer {round}")));
    }
    assert!(site.upstream.garbage().is_empty());
}

#[test]
fn a_connection_that_said_too_much_serves_nobody_again() {
    let site = Site::with().server("threads = 1").upstream("retries = 0").start();
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (number, honest) in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/open/poison{number}");
        for late in [false, true] {
            let reply = if late {
                Reply::raw(honest).then_await_release().then(evil)
            } else {
                Reply::raw(format!("{honest}{evil}"))
            };
            site.upstream.answers(&path, reply);
            let first = site.get(&path).send();
            assert!(matches!(first.status, 200 | 204 | 304), "{}", first.status);
            site.upstream.release();
            eventually("the connection is closed", || site.upstream.open_connections() == 0);
            let next = site.get("/open/next").send();
            assert_eq!((next.status, next.text().as_str()), (200, "hello"), "{honest}");
            site.upstream.close_connections();
            eventually("the next connection is closed", || site.upstream.open_connections() == 0);
        }
    }
}

#[test]
fn an_early_answer_ends_both_connections() {
    let site = Site::with().server("threads = 1").start();
    site.upstream.answers("/open/early", Reply::ok("early").before_body());
    let mut connection = site.connect();
    connection.send(
        "POST /open/early HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000\r\n\r\n\
         GET /open/smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    );
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
    assert_eq!(answer.header("Connection"), Some("close"));
    eventually("the backend's connection is closed", || site.upstream.open_connections() == 0);
    assert_eq!(site.get("/open/next").send().text(), "hello");
}

#[test]
fn both_directions_go_on_at_once() {
    let site = Site::start();
    let reply = Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 7900000\r\n\r\n").then_echo();
    site.upstream.answers("/open/echo", reply.before_body());
    let mut connection = site.connect();
    connection
        .send("POST /open/echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 8000000\r\n\r\n");
    let mut writer = connection.stream().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let block = vec![b'e'; 80_000];
        for _ in 0..100 {
            std::io::Write::write_all(&mut writer, &block).unwrap();
        }
    });
    let answer = connection.answer();
    assert_eq!((answer.status, answer.body.len()), (200, 7_900_000));
    assert!(answer.body.iter().all(|byte| *byte == b'e'));
    sender.join().unwrap();
}

#[test]
fn a_client_of_http_1_0_keeps_its_connection_whatever_else_it_names() {
    let site = Site::start();
    for connection in ["keep-alive", "Keep-Alive, X-Custom", "x-custom , keep-alive"] {
        let mut client = site.connect();
        for _ in 0..2 {
            client.send(format!(
                "GET /open/x HTTP/1.0\r\nHost: shop.test\r\nConnection: {connection}\r\nX-Custom: 1\r\n\r\n"
            ));
            let answer = client.answer();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("keep-alive")));
            let named = connection != "keep-alive";
            let passes = site.upstream.last().header("X-Custom").is_some();
            assert_eq!(passes, !named, "{connection}");
            assert_eq!(site.upstream.last().header("Connection"), None, "{connection}");
        }
    }
}

#[test]
fn a_head_that_outgrows_the_full_lane_is_431_and_says_so() {
    let site = Site::with().server("max_header_bytes = \"1MiB\"").start();
    let head = |filler: usize| {
        let mut head =
            "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n".to_owned();
        for number in 0..16 {
            head += &format!("X-{number}: {}\r\n", "a".repeat(60_000));
        }
        head + &format!("X-Filler: {}\r\n\r\n0\r\n\r\n", "a".repeat(filler))
    };
    assert_eq!(site.connect().send(head(80_000)).answer().status, 200);
    let whole = 1024 * 1024 - head(0).len();
    site.connect().send(head(whole)).answer().assert_refused(431, "header_fields_too_large");
    // It is not larger than it may be; what is added makes it so.
    let answer = site.connect().send(head(whole - 300)).answer();
    answer.assert_refused(431, "header_fields_too_large");
    assert!(answer.header("X-Request-Id").is_some());
}
