//! Bodies stream through in both directions; nothing is held whole; framing stays right.

use std::time::{Duration, Instant};

use crate::harness::client::Framing;
use crate::harness::upstream::block;
use crate::harness::{Connection, Reply, Site, eventually, for_as_long_as};

const MIB: u64 = 1024 * 1024;

/// Sends so many bytes of `block()` over and over.
fn send_blocks(connection: &mut Connection, mut left: u64) {
    let block = block();
    while left > 0 {
        let now = left.min(block.len() as u64);
        connection.try_send(&block[..now as usize]).unwrap();
        left -= now;
    }
}

#[test]
fn an_upload_of_512_mib_passes_in_constant_memory() {
    let site = Site::with().server("max_body_bytes = \"1GiB\"").start();
    let token = site.log_in("alice");
    assert_eq!(site.post("/api/x").bearer(&token).body("warm").send().status, 200);
    let before = site.gateway.resident_memory();
    let length = 512 * MIB;
    let mut connection = site.connect();
    connection.send(format!(
        "POST /api/upload HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n"
    ));
    send_blocks(&mut connection, length);
    assert_eq!(connection.answer().status, 200);
    let seen = site.upstream.last();
    assert_eq!(seen.body_length, length);
    assert!(seen.body_is_blocks && seen.complete, "the body changed on the way");
    let grown = site.gateway.peak_memory().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
}

#[test]
fn a_download_of_512_mib_passes_in_constant_memory() {
    let site = Site::start();
    let token = site.log_in("alice");
    assert_eq!(site.get("/api/x").bearer(&token).send().status, 200);
    let before = site.gateway.resident_memory();
    let length = 512 * MIB;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    site.upstream.answers("/api/download", Reply::raw(head).then_stream(length));
    let mut connection = site.connect();
    connection.send(site.get("/api/download").bearer(&token).bytes());
    let answer = connection.head("GET").unwrap();
    assert_eq!((answer.status, answer.framing), (200, Framing::Length(length)));
    let block = block();
    let mut left = length;
    while left > 0 {
        let now = left.min(block.len() as u64) as usize;
        assert!(connection.read_exactly(now) == block[..now], "the body changed on the way");
        left -= now as u64;
    }
    let grown = site.gateway.peak_memory().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
    assert_eq!(site.get("/api/x").bearer(&token).send_on(&mut connection).status, 200);
}

#[test]
fn a_caller_that_does_not_read_holds_the_backend_back() {
    let site = Site::start();
    let before = site.gateway.resident_memory();
    let length = 256 * MIB;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    site.upstream.answers("/open/download", Reply::raw(head).then_stream(length));
    let mut connection = site.connect();
    connection.send(site.get("/open/download").bytes());
    assert_eq!(connection.head("GET").unwrap().status, 200);
    for_as_long_as(Duration::from_secs(2), "memory stays flat", || {
        site.gateway.resident_memory().saturating_sub(before) < 32 * MIB
    });
}

#[test]
fn a_chunked_upload_arrives_whole() {
    let site = Site::start();
    let block = block();
    let mut request =
        b"POST /open/x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = &block[..];
    let mut size = 1;
    while !rest.is_empty() {
        let now = size.min(rest.len());
        request.extend(format!("{now:X};ext=\"a b\"\r\n").bytes());
        request.extend(&rest[..now]);
        request.extend(b"\r\n");
        rest = &rest[now..];
        size = size * 3 + 1;
    }
    request.extend(b"0\r\n\r\n");
    assert_eq!(site.raw(request).status, 200);
    let seen = site.upstream.last();
    assert_eq!(seen.body, block);
    assert!(seen.complete);
    let framed = (seen.values("Content-Length").len(), seen.values("Transfer-Encoding").len());
    assert!(matches!(framed, (0, 1) | (1, 0)), "{}", seen.raw());
}

#[test]
fn an_empty_chunked_upload_is_an_empty_body() {
    let site = Site::start();
    let answer = site.raw(
        "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(site.upstream.last().body_length, 0);
}

#[test]
fn an_upload_reaches_the_backend_while_it_is_still_being_sent() {
    let site = Site::start();
    site.upstream.answers("/open/x", Reply::ok("early").before_body());
    let mut connection = site.connect();
    connection
        .send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000000\r\n\r\nfirst");
    site.upstream.await_request_to("/open/x");
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
}

#[test]
fn bytes_of_an_upload_reach_the_backend_before_its_last_ones() {
    let site = Site::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    site.upstream.answers("/open/x", Reply::raw(head).before_body().then_echo());
    let mut connection = site.connect();
    // What the backend sends back is what came to it: here a chunk of its answer.
    connection.send(
        "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000\r\n\r\n5\r\nfirst\r\n",
    );
    let answer = connection.head("POST").unwrap();
    assert_eq!((answer.status, answer.framing), (200, Framing::Chunked));
    assert_eq!(connection.read_exactly(10), b"5\r\nfirst\r\n");
}

#[test]
fn a_chunk_of_an_answer_is_passed_on_before_the_next_one_comes() {
    let site = Site::start();
    site.upstream.answers(
        "/open/events",
        Reply::raw(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
             d\r\ndata: first\n\n\r\n",
        )
        .then_await_release()
        .then("e\r\ndata: second\n\n\r\n0\r\n\r\n"),
    );
    let mut connection = site.connect();
    connection.send(site.get("/open/events").header("Accept", "text/event-stream").bytes());
    let head = connection.head("GET").unwrap();
    assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
    assert_eq!(head.framing, Framing::Chunked);
    let first = connection.read_exactly("d\r\ndata: first\n\n\r\n".len());
    assert!(String::from_utf8_lossy(&first).contains("data: first\n\n"));
    site.upstream.release();
    let second = connection.read_exactly("e\r\ndata: second\n\n\r\n0\r\n\r\n".len());
    assert!(String::from_utf8_lossy(&second).contains("data: second\n\n"));
}

#[test]
fn a_part_of_an_answer_with_a_length_is_passed_on_before_the_rest_comes() {
    let site = Site::start();
    site.upstream.answers(
        "/open/slow",
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            .then_await_release()
            .then("half"),
    );
    let mut connection = site.connect();
    connection.stream().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    connection.send(site.get("/open/slow").bytes());
    assert_eq!(connection.head("GET").unwrap().framing, Framing::Length(8));
    assert_eq!(connection.read_exactly(4), b"half");
    site.upstream.release();
    assert_eq!(connection.read_exactly(4), b"half");
}

#[test]
fn answers_of_every_framing_arrive_whole_and_leave_the_connection_in_step() {
    let site = Site::start();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (path, reply, body) in [
        ("/open/length", Reply::ok("body"), "body"),
        ("/open/empty", Reply::ok(""), ""),
        (
            "/open/chunked",
            Reply::raw(format!("{chunked}2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")),
            "body",
        ),
        ("/open/no-chunk", Reply::raw(format!("{chunked}0\r\n\r\n")), ""),
        (
            "/open/trailers",
            Reply::raw(format!("{chunked}4\r\nbody\r\n0\r\nX-WX-OPENID: evil\r\nX-T: 1\r\n\r\n")),
            "body",
        ),
        ("/open/close", Reply::raw("HTTP/1.1 200 OK\r\n\r\nbody").then_close(), "body"),
        (
            "/open/close-said",
            Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody").then_close(),
            "body",
        ),
        ("/open/old", Reply::raw("HTTP/1.0 200 OK\r\n\r\nbody").then_close(), "body"),
        (
            "/open/interim",
            Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"),
            "body",
        ),
    ] {
        site.upstream.answers(path, reply);
        let mut connection = site.connect();
        for round in 0..2 {
            let answer = site.get(path).send_on(&mut connection);
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, body),
                "{path}, round {round}"
            );
            assert!(answer.values("X-WX-OPENID").is_empty() && answer.values("X-T").is_empty());
            if answer.framing == Framing::Close || answer.header("Connection") == Some("close") {
                connection = site.connect();
            }
        }
    }
}

#[test]
fn head_204_and_304_have_no_body_and_leave_the_connection_in_step() {
    let site = Site::start();
    site.upstream.answers("/open/none", Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"));
    site.upstream.answers(
        "/open/same",
        Reply::raw("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 4\r\n\r\n"),
    );
    site.upstream.answers(
        "/open/head",
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"b\"\r\n\r\n"),
    );
    site.upstream.answers(
        "/open/head-chunked",
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    );
    let mut connection = site.connect();
    for _ in 0..3 {
        let answer = site.get("/open/none").send_on(&mut connection);
        assert_eq!((answer.status, answer.framing), (204, Framing::None));
        let answer =
            site.get("/open/same").header("If-None-Match", "\"a\"").send_on(&mut connection);
        assert_eq!((answer.status, answer.header("ETag")), (304, Some("\"a\"")));
        let answer = site.request("HEAD", "/open/head").send_on(&mut connection);
        assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("12345")));
        let answer = site.request("HEAD", "/open/head-chunked").send_on(&mut connection);
        assert_eq!(answer.status, 200);
        assert_eq!(site.get("/open/x").send_on(&mut connection).text(), "hello");
    }
    assert_eq!(site.upstream.requests_to("/open/head")[0].method, "HEAD");
}

#[test]
fn a_head_of_a_refusal_has_no_body() {
    let site = Site::start();
    let mut connection = site.connect();
    for path in ["/api/x", "/nothing"] {
        let answer = site.request("HEAD", path).send_on(&mut connection);
        assert!(matches!(answer.status, 401 | 404));
        assert_eq!(site.get("/open/x").send_on(&mut connection).text(), "hello", "{path}");
    }
}

#[test]
fn a_caller_that_expects_100_continue_gets_it_and_its_answer() {
    let site = Site::start();
    let mut connection = site.connect();
    connection.send(
        "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    let line = connection.read_exactly("HTTP/1.1 100 Continue\r\n\r\n".len());
    assert!(line.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&line));
    connection.send("body");
    let answer = connection.answer();
    assert_eq!(answer.status, 200);
    assert_eq!(site.upstream.last().body, b"body");
}

#[test]
fn a_caller_that_expects_100_continue_may_be_refused_instead() {
    let site = Site::start();
    let mut connection = site.connect();
    connection.send(
        "POST /api/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    let answer = connection.answer();
    answer.assert_refused(401, "unauthorized");
    assert!(answer.interim.is_empty(), "the body was asked for in vain");
}

#[test]
fn a_body_over_the_limit_is_413_before_it_is_sent() {
    let site = Site::with().server("max_body_bytes = \"1MiB\"").start();
    let mut connection = site.connect();
    connection.send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1048577\r\n\r\n");
    connection.answer().assert_refused(413, "content_too_large");
    assert!(site.upstream.requests().is_empty());
    assert_eq!(site.post("/open/x").body(vec![b'a'; 1024 * 1024]).send().status, 200);
}

#[test]
fn a_chunked_body_over_the_limit_is_413_as_soon_as_it_is_over() {
    let site = Site::with().server("max_body_bytes = \"64KiB\"").start();
    let mut connection = site.connect();
    connection
        .send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..1000 {
        if connection.try_send(chunk.as_bytes()).is_err() {
            break;
        }
    }
    connection.answer().assert_refused(413, "content_too_large");
    for seen in site.upstream.requests() {
        assert!(!seen.complete, "the backend took it for a whole request");
    }
}

#[test]
fn an_upload_that_is_cut_never_looks_complete() {
    let site = Site::start();
    for head in
        ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        site.upstream.forget();
        let mut connection = site.connect();
        connection.send(format!("POST /open/x HTTP/1.1\r\nHost: shop.test\r\n{head}"));
        site.upstream.await_request_to("/open/x");
        drop(connection);
        eventually("the backend's connection ends", || site.upstream.open_connections() == 0);
        assert!(site.upstream.requests().iter().all(|seen| !seen.complete), "{head}");
    }
}

#[test]
fn a_caller_that_has_nothing_more_to_ask_gets_its_answer_and_the_connection_ends() {
    let site = Site::start();
    site.upstream.answers("/open/late", Reply::default().then_await_release().then(OK));
    for request in [
        "GET /open/late HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        "POST /open/late HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello",
        "POST /open/late HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n",
        "GET /open/late HTTP/1.0\r\nHost: shop.test\r\n\r\n",
    ] {
        site.upstream.forget();
        let mut connection = site.connect();
        connection.send(request).finish_sending();
        site.upstream.await_request_to("/open/late");
        // Time for the gateway to learn of the end, the first time round.
        std::thread::park_timeout(Duration::from_millis(100));
        site.upstream.release();
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK"), "{request}");
        assert!(connection.is_closed_by_gateway(), "{request}");
    }
}

#[test]
fn what_was_asked_before_the_end_of_the_input_is_answered_in_turn() {
    let site = Site::start();
    site.upstream.answers("/open/late", Reply::default().then_await_release().then(OK));
    let mut connection = site.connect();
    for path in ["/open/late", "/open/second", "/open/third"] {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
    }
    connection.finish_sending();
    site.upstream.await_request_to("/open/late");
    site.upstream.release();
    for _ in 0..3 {
        assert_eq!(connection.answer().status, 200);
    }
    assert!(connection.is_closed_by_gateway());
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";

#[test]
fn a_caller_that_ended_its_input_is_gone_when_no_answer_comes() {
    let site = Site::start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    let mut connection = site.connect();
    let begin = Instant::now();
    connection.send(site.get("/open/slow").bytes()).finish_sending();
    site.upstream.await_request_to("/open/slow");
    assert!(connection.is_closed_by_gateway());
    let lasted = begin.elapsed();
    assert!(lasted >= Duration::from_secs(2), "{lasted:?}");
    assert!(lasted < Duration::from_secs(20), "{lasted:?}");
    eventually("the backend's connection is closed", || site.upstream.open_connections() == 0);
    assert_eq!(site.access_line(|line| line["path"] == "/open/slow")["status"], 499);
}

#[test]
fn a_caller_that_goes_away_frees_the_backend() {
    let site = Site::start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    let mut connection = site.connect();
    connection.send(site.get("/open/slow").bytes());
    site.upstream.await_request_to("/open/slow");
    drop(connection);
    eventually("the backend's connection is closed", || site.upstream.open_connections() == 0);
    assert_eq!(site.gateway.metric("wxgate_http_requests_in_flight", &[]), 0.0);
}

#[test]
fn connections_to_the_backend_are_kept_and_used_again() {
    let site = Site::start();
    for _ in 0..20 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    // A caller may be back before a connection is; more than that is a connection per request.
    assert!(site.upstream.connections() <= 10, "{} connections", site.upstream.connections());
    site.upstream.close_connections();
    for _ in 0..5 {
        assert_eq!(site.get("/open/x").send().status, 200, "after the backend closed its end");
    }
}

#[test]
fn a_body_that_stands_still_is_given_up_after_idle_timeout() {
    let site = Site::with().server("idle_timeout = \"1s\"").start();
    let mut connection = site.connect();
    connection.send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100\r\n\r\nhalf");
    let begin = Instant::now();
    if let Ok(answer) = connection.try_answer("POST") {
        answer.assert_refused(408, "request_timeout");
    }
    assert!(connection.is_closed_by_gateway());
    assert!(begin.elapsed() >= Duration::from_millis(800), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    eventually("the backend is free", || site.upstream.open_connections() == 0);
    assert!(site.upstream.requests().iter().all(|seen| !seen.complete));
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let site = Site::start();
    site.upstream.answers(
        "/open/x",
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    );
    let head = "GET /open/x HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n";
    let bytes = site.connect().send(head).rest().expect("the answer ends with the connection");
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
}

#[test]
fn a_client_of_http_1_0_does_not_take_half_an_answer_for_the_whole() {
    let site = Site::start();
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    site.upstream.answers("/open/x", Reply::raw(half).then_await_release().then_close());
    let mut connection = site.connect();
    connection.send("GET /open/x HTTP/1.0\r\nHost: shop.test\r\n\r\n");
    assert_eq!(connection.head("GET").unwrap().framing, Framing::Close);
    assert_eq!(connection.read_exactly(5), b"hello");
    site.upstream.release();
    let end = std::io::Read::read(connection.stream(), &mut [0; 10]);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_of_http_1_0_gets_one_answer_and_none_before_it() {
    let site = Site::start();
    for before in ["100 Continue", "102 Processing", "103 Early Hints\r\nLink: </a>"] {
        let reply = Reply::raw(format!("HTTP/1.1 {before}\r\n\r\n"))
            .then("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        site.upstream.answers("/open/x", reply);
        let head = "GET /open/x HTTP/1.0\r\nExpect: 100-continue\r\n\r\n";
        let bytes = site.connect().send(head).rest().expect("the answer ends with the connection");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nhello"), "{text}");
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{text}");
    }
}

#[test]
fn the_length_of_an_answer_is_stated_once_and_not_for_a_204() {
    let site = Site::start();
    for (reply, lengths) in [
        ("200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", &["5"][..]),
        ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", &["5"]),
        ("204 No Content\r\nContent-Length: 5\r\n\r\n", &[]),
    ] {
        site.upstream.answers("/open/x", Reply::raw(format!("HTTP/1.1 {reply}")).then_close());
        assert_eq!(site.get("/open/x").send().values("Content-Length"), lengths, "{reply}");
    }
}
