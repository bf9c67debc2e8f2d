//! HTTP/2 from the client: the same promises as over HTTP/1.

use std::time::Duration;

use http::HeaderMap;
use rustix::process::Signal;

use crate::harness::http2::{Call, Http2};
use crate::harness::tls::{Authority, NAME};
use crate::harness::wechat::{APPID, encrypted, openid_of, session_key_of};
use crate::harness::{Reply, Site, eventually};
use crate::tls;

const SOON: Duration = Duration::from_secs(20);

fn start() -> (Site, Http2) {
    start_with(|settings| settings)
}

fn start_with(
    change: impl FnOnce(crate::harness::site::Settings) -> crate::harness::site::Settings,
) -> (Site, Http2) {
    let authority = Authority::new();
    let site = change(tls::with(&authority.issue())).start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    (site, http2)
}

pub(crate) fn log_in(site: &Site, http2: &Http2, user: &str) -> String {
    let code = format!("{{\"code\":\"{}\"}}", site.wechat.code_of(user));
    let headers = [("content-type", "application/json")];
    let answer = http2.send(&Call::post("/wx/auth", &headers, &[code.as_bytes()])).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_login_and_an_authenticated_request_pass() {
    let (site, http2) = start();
    let token = format!("Bearer {}", log_in(&site, &http2, "alice"));
    let headers =
        [("authorization", &*token), ("x-wx-openid", "forged"), ("x_wx_openid", "forged")];
    let answer = http2.send(&Call::get("/api/me?a=1", &headers)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = site.upstream.last();
    assert_eq!(seen.target, "/api/me?a=1");
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    assert!(seen.values("x_wx_openid").is_empty());
    assert!(seen.values("authorization").is_empty());
    assert_eq!(seen.values("Host"), [NAME]);
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("https"));
    assert!(!seen.raw().to_lowercase().contains("transfer-encoding"), "{}", seen.raw());
    let line = site.access_line(|line| line["path"] == "/api/me");
    assert_eq!(line["auth"], "ok");
    assert_eq!(line["status"], 200);
}

#[test]
fn refusals_are_those_of_http_1() {
    let (site, http2) = start();
    let unauthorized = http2.send(&Call::get("/api/me", &[])).unwrap();
    assert_eq!(unauthorized.status, 401);
    assert_eq!(unauthorized.json()["error"], "unauthorized");
    assert_eq!(unauthorized.header("www-authenticate"), Some("Bearer realm=\"wxgate\""));
    assert_eq!(unauthorized.header("cache-control"), Some("no-store"));
    let long = format!("/open/{}", "a".repeat(9_000));
    let large = "a".repeat(40_000);
    let large = [("x-large", &*large)];
    let larger = "a".repeat(100_000);
    let larger = [("x-large", &*larger)];
    let many = vec![("x-many", "a"); 101];
    let cases: [(Call<'_>, u16); 13] = [
        (Call::get("/nowhere", &[]), 404),
        (Call::get("/open", &[]), 308),
        (Call::get("/wx/nothing", &[]), 404),
        (Call::get("/wx/auth", &[]), 405),
        (Call::get("/open/%2fx", &[]), 400),
        (Call::get("/open/x", &[("host", "other.example.com")]), 400),
        (Call::get("/api/x", &[("authorization", "a"), ("authorization", "b")]), 400),
        (Call::get("/open/x", &[("x-padded", "x ")]), 400),
        (Call::get(&long, &[]), 414),
        (Call::get("/open/x", &large), 431),
        (Call::get("/open/x", &larger), 431),
        (Call::get("/open/x", &many), 431),
        (Call { method: "TRACE", ..Call::get("/open/x", &[]) }, 405),
    ];
    for (call, status) in &cases {
        let answer = http2.send(call).unwrap();
        assert_eq!(answer.status, *status, "{} {}", call.method, call.target);
        // Pingora itself refuses what names two hosts, in silence.
        let says_nothing = *status == 308 || call.headers.iter().any(|(name, _)| *name == "host");
        if !says_nothing {
            let id = answer.header("x-request-id").unwrap();
            assert_eq!(answer.json()["request_id"], id, "{}", answer.text());
        }
    }
    assert_eq!(site.gateway.metric("wxgate_http_requests_total", &[("code", "400")]), 4.0);
    site.access_line(|line| line["status"] == 400 && line["path"] == "");
    assert!(site.upstream.requests().is_empty());
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200, "it still serves");
}

#[test]
fn cookie_crumbs_reach_the_backend_as_one_cookie_without_the_gateways_own() {
    let (site, http2) = start();
    let token = format!("wxgate_session={}", log_in(&site, &http2, "alice"));
    let headers = [("cookie", "a=1"), ("cookie", &*token), ("cookie", "b=2")];
    assert_eq!(http2.send(&Call::get("/api/me", &headers)).unwrap().status, 200);
    assert_eq!(site.upstream.last().values("Cookie"), ["a=1; b=2"]);
}

#[test]
fn an_upload_that_ends_in_an_empty_frame_leaves_the_backends_connection_in_order() {
    let (site, http2) = start();
    for round in 0..5 {
        let body: [&[u8]; 2] = [b"hello", b""];
        let answer = http2.send(&Call::post("/open/upload", &[], &body)).unwrap();
        assert_eq!(answer.status, 200, "round {round}");
        assert_eq!(site.upstream.last().body, b"hello");
        let sized = Call::post("/open/sized", &[("content-length", "5")], &body);
        assert_eq!(http2.send(&sized).unwrap().status, 200, "round {round}");
        assert_eq!(site.upstream.last().body, b"hello");
    }
    assert_eq!(site.upstream.garbage(), Vec::<Vec<u8>>::new());
    let nothing: [&[u8]; 1] = [b""];
    assert_eq!(http2.send(&Call::post("/open/empty", &[], &nothing)).unwrap().status, 200);
    assert_eq!(site.upstream.last().body, b"");
}

#[test]
fn bodies_over_the_limit_are_refused_whether_they_say_so_or_not() {
    let (site, http2) = start_with(|settings| settings.server("max_body_bytes = \"10KiB\""));
    let large = vec![b'x'; 12_000];
    let frames: [&[u8]; 2] = [&large[..6_000], &large[6_000..]];
    let said = Call::post("/open/said", &[("content-length", "12000")], &frames);
    let answer = http2.send(&said).unwrap();
    assert_eq!((answer.status, answer.json()["error"].as_str()), (413, Some("content_too_large")));
    let unsaid = http2.send(&Call::post("/open/unsaid", &[], &frames)).unwrap();
    assert_eq!(unsaid.status, 413, "{}", unsaid.text());
    assert!(site.upstream.requests_to("/open/said").is_empty());
    let login = vec![b'x'; 20_000];
    let own = http2.send(&Call::post("/wx/auth", &[], &[&login])).unwrap();
    assert_eq!(own.status, 413, "{}", own.text());
}

#[test]
fn large_bodies_pass_both_ways() {
    let (site, http2) = start();
    site.upstream.answers(
        "/open/down",
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n").then_stream(3_000_000),
    );
    assert_eq!(http2.send(&Call::get("/open/down", &[])).unwrap().body.len(), 3_000_000);
    let chunk = vec![b'x'; 500_000];
    let frames: Vec<&[u8]> = vec![&chunk; 6];
    assert_eq!(http2.send(&Call::post("/open/up", &[], &frames)).unwrap().status, 200);
    assert_eq!(site.upstream.last().body_length, 3_000_000);
}

#[test]
fn trailers_are_dropped_in_both_directions() {
    let (site, http2) = start();
    site.upstream.answers(
        "/open/trailers",
        Reply::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n\
             2\r\nok\r\n0\r\nX-After: 1\r\n\r\n",
        ),
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-wx-openid", "forged".parse().unwrap());
    let frames: [&[u8]; 1] = [b"hello"];
    let call = Call { trailers: Some(trailers), ..Call::post("/open/trailers", &[], &frames) };
    let answer = http2.send(&call).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.trailers, None);
    assert_eq!(site.upstream.last().body, b"hello");
    assert!(site.upstream.last().trailers.is_empty());
}

#[test]
fn many_streams_are_served_at_once_and_a_head_request_has_no_body() {
    let (site, http2) = start();
    // With the first answer the client knows how many streams it may open at once; one that
    // opens more before it was told is refused some (RFC 9113, 5.1.2).
    assert_eq!(http2.send(&Call::get("/open/first", &[])).unwrap().status, 200);
    let calls: Vec<_> = (0..300).map(|_| Call::get("/open/x", &[])).collect();
    for answer in http2.send_all(&calls) {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(site.upstream.requests_to("/open/x").len(), 300);
    let head = http2.send(&Call { method: "HEAD", ..Call::get("/open/x", &[]) }).unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_refusal_of_a_head_request_has_no_body_however_late_it_is_made() {
    let (site, http2) = start_with(|settings| settings.upstream("read_timeout = \"1s\""));
    site.upstream.answers("/open/broken", Reply::raw("no HTTP\r\n\r\n").then_close());
    site.upstream.answers("/open/hangs", Reply::default().then_hang());
    for (target, status) in [("/open/broken", 502), ("/open/hangs", 504), ("/api/x", 401)] {
        let head = http2.send(&Call { method: "HEAD", ..Call::get(target, &[]) }).unwrap();
        assert_eq!((head.status, head.text().as_str()), (status, ""), "{target}");
        let length = head.header("content-length").unwrap();
        assert!(length.parse::<u32>().unwrap() > 0, "{target}: of the body that a GET has");
    }
}

#[test]
fn a_client_that_resets_what_it_asks_for_is_cut_off_and_others_are_served() {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).start();
    let client = authority.client(&["h2"]);
    let rude = Http2::open(site.gateway.address(), &client);
    let mut sender = rude.sender.clone();
    rude.runtime.block_on(async {
        for _ in 0..20_000 {
            let request = http::Request::builder().uri(format!("https://{NAME}/open/slow"));
            match sender.send_request(request.body(()).unwrap(), true) {
                Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
                Err(_) => break,
            }
            if let Ok(ready) = sender.clone().ready().await { sender = ready } else { break }
        }
    });
    let polite = Http2::open(site.gateway.address(), &client);
    assert_eq!(polite.send(&Call::get("/open/x", &[])).unwrap().status, 200);
    drop(sender);
    let end = rude.end();
    assert!(
        end.is_err() || site.upstream.requests_to("/open/slow").len() < 20_000,
        "20,000 resets were all served"
    );
    eventually("nothing is left of them", || {
        site.gateway.metric("wxgate_http_requests_in_flight", &[]) == 0.0
    });
}

#[test]
fn a_drain_says_goaway_and_finishes_what_is_in_flight() {
    let (mut site, http2) = start();
    site.upstream.answers(
        "/open/slow",
        Reply::default()
            .then_await_release()
            .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"),
    );
    let slow = http2.sender.clone();
    let answer = http2.runtime.spawn(async move {
        let mut slow = slow.ready().await.unwrap();
        let request = http::Request::builder().uri(format!("https://{NAME}/open/slow"));
        let (answer, _) = slow.send_request(request.body(()).unwrap(), true).unwrap();
        answer.await.unwrap().into_body().data().await.unwrap().unwrap()
    });
    site.upstream.await_request_to("/open/slow");
    site.gateway.signal(Signal::TERM);
    eventually("it drains", || {
        site.admin("/readyz").try_send().is_ok_and(|answer| answer.status == 503)
    });
    assert!(site.gateway.is_running());
    eventually("the client is told to open no more streams", || {
        let ready = http2.sender.clone().ready();
        http2.runtime.block_on(ready).is_err_and(|error| error.is_go_away())
    });
    site.upstream.release();
    assert_eq!(&http2.runtime.block_on(answer).unwrap()[..], b"late");
    assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
    // Whether the client still had a frame to send when the socket closed is chance.
    drop(http2.end());
}

#[test]
fn a_kicked_sessions_event_stream_is_closed_within_two_seconds() {
    let (site, http2) = start();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n";
    site.upstream.answers("/api/events", Reply::raw(head).then_hang());
    let token = log_in(&site, &http2, "alice");
    let sender = http2.sender.clone();
    let bearer = format!("Bearer {token}");
    let mut body = http2.runtime.block_on(async {
        let request = http::Request::builder()
            .uri(format!("https://{NAME}/api/events"))
            .header("authorization", &bearer);
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        answer.await.unwrap().into_body()
    });
    let first = http2.runtime.block_on(body.data()).unwrap().unwrap();
    assert_eq!(&first[..], b"data: first\n\n");
    let logout = http2.send(&Call::post("/wx/logout", &[("authorization", &bearer)], &[]));
    assert_eq!(logout.unwrap().status, 204);
    let end = http2
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_millis(2_500), body.data()).await });
    assert!(end.expect("still open").is_none_or(|next| next.is_err()));
    eventually("the backend's connection is closed", || site.upstream.open_connections() == 0);
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200, "others go on");
}

#[test]
fn an_answer_before_the_end_of_an_upload_is_delivered() {
    let (site, http2) = start_with(|settings| settings.server("idle_timeout = \"2s\""));
    site.upstream.answers("/open/early", Reply::ok("early").before_body());
    let answer = http2.drip("/open/early", b"x", Duration::from_millis(100)).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
    // A client that goes on and one that stands still: neither holds the backend.
    let answer = http2.drip("/open/early", b"x", Duration::from_secs(60)).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
    eventually("the backend's connections are closed", || site.upstream.open_connections() == 0);
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200);
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let (_site, http2) = start_with(|settings| settings.server("idle_timeout = \"1s\""));
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200);
    // However it is told: by GOAWAY or by the end of the connection.
    drop(http2.end());
}

#[test]
fn what_wechat_encrypted_is_opened_and_a_phone_number_reaches_the_backend() {
    let (site, http2) = start_with(|settings| settings.identity("phone = \"X-WX-PHONE\""));
    let bearer = format!("Bearer {}", log_in(&site, &http2, "alice"));
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let plain = format!("{{\"watermark\":{{\"appid\":\"{APPID}\"}}}}");
    let body = encrypted(&session_key_of("alice"), &plain).to_string();
    let (first, second) = body.as_bytes().split_at(20);
    let opened = http2.send(&Call::post("/wx/decrypt", &headers, &[first, second])).unwrap();
    assert_eq!(opened.status, 200, "{}", opened.text());
    assert_eq!(opened.json()["signed"], false);
    let forged = encrypted(&session_key_of("bob"), &plain).to_string();
    let forged = http2.send(&Call::post("/wx/decrypt", &headers, &[forged.as_bytes()])).unwrap();
    assert_eq!(forged.status, 409, "{}", forged.text());

    site.wechat.answers("/wxa/business/getuserphonenumber", crate::phone::verified(APPID));
    let press = br#"{"code":"press-1"}"#;
    let phone = http2.send(&Call::post("/wx/phone", &headers, &[press])).unwrap();
    assert_eq!(phone.status, 200, "{}", phone.text());
    let bearer = format!("Bearer {}", phone.json()["access_token"].as_str().unwrap());
    let headers = [("authorization", &*bearer), ("x-wx-phone", "1"), ("x_wx_phone", "2")];
    assert_eq!(http2.send(&Call::get("/api/me", &headers)).unwrap().status, 200);
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-WX-PHONE"), [crate::phone::NUMBER]);
    assert!(seen.values("x_wx_phone").is_empty());
}

#[test]
fn a_proxy_that_speaks_http_2_may_ask_whether_a_request_passes() {
    let (site, http2) = start_with(|settings| {
        settings.server("trusted_proxies = [\"127.0.0.1/32\"]").login("verify = true")
    });
    let bearer = format!("Bearer {}", log_in(&site, &http2, "alice"));
    let told = [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-uri", "/api/me?a=1"),
    ];
    let guest = http2.send(&Call::get("/wx/verify", &told)).unwrap();
    assert_eq!((guest.status, guest.header("x-wx-openid")), (401, None));
    let headers = [&told[..], &[("authorization", &*bearer), ("x-wx-openid", "oEvil000")]].concat();
    let alice = http2.send(&Call::get("/wx/verify", &headers)).unwrap();
    assert_eq!((alice.status, alice.text().as_str()), (200, ""));
    assert_eq!(alice.headers.get_all("x-wx-openid").iter().count(), 1);
    assert_eq!(alice.header("x-wx-openid"), Some(openid_of("alice").as_str()));
    let twice = [&headers[..], &[("x-forwarded-uri", "/open/x")]].concat();
    assert_eq!(http2.send(&Call::get("/wx/verify", &twice)).unwrap().status, 403);
}
