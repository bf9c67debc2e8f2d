//! WebSockets pass; the token is checked at the upgrade.

use std::time::Duration;

use crate::harness::token::{Forge, unix_seconds};
use crate::harness::wechat::openid_of;
use crate::harness::{Connection, Reply, Site, size, within};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn upgrade(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

fn site() -> Site {
    let site = Site::start();
    for path in ["/api/ws", "/open/ws", "/maybe/ws"] {
        site.upstream.answers(path, Reply::raw(SWITCH).then_echo());
    }
    site
}

/// Opens a WebSocket that echoes.
#[track_caller]
fn open(site: &Site, token: &str) -> Connection {
    let mut connection = site.connect();
    connection.send(upgrade("/api/ws", &format!("Authorization: Bearer {token}\r\n")));
    let answer = connection.head("GET").unwrap();
    assert_eq!(answer.status, 101);
    connection
}

#[track_caller]
fn assert_echoes(connection: &mut Connection, text: &[u8]) {
    connection.send(text);
    assert_eq!(connection.read_exactly(text.len()), text);
}

#[test]
fn a_websocket_passes_with_its_identity() {
    let site = site();
    let token = site.log_in("alice");
    let mut connection = site.connect();
    connection.send(upgrade("/api/ws", &format!("Authorization: Bearer {token}\r\n")));
    let answer = connection.head("GET").unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("Upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
    assert_eq!(answer.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for round in 0..10_u8 {
        assert_echoes(&mut connection, &[0x81, 0x02, round, 0xff]);
    }
    assert_echoes(&mut connection, &vec![7; 300_000]);
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    assert_eq!(seen.header("Upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
    assert_eq!(seen.header("Connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(seen.header("Sec-WebSocket-Key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert!(seen.values("Authorization").is_empty());
}

#[test]
fn the_answer_to_an_upgrade_tells_when_the_token_ends_as_others_do() {
    let site = site();
    let forged = SWITCH.replacen("\r\n", "\r\nX-Session-Expires-In: 1\r\n", 1);
    site.upstream.answers("/api/ws", Reply::raw(forged).then_echo());
    let now = unix_seconds();
    let old = Forge::of("alice").claim("iat", now - 7_000).claim("exp", now + 200).token();
    let fresh = Forge::of("alice").claim("iat", now).claim("exp", now + 7_200).token();
    for (token, told) in [(old, true), (fresh, false)] {
        let mut connection = site.connect();
        connection.send(upgrade("/api/ws", &format!("Authorization: Bearer {token}\r\n")));
        let answer = connection.head("GET").unwrap();
        assert_eq!(answer.status, 101);
        let left: Option<u64> =
            answer.header("X-Session-Expires-In").map(|left| left.parse().unwrap());
        assert_eq!(left.is_some_and(|left| left > 100), told, "{left:?}");
        assert_eq!(left.is_some(), told);
    }
}

#[test]
fn bytes_sent_with_the_upgrade_reach_the_backend_after_it() {
    let site = site();
    let token = site.log_in("alice");
    let mut connection = site.connect();
    let head = upgrade("/api/ws", &format!("Authorization: Bearer {token}\r\n"));
    connection.send(format!("{head}early"));
    let answer = connection.head("GET").unwrap();
    if answer.status == 101 {
        assert_eq!(connection.read_exactly(5), b"early");
    }
}

#[test]
fn a_websocket_without_a_good_token_is_401() {
    let site = site();
    let ended = site.log_in("alice");
    site.post("/wx/logout").bearer(&ended).send();
    let answer = site.raw(upgrade("/api/ws", ""));
    answer.assert_refused(401, "unauthorized");
    for token in ["bad", &ended] {
        let answer = site.raw(upgrade("/api/ws", &format!("Authorization: Bearer {token}\r\n")));
        answer.assert_refused(401, "invalid_token");
        let answer = site.raw(upgrade("/maybe/ws", &format!("Authorization: Bearer {token}\r\n")));
        answer.assert_refused(401, "invalid_token");
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn a_spoofed_identity_does_not_pass_an_upgrade() {
    let site = site();
    let spoof = "X-WX-OPENID: evil\r\nx_wx_openid: evil\r\nX.WX.APPID: evil\r\n";
    for path in ["/open/ws", "/maybe/ws"] {
        let mut connection = site.connect();
        connection.send(upgrade(path, spoof));
        assert_eq!(connection.head("GET").unwrap().status, 101);
        assert!(!site.upstream.last().raw().contains("evil"), "{}", site.upstream.last().raw());
    }
}

#[test]
fn a_backend_may_refuse_an_upgrade() {
    let site = site();
    site.upstream.answers("/open/no", Reply::with_body("426 Upgrade Required", &[], "no"));
    let mut connection = site.connect();
    connection.send(upgrade("/open/no", ""));
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
    connection.send("GET /open/smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    if let Ok(next) = connection.try_answer("GET") {
        assert_eq!(next.text(), "hello", "what follows is a request and judged as one");
    }
}

#[test]
fn other_upgrades_are_not_passed_on() {
    let site = Site::start();
    for protocol in ["h2c", "TLS/1.0", "foo", "websocket2"] {
        site.upstream.forget();
        let answer = site
            .get("/open/x")
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", protocol)
            .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
            .send();
        assert!(matches!(answer.status, 200 | 400), "{protocol}: {}", answer.status);
        for seen in site.upstream.requests() {
            assert!(seen.values("Upgrade").is_empty(), "{protocol}: {}", seen.raw());
            assert!(seen.values("HTTP2-Settings").is_empty(), "{protocol}: {}", seen.raw());
        }
    }
}

#[test]
fn an_upgrade_header_without_connection_is_an_ordinary_request() {
    let site = Site::start();
    let answer = site.get("/open/x").header("Upgrade", "websocket").send();
    assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
    for seen in site.upstream.requests() {
        assert!(seen.values("Upgrade").is_empty(), "{}", seen.raw());
    }
}

#[test]
fn a_kicked_sessions_websocket_is_closed_within_two_seconds() {
    let site = site();
    let (kicked, other) = (site.log_in("alice"), site.log_in("alice"));
    let (mut first, mut second) = (open(&site, &kicked), open(&site, &other));
    assert_echoes(&mut first, b"one");
    assert_echoes(&mut second, b"two");
    assert_eq!(site.post("/wx/logout").bearer(&kicked).send().status, 204);
    first.stream().set_read_timeout(Some(Duration::from_millis(2_500))).unwrap();
    assert!(first.is_closed_by_gateway(), "still open");
    assert_echoes(&mut second, b"still here");
}

#[test]
fn a_kicked_sessions_event_stream_is_closed_within_two_seconds() {
    let site = Site::start();
    site.upstream.answers(
        "/api/events",
        Reply::raw(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
             d\r\ndata: first\n\n\r\n",
        )
        .then_hang(),
    );
    let token = site.log_in("alice");
    let mut connection = site.connect();
    connection.send(site.get("/api/events").bearer(&token).bytes());
    assert_eq!(connection.head("GET").unwrap().status, 200);
    connection.read_exactly("d\r\ndata: first\n\n\r\n".len());
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    connection.stream().set_read_timeout(Some(Duration::from_millis(2_500))).unwrap();
    assert!(connection.is_closed_by_gateway(), "still open");
}

#[test]
fn a_token_that_merely_expires_closes_no_websocket() {
    let site = site();
    let token = Forge::of("alice").claim("exp", unix_seconds() + 2).token();
    let mut connection = open(&site, &token);
    within(Duration::from_secs(10), "the token expires", || {
        site.get("/api/x").bearer(&token).send().status == 401
    });
    assert_echoes(&mut connection, b"still here");
}

#[test]
fn the_end_of_one_side_ends_the_other() {
    let site = site();
    let token = site.log_in("alice");
    let mut connection = open(&site, &token);
    assert_echoes(&mut connection, b"hello");
    site.upstream.close_connections();
    assert!(connection.rest().is_some(), "the backend left and the caller was not told");
    let connection = open(&site, &token);
    drop(connection);
    crate::harness::eventually("the backend is told", || site.upstream.open_connections() == 0);
}

#[test]
fn an_hours_worth_of_messages_passes_in_bounded_memory() {
    let site = site();
    let token = site.log_in("alice");
    let mut connection = open(&site, &token);
    assert_echoes(&mut connection, b"warm");
    let before = site.gateway.resident_memory();
    // Ten a second for an hour.
    for number in 0..size(6_000, 36_000) {
        assert_echoes(&mut connection, format!("message {number:0500}").as_bytes());
    }
    let grown = site.gateway.peak_memory().saturating_sub(before) >> 10;
    assert!(grown < 4096, "grew by {grown} KiB");
}
