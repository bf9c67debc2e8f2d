//! HTTP/2 to the letter of RFC 9113: what is malformed is an error of its stream or its
//! connection, never a request, and floods of frames end with their connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, block, frame, request, setting,
};
use crate::harness::tls::Authority;
use crate::harness::{DEADLINE, Site, eventually};
use crate::tls;

fn start() -> (Site, Arc<ClientConfig>) {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).start();
    (site, authority.client(&["h2"]))
}

/// HEADERS of a whole request without a body.
fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&request("GET", path, &[])))
}

/// HEADERS of a request whose body follows.
fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&request("POST", path, &[])))
}

/// What is sent after the prefaces, frame by frame.
type Case = (&'static str, Vec<Vec<u8>>);

/// Sends every case on a connection of its own, and asserts how it ends.
fn assert_outcomes(cases: &[Case], allowed: &[Outcome]) {
    let (site, client) = start();
    for (name, frames) in cases {
        let mut raw = Raw::open(site.gateway.address(), &client);
        // Whether the gateway stops reading before the last frame is its own business.
        raw.send(&frames.concat());
        let outcome = raw.outcome(1, DEADLINE);
        assert!(allowed.contains(&outcome), "{name}: {outcome:?}");
    }
    assert!(site.upstream.requests_to("/open/bad").iter().all(|seen| !seen.complete));
    assert!(site.upstream.garbage().is_empty());
    let mut raw = Raw::open(site.gateway.address(), &client);
    raw.send(&get(1, "/open/good"));
    assert_eq!(raw.outcome(1, DEADLINE), Outcome::Served);
}

#[test]
fn frames_that_break_the_framing_end_the_connection() {
    let whole = block(&request("GET", "/open/bad", &[]));
    let (first, second) = whole.split_at(10);
    let cases = [
        ("settings of a stream", vec![frame(SETTINGS, 0, 1, &[])]),
        ("settings of five bytes", vec![frame(SETTINGS, 0, 0, &[0; 5])]),
        ("an acknowledgement with settings", vec![frame(SETTINGS, 1, 0, &setting(1, 1))]),
        ("push neither on nor off", vec![frame(SETTINGS, 0, 0, &setting(2, 2))]),
        ("a window of 2^31", vec![frame(SETTINGS, 0, 0, &setting(4, 1 << 31))]),
        ("frames of less than 16384", vec![frame(SETTINGS, 0, 0, &setting(5, 16_383))]),
        ("frames of 2^24", vec![frame(SETTINGS, 0, 0, &setting(5, 1 << 24))]),
        ("data of no stream", vec![frame(DATA, 0, 0, b"x")]),
        ("headers of no stream", vec![get(0, "/open/bad")]),
        ("a reset of no stream", vec![frame(RST_STREAM, 0, 0, &[0; 4])]),
        ("a priority of no stream", vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1])]),
        ("a continuation of no stream", vec![frame(CONTINUATION, END_HEADERS, 0, &whole)]),
        ("a stream of the server's", vec![get(2, "/open/bad")]),
        ("a stream before the last", vec![get(5, "/open/good"), get(3, "/open/bad")]),
        ("data of an idle stream", vec![frame(DATA, END_STREAM, 1, b"x")]),
        ("a reset of an idle stream", vec![frame(RST_STREAM, 0, 1, &[0; 4])]),
        ("a window of an idle stream", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])]),
        ("a frame of 16385 bytes", vec![post(1, "/open/bad"), frame(DATA, 0, 1, &[0; 16_385])]),
        ("headers of 16385 bytes", vec![frame(HEADERS, END_HEADERS, 1, &[0; 16_385])]),
        ("a window update of 0", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ("a window beyond 2^31", vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])]),
        ("a window update of three bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        ("a ping of seven bytes", vec![frame(PING, 0, 0, &[0; 7])]),
        ("a ping of a stream", vec![frame(PING, 0, 1, &[0; 8])]),
        ("a goaway of a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("a reset of three bytes", vec![post(1, "/open/bad"), frame(RST_STREAM, 0, 1, &[0; 3])]),
        (
            "a promise",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &whole[..]].concat())],
        ),
        ("a continuation of nothing", vec![frame(CONTINUATION, END_HEADERS, 1, &whole)]),
        (
            "a continuation of what was whole",
            vec![post(1, "/open/bad"), frame(CONTINUATION, END_HEADERS, 1, second)],
        ),
        (
            "another frame among continuations",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(PING, 0, 0, &[0; 8])],
        ),
        (
            "another stream among continuations",
            vec![frame(HEADERS, END_STREAM, 1, first), get(3, "/open/bad")],
        ),
        (
            "another stream's continuation",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, second)],
        ),
        ("data that is padding", vec![post(1, "/open/bad"), frame(DATA, PADDED, 1, &[9, 0, 0])]),
        ("headers that are padding", vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0, 0])]),
        ("an index of no table", vec![frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x00])]),
        ("the index 0", vec![frame(HEADERS, END_HEADERS, 1, &[0x80])]),
        (
            "a table larger than allowed",
            vec![frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe2, 0xff, 0x03])],
        ),
        ("a literal cut short", vec![frame(HEADERS, END_HEADERS, 1, &[0, 9, b'a'])]),
    ];
    assert_outcomes(&cases, &[Outcome::ConnectionError]);
}

#[test]
fn what_breaks_a_stream_ends_it_or_its_connection() {
    let cases = [
        ("a window update of 0", vec![post(1, "/open/bad"), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
        (
            "a window beyond 2^31",
            vec![post(1, "/open/bad"), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])],
        ),
        (
            "headers in the middle",
            vec![post(1, "/open/bad"), frame(HEADERS, END_HEADERS, 1, &block(&[("a", "b")]))],
        ),
        (
            "less than its content-length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &block(&request("POST", "/open/bad", &[("content-length", "5")])),
                ),
                frame(DATA, END_STREAM, 1, b"four"),
            ],
        ),
        (
            "more than its content-length",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &block(&request("POST", "/open/bad", &[("content-length", "3")])),
                ),
                frame(DATA, END_STREAM, 1, b"four"),
            ],
        ),
    ];
    // Where the request was answered before its fault was seen, that answer stands.
    assert_outcomes(&cases, &[Outcome::StreamError, Outcome::ConnectionError, Outcome::Answered]);
}

#[test]
fn malformed_requests_are_refused_and_not_forwarded() {
    let with =
        |name: &'static str, value: &'static str| request("GET", "/open/bad", &[(name, value)]);
    let without = |name: &str| {
        let mut fields = request("GET", "/open/bad", &[]);
        fields.retain(|(known, _)| *known != name);
        fields
    };
    let mut late = request("GET", "/open/bad", &[]);
    late.insert(1, ("x-early", "1"));
    let cases = [
        ("an upper-case name", with("X-Upper", "1")),
        ("a name with a space", with("x y", "1")),
        ("a name with a colon", with("x:y", "1")),
        ("an empty name", with("", "1")),
        ("a value with NUL", with("x-nul", "a\0b")),
        ("a value with CR", with("x-cr", "a\rb")),
        ("a value with LF", with("x-lf", "a\nX-WX-OPENID: evil")),
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "1")),
        ("proxy-connection", with("proxy-connection", "1")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te that is not trailers", with("te", "gzip")),
        ("an unknown pseudo-header", with(":unknown", "1")),
        ("a pseudo-header of answers", with(":status", "200")),
        ("a pseudo-header behind a header", late),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("two methods", with(":method", "GET")),
        ("two paths", with(":path", "/open/bad")),
        ("two schemes", with(":scheme", "https")),
        ("two authorities", with(":authority", "other.example.com")),
        ("another host", with("host", "other.example.com")),
        ("an empty path", request("GET", "", &[])),
        ("a path without a slash", request("GET", "open/bad", &[])),
        ("a path that is a star", request("GET", "*", &[])),
        ("a length without a body", with("content-length", "5")),
        ("a length that is none", with("content-length", "5x")),
    ];
    let cases: Vec<Case> = cases
        .into_iter()
        .map(|(name, fields)| {
            (name, vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))])
        })
        .collect();
    assert_outcomes(&cases, &[Outcome::StreamError, Outcome::ConnectionError, Outcome::Answered]);
}

#[test]
fn what_is_unknown_or_allowed_is_served() {
    let fields = block(&request("GET", "/open/good", &[("te", "trailers")]));
    let (first, second) = fields.split_at(7);
    let padded = [&[3][..], &fields, &[0; 3]].concat();
    let cases = [
        ("unknown frames", vec![frame(0xf0, 0xff, 0, b"?"), get(1, "/open/good")]),
        ("unknown settings", vec![frame(SETTINGS, 0, 0, &setting(0xff, 1)), get(1, "/open/good")]),
        ("unknown flags", vec![frame(HEADERS, 0xd5 & !PADDED & !0x20, 1, &fields)]),
        ("padding", vec![frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &padded)]),
        (
            "continuations",
            vec![
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, second),
            ],
        ),
        ("a priority", vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), get(1, "/open/good")]),
        (
            "padded data and trailers",
            vec![
                post(1, "/open/good"),
                frame(DATA, PADDED, 1, &[2, b'x', 0, 0]),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-t", "1")])),
            ],
        ),
    ];
    assert_outcomes(&cases, &[Outcome::Served]);
}

#[test]
fn a_connection_that_does_not_begin_as_it_should_is_ended() {
    let (site, client) = start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for begin in [
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        b"GET /open/bad HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        [&preface[..], &frame(PING, 0, 0, &[0; 5])].concat(),
    ] {
        let mut raw = Raw::open_with(site.gateway.address(), &client, &begin);
        assert_eq!(raw.outcome(1, DEADLINE), Outcome::ConnectionError, "{}", begin.escape_ascii());
    }
    for (first, frames) in [
        ("a ping", [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])].concat()),
        ("an acknowledgement", [frame(SETTINGS, 1, 0, &[]), get(1, "/open/bad")].concat()),
        ("a request", get(1, "/open/bad")),
    ] {
        let begin = [&preface[..], &frames].concat();
        let mut raw = Raw::open_with(site.gateway.address(), &client, &begin);
        let mut answers = std::iter::from_fn(|| raw.read(DEADLINE).ok());
        let goaway = answers.find(|(kind, ..)| *kind == GOAWAY).map(|(.., payload)| payload);
        // The last stream, and PROTOCOL_ERROR.
        assert_eq!(goaway, Some(vec![0, 0, 0, 0, 0, 0, 0, 1]), "{first}");
        assert_eq!(raw.read(DEADLINE), Err(true), "{first}");
    }
    // However the bytes come.
    let mut raw = Raw::open_with(site.gateway.address(), &client, &[]);
    for byte in [&preface[..], &frame(SETTINGS, 0, 0, &setting(2, 0))].concat() {
        assert!(raw.send(&[byte]));
    }
    raw.send(&get(1, "/open/good"));
    assert_eq!(raw.outcome(1, DEADLINE), Outcome::Served);
    assert!(site.upstream.requests_to("/open/bad").is_empty());
    let mut raw = Raw::open(site.gateway.address(), &client);
    raw.send(&frame(PING, 0, 0, b"12345678"));
    let answer = std::iter::from_fn(|| raw.read(DEADLINE).ok()).find(|frame| frame.0 == PING);
    assert_eq!(
        answer.map(|(_, flags, _, payload)| (flags, payload)),
        Some((1, b"12345678".to_vec()))
    );
}

#[test]
fn nothing_of_trailers_reaches_a_backend() {
    let (site, client) = start();
    for trailers in [[(":path", "/open/bad")], [("x-wx-openid", "evil")]] {
        let mut raw = Raw::open(site.gateway.address(), &client);
        raw.send(&post(1, "/open/good"));
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)));
        assert_ne!(raw.outcome(1, DEADLINE), Outcome::Nothing);
    }
    for seen in site.upstream.requests() {
        assert_eq!((seen.target.as_str(), seen.trailers.len()), ("/open/good", 0));
        assert!(!seen.raw().contains("evil"), "{}", seen.raw());
    }
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_others_are_served() {
    let (site, client) = start();
    site.upstream.answers("/open/slow", crate::harness::Reply::default().then_hang());
    let mut raw = Raw::open(site.gateway.address(), &client);
    // The client has heard of the limit once it acknowledges the settings.
    while !matches!(raw.read(DEADLINE), Ok((SETTINGS, 0, ..))) {}
    raw.send(&frame(SETTINGS, 1, 0, &[]));
    for stream in 0..100 {
        raw.send(&get(stream * 2 + 1, "/open/slow"));
    }
    raw.send(&get(201, "/open/bad"));
    let outcome = raw.outcome(201, DEADLINE);
    assert!(matches!(outcome, Outcome::StreamError | Outcome::ConnectionError), "{outcome:?}");
    assert!(site.upstream.requests_to("/open/bad").is_empty());
}

#[test]
fn floods_of_frames_cost_neither_memory_nor_other_clients() {
    let (site, client) = start();
    let mut warm = Raw::open(site.gateway.address(), &client);
    warm.send(&get(1, "/open/good"));
    assert_eq!(warm.outcome(1, DEADLINE), Outcome::Served);
    let before = site.gateway.resident_memory();
    let endless = frame(CONTINUATION, 0, 1, &block(&[("x-flood", &"a".repeat(1000))]));
    let reset = |stream: u32| {
        [get(stream, "/open/slow"), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    // What begins the flood, one part of it, and how often that is sent.
    let floods: [(&str, Vec<u8>, Vec<u8>, usize); 5] = [
        ("continuations", frame(HEADERS, END_STREAM, 1, &[]), endless, 20_000),
        ("settings", Vec::new(), frame(SETTINGS, 0, 0, &setting(4, 65_535)), 200_000),
        ("pings", Vec::new(), frame(PING, 0, 0, &[7; 8]), 200_000),
        ("empty data", post(1, "/open/slow"), frame(DATA, 0, 1, &[]), 200_000),
        ("resets", Vec::new(), Vec::new(), 20_000),
    ];
    for (name, begin, part, count) in floods {
        let mut raw = Raw::open(site.gateway.address(), &client);
        raw.send(&begin);
        // It never reads what the gateway says to it.
        raw.limit_sending(Duration::from_secs(2));
        let mut sent = 0;
        while sent < count {
            let bytes = match part.is_empty() {
                true => (sent..sent + 100).flat_map(|at| reset(at as u32 * 2 + 1)).collect(),
                false => part.repeat(100),
            };
            if !raw.send(&bytes) {
                break;
            }
            sent += 100;
        }
        let mut polite = Raw::open(site.gateway.address(), &client);
        polite.send(&get(1, "/open/good"));
        assert_eq!(polite.outcome(1, DEADLINE), Outcome::Served, "{name}");
        let grown = site.gateway.peak_memory().saturating_sub(before) >> 20;
        assert!(grown < 48, "{name}: grew by {grown} MiB after {sent}");
    }
    eventually("nothing is left of them", || {
        site.gateway.metric("wxgate_http_requests_in_flight", &[]) == 0.0
    });
}
