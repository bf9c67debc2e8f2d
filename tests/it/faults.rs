//! Backends that are down, slow, or break off.

use std::time::{Duration, Instant};

use crate::harness::client::ReadError;
use crate::harness::{
    Blackhole, Refusing, Reply, Site, Upstream, eventually, mostly_within, once_within, within,
};

#[test]
fn a_backend_that_refuses_connections_is_502_at_once() {
    let nobody = Refusing::start();
    let site = Site::with().servers(&format!("[\"{}\"]", nobody.address())).start();
    mostly_within(Duration::from_secs(1), || {
        let answer = site.get("/open/x").send();
        answer.assert_refused(502, "bad_gateway");
        assert!(!answer.text().contains(&nobody.address().to_string()), "an inner address");
        assert!(!answer.text().contains("127.0.0.1"), "an inner address: {}", answer.text());
    });
}

#[test]
fn a_backend_that_comes_back_is_used_within_a_second() {
    let nobody = Refusing::start();
    let address = nobody.address();
    let site = Site::with().servers(&format!("[\"{address}\"]")).start();
    for _ in 0..10 {
        assert_eq!(site.get("/open/x").send().status, 502);
    }
    let upstream = Upstream::on(nobody.into_listener());
    within(Duration::from_secs(1), "the backend is used again", || {
        site.get("/open/x").send().status == 200
    });
    assert_eq!(upstream.address(), address);
}

#[test]
fn a_backend_whose_host_does_not_answer_is_given_up_after_connect_timeout() {
    let nowhere = Blackhole::start();
    let site = Site::with()
        .servers(&format!("[\"{}\"]", nowhere.address()))
        .upstream("connect_timeout = \"500ms\"\nretries = 0")
        .start();
    let answer = once_within(Duration::from_secs(4), || site.get("/open/x").send());
    assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
}

#[test]
fn an_upstream_whose_name_is_unknown_is_503() {
    let site = Site::with().servers("[\"no-such-host.invalid:80\"]").start();
    let answer = site.get("/open/x").send();
    answer.assert_refused(503, "upstream_unavailable");
    assert_eq!(site.get("/wx/session").send().status, 401, "the rest goes on");
}

#[test]
fn a_backend_that_does_not_answer_is_504_after_read_timeout() {
    let site = Site::with().upstream("read_timeout = \"500ms\"\nretries = 0").start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    once_within(Duration::from_secs(3), || {
        let begin = Instant::now();
        site.get("/open/slow").send().assert_refused(504, "gateway_timeout");
        assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
    });
    assert_eq!(site.get("/open/x").send().status, 200);
}

#[test]
fn a_post_that_times_out_is_delivered_once() {
    let site = Site::with().upstream("read_timeout = \"500ms\"\nretries = 3").start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    site.post("/open/slow").body("x").send().assert_refused(504, "gateway_timeout");
    assert_eq!(site.upstream.requests_to("/open/slow").len(), 1);
}

#[test]
fn a_post_that_is_reset_is_502_and_delivered_once() {
    let site = Site::with().upstream("retries = 3").start();
    for _ in 0..5 {
        assert_eq!(site.get("/open/warm").send().status, 200);
    }
    for (path, reply) in [
        ("/open/reset", Reply::default().then_reset()),
        ("/open/close", Reply::default().then_close()),
    ] {
        site.upstream.answers(path, reply);
        for round in 1..=5 {
            let answer = site.post(path).body("x").send();
            answer.assert_refused(502, "bad_gateway");
            assert_eq!(site.upstream.requests_to(path).len(), round, "{path}");
        }
    }
}

#[test]
fn a_get_that_is_reset_is_tried_again_at_most_retries_times() {
    let site = Site::with().upstream("retries = 2").start();
    site.upstream.answers("/open/reset", Reply::default().then_reset());
    site.get("/open/reset").send().assert_refused(502, "bad_gateway");
    let deliveries = site.upstream.requests_to("/open/reset").len();
    assert!((1..=3).contains(&deliveries), "{deliveries}");
}

#[test]
fn with_retries_0_nothing_is_tried_twice() {
    let site = Site::with().upstream("retries = 0").start();
    site.upstream.answers("/open/reset", Reply::default().then_reset());
    site.get("/open/reset").send().assert_refused(502, "bad_gateway");
    assert_eq!(site.upstream.requests_to("/open/reset").len(), 1);
}

#[test]
fn another_server_takes_over_where_no_connection_could_be_made() {
    let nobody = Refusing::start();
    let working = Upstream::start();
    let servers = format!("[\"{}\", \"{}\"]", nobody.address(), working.address());
    let site = Site::with().servers(&servers).start();
    for _ in 0..10 {
        assert_eq!(site.get("/open/x").send().status, 200);
        assert_eq!(site.post("/open/x").body("x").send().status, 200, "nothing was sent yet");
    }
    assert_eq!(working.requests().len(), 20);
    let name = nobody.address().to_string();
    let labels = [("upstream", "php"), ("server", name.as_str())];
    assert_eq!(site.gateway.metric("wxgate_upstream_up", &labels), 0.0);
    assert!(site.gateway.metric("wxgate_upstream_retries_total", &[("upstream", "php")]) >= 1.0);
}

#[test]
fn an_idempotent_request_that_is_unanswered_is_tried_on_another_server() {
    let (broken, working) = (Upstream::start(), Upstream::start());
    broken.answers("/open/x", Reply::default().then_reset());
    let servers = format!("[\"{}\", \"{}\"]", broken.address(), working.address());
    let site = Site::with().servers(&servers).upstream("retries = 1").start();
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        for _ in 0..2 {
            assert_eq!(site.request(method, "/open/x").send().status, 200, "{method}");
        }
    }
    assert!(!broken.requests().is_empty());
    assert_eq!(working.requests().len(), 10);
    let seen = working.requests();
    assert!(seen.iter().all(|request| request.values("X-Forwarded-For").len() == 1));
}

#[test]
fn a_retry_tells_the_same_identity_once() {
    let (broken, working) = (Upstream::start(), Upstream::start());
    broken.answers("/api/x", Reply::default().then_reset());
    let servers = format!("[\"{}\", \"{}\"]", broken.address(), working.address());
    let site = Site::with().servers(&servers).upstream("retries = 1").start();
    let token = site.log_in("alice");
    for _ in 0..4 {
        let request = site.get("/api/x").bearer(&token).header("X-WX-OPENID", "evil");
        assert_eq!(request.send().status, 200);
    }
    for seen in working.requests() {
        assert_eq!(seen.values("X-WX-OPENID").len(), 1, "{}", seen.raw());
        assert!(!seen.raw().contains("evil"));
        assert!(seen.values("Authorization").is_empty());
    }
}

#[test]
fn an_answer_that_is_cut_never_looks_complete() {
    let site = Site::start();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (path, reply) in [
        ("/open/1", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").then_close()),
        ("/open/2", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").then_reset()),
        ("/open/3", Reply::raw(format!("{chunked}4\r\nhalf\r\n")).then_close()),
        ("/open/4", Reply::raw(format!("{chunked}8\r\nhalf")).then_close()),
        ("/open/5", Reply::raw(format!("{chunked}4\r\nhalf\r\n")).then_reset()),
        ("/open/6", Reply::raw(format!("{chunked}4\r\nhalf\r\n0\r\n")).then_close()),
        ("/open/7", Reply::raw(format!("{chunked}4\r\nhalf\r\nzz\r\n")).then_close()),
    ] {
        site.upstream.answers(path, reply);
        let answer = site.get(path).try_send();
        match answer {
            Err(ReadError::Closed | ReadError::Cut(_)) => {}
            Ok(answer) if answer.status == 502 => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(site.get("/open/x").send().text(), "hello");
}

#[test]
fn an_answer_that_is_no_http_is_502() {
    let site = Site::start();
    let mut passed_on = Vec::new();
    for (path, bytes) in [
        ("/open/1", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("/open/2", "HTTP/1.1 2OO OK\r\n\r\n"),
        ("/open/3", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (
            "/open/4",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        ),
        ("/open/5", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
        ("/open/6", "HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 0\r\n\r\n"),
        ("/open/7", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("/open/8", "\r\n\r\n"),
    ] {
        site.upstream.answers(path, Reply::raw(bytes).then_close());
        let answer = site.get(path).try_send();
        let ok = match &answer {
            Ok(answer) => answer.status == 502,
            Err(error) => matches!(error, ReadError::Closed | ReadError::Cut(_)),
        };
        if !ok {
            passed_on.push((bytes, answer));
        }
    }
    assert!(passed_on.is_empty(), "{passed_on:#?}");
    assert_eq!(site.get("/open/x").send().text(), "hello");
}

#[test]
fn an_answer_that_breaks_before_a_byte_of_it_left_is_502() {
    let site = Site::with().server("fast_lane = true").start();
    let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n";
    site.upstream.answers("/open/broken", Reply::raw(bytes).then_close());
    site.get("/open/broken").send().assert_refused(502, "bad_gateway");
}

#[test]
fn bytes_after_an_answer_are_never_taken_for_the_next_one() {
    let site = Site::start();
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (path, reply) in [
        ("/open/1", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{poison}")),
        ("/open/2", format!("HTTP/1.1 204 No Content\r\n\r\n{poison}")),
        (
            "/open/3",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{poison}"
            ),
        ),
    ] {
        site.upstream.answers(path, Reply::raw(reply));
        for _ in 0..5 {
            drop(site.get(path).try_send());
            let answer = site.get("/open/x").try_send();
            let text = answer.map(|answer| answer.text()).unwrap_or_default();
            assert_ne!(text, "poison", "{path}");
        }
    }
}

#[test]
fn an_early_answer_to_a_long_upload_is_delivered() {
    let site = Site::start();
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    site.upstream.answers("/open/x", Reply::raw(refusal).before_body().then_hang());
    let mut connection = site.connect();
    connection.send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1048576\r\n\r\n");
    for _ in 0..16 {
        if connection.try_send(&[b'a'; 1024]).is_err() {
            break;
        }
    }
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    // A client that then stands still holds nothing.
    assert!(connection.is_closed_by_gateway());
    eventually("the backend's connection is closed", || site.upstream.open_connections() == 0);
}

#[test]
fn one_hanging_backend_does_not_hold_up_another() {
    let hanging = Upstream::start();
    hanging.answers_everything(Reply::default().then_hang());
    let site = Site::with()
        .more_upstreams(&format!(
            "[[upstreams]]\nname = \"slow\"\nservers = [\"{}\"]\nread_timeout = \"20s\"\n",
            hanging.address()
        ))
        .more_routes("[[routes]]\npath = \"/slow/\"\nupstream = \"slow\"\nauth = \"public\"\n")
        .start();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut connection = site.connect();
        connection.send(site.get("/slow/x").bytes());
        waiting.push(connection);
    }
    eventually("they all wait", || hanging.requests().len() == 100);
    mostly_within(Duration::from_secs(2), || {
        assert_eq!(site.get("/open/x").send().status, 200);
    });
}

#[test]
fn attempts_are_counted_by_upstream_and_server() {
    let site = Site::start();
    site.upstream.answers("/open/missing", Reply::with_body("404 Not Found", &[], "no"));
    site.get("/open/x").send();
    site.get("/open/missing").send();
    let server = site.upstream.address().to_string();
    for code in ["200", "404"] {
        let labels = [("upstream", "php"), ("server", server.as_str()), ("code", code)];
        assert_eq!(site.gateway.metric("wxgate_upstream_requests_total", &labels), 1.0, "{code}");
    }
    let labels = [("upstream", "php"), ("server", server.as_str())];
    assert_eq!(site.gateway.metric("wxgate_upstream_up", &labels), 1.0);
    let labels = [("upstream", "php")];
    let count = "wxgate_upstream_request_duration_seconds_count";
    assert_eq!(site.gateway.metric(count, &labels), 2.0);
}

#[test]
fn the_hosts_and_status_of_the_backend_are_the_callers_business_too() {
    let site = Site::start();
    for status in ["400 Bad Request", "401 Unauthorized", "500 Oops", "503 Busy", "599 Odd"] {
        site.upstream.answers("/open/x", Reply::with_body(status, &["Retry-After: 7"], "its own"));
        let answer = site.get("/open/x").send();
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.text(), "its own");
        assert_eq!(answer.header("Retry-After"), Some("7"));
    }
}

#[test]
fn a_body_is_not_sent_twice_however_it_came() {
    let site = Site::with().upstream("retries = 1").start();
    site.upstream.answers("/open/x", Reply::default().then_reset());
    let body = "a".repeat(6 * 1024);
    let head = format!("PUT /open/x HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    for (round, cut) in
        [head.len() + body.len(), head.len(), head.len() + 100].into_iter().enumerate()
    {
        let request = format!("{head}{body}");
        let (first, rest) = request.split_at(cut);
        let mut connection = site.connect();
        connection.send(first.as_bytes());
        if !rest.is_empty() {
            connection.send(rest.as_bytes());
        }
        connection.answer().assert_refused(502, "bad_gateway");
        assert_eq!(site.upstream.requests_to("/open/x").len(), round + 1, "cut at {cut}");
    }
}

#[test]
fn no_more_than_a_fifth_of_an_upstreams_requests_are_retries() {
    let site = Site::with().upstream("retries = 1").start();
    site.upstream.answers("/open/x", Reply::default().then_reset());
    for _ in 0..40 {
        site.get("/open/x").send().assert_refused(502, "bad_gateway");
    }
    // Ten at first, and one for every five requests.
    let retries = site.upstream.requests_to("/open/x").len() - 40;
    assert!((12..=18).contains(&retries), "{retries}");
    let told = site.gateway.metric("wxgate_upstream_retries_total", &[("upstream", "php")]);
    assert_eq!(told, retries as f64);
}
