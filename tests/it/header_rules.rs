//! What a route changes on headers, both ways, and the time-outs of its own.

use std::time::{Duration, Instant};

use crate::harness::http2::{Call, Http2};
use crate::harness::tls::Authority;
use crate::harness::wechat::openid_of;
use crate::harness::{Reply, Site};
use crate::tls;

const ROUTES: &str = r#"
[[routes]]
path = "/api/"
upstream = "php"
request_headers = { set = { "X-Env" = "prod", "X-Empty" = "" }, remove = ["X-Debug", "Referer"] }
response_headers = { set = { "Strict-Transport-Security" = "max-age=63072000", "Cache-Control" = "private" }, remove = ["X-Powered-By", "Server"] }

[[routes]]
path = "/quick/"
upstream = "php"
auth = "public"
read_timeout = "200ms"

[[routes]]
path = "/open/"
upstream = "php"
auth = "public"
"#;

fn start() -> Site {
    Site::with().routes(ROUTES).start()
}

#[test]
fn a_backend_sees_what_is_set_and_not_what_is_removed_however_it_is_spelled() {
    let site = start();
    let token = site.log_in("alice");
    let mut request = site.get("/api/me").bearer(&token).header("Referer", "https://a.test/");
    for name in ["X-Env", "x-env", "X_ENV", "x.env", "X-Debug", "x_debug", "X.Debug", "X-Empty"] {
        request = request.header(name, "evil");
    }
    let kept = request.header("X-Envy", "kept").header("X-Debugger", "kept");
    let answer = kept.header("Connection", "X-Env, X-Empty").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = site.upstream.last();
    assert!(!seen.raw().contains("evil"), "{}", seen.raw());
    assert_eq!(seen.values("X-Env"), ["prod"]);
    assert_eq!(seen.values("X-Empty"), [""]);
    assert_eq!(seen.php("HTTP_X_ENV"), Some("prod"));
    assert_eq!(seen.header("Referer"), None);
    assert_eq!(seen.values("X-Envy"), ["kept"]);
    assert_eq!(seen.values("X-Debugger"), ["kept"]);
    let identity = seen.headers.iter().position(|(name, _)| name == "X-WX-OPENID");
    let set = seen.headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("x-env"));
    assert!(set < identity, "who is calling stands last");
    assert_eq!(seen.header("X-WX-OPENID"), Some(&*openid_of("alice")));
    site.get("/open/x").header("X-Debug", "1").send();
    assert_eq!(site.upstream.last().header("X-Debug"), Some("1"), "a route's own");
}

#[test]
fn a_chunked_request_is_changed_alike() {
    let site = start();
    let token = site.log_in("alice");
    let answer = site.raw(format!(
        "POST /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nx_debug: evil\r\n\
         X-Env: evil\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-Env"), ["prod"]);
    assert_eq!(seen.body, b"hi");
    assert_eq!(seen.headers.iter().filter(|(_, value)| value == "evil").count(), 0);
}

#[test]
fn a_backends_answers_are_changed_and_the_gateways_own_are_not() {
    let site = start();
    let token = site.log_in("alice");
    let theirs = [
        "X-Powered-By: PHP/8.2",
        "x-powered-by: twice",
        "Server: Apache",
        "Cache-Control: public",
        "cache-control: max-age=5",
        "X-Other: kept",
    ];
    for status in ["200 OK", "404 Not Found", "302 Found"] {
        site.upstream.answers_everything(Reply::with_body(status, &theirs, "x"));
        let answer = site.get("/api/me").bearer(&token).send();
        assert_eq!(answer.values("X-Powered-By"), [""; 0]);
        assert_eq!(answer.header("Server"), None);
        assert_eq!(answer.values("Cache-Control"), ["private"]);
        assert_eq!(answer.header("Strict-Transport-Security"), Some("max-age=63072000"));
        assert_eq!(answer.header("X-Other"), Some("kept"));
        assert_eq!(answer.text(), "x");
    }
    let refusal = site.get("/api/me").send();
    refusal.assert_refused(401, "unauthorized");
    assert_eq!(refusal.header("Strict-Transport-Security"), None);
    let answer = site.get("/open/x").send();
    assert_eq!(answer.header("Server"), Some("Apache"), "a route's own");
}

#[test]
fn headers_are_changed_over_http_2_too() {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).routes(ROUTES).start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let token = format!("Bearer {}", site_token());
    site.upstream.answers_everything(Reply::with_body("200 OK", &["Server: Apache"], "x"));
    let headers = [("authorization", &*token), ("x_debug", "evil"), ("x.env", "evil")];
    let answer = http2.send(&Call::get("/api/me", &headers)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("server"), None);
    assert_eq!(answer.header("cache-control"), Some("private"));
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-Env"), ["prod"]);
    assert!(!seen.raw().contains("evil"), "{}", seen.raw());
}

fn site_token() -> String {
    crate::harness::token::Forge::of("alice").token()
}

#[test]
fn a_routes_own_time_out_holds_in_place_of_its_upstreams() {
    let site = start();
    let silent = || Reply::default().then_hang();
    site.upstream.answers("/quick/x", silent());
    let begun = Instant::now();
    site.get("/quick/x").send().assert_refused(504, "gateway_timeout");
    assert!(begun.elapsed() < Duration::from_secs(20), "not the 30 s of the upstream");
    // A longer one than the upstream's: the answer is waited for.
    let longer = ROUTES.replace("\"200ms\"", "\"60s\"");
    let site = Site::with().upstream("read_timeout = \"200ms\"").routes(&longer).start();
    let late = || {
        Reply::default()
            .then_await_release()
            .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
    };
    site.upstream.answers("/quick/x", late());
    site.upstream.answers("/open/x", late());
    std::thread::scope(|scope| {
        let quick = scope.spawn(|| site.get("/quick/x").send().text());
        site.upstream.await_request_to("/quick/x");
        // By then the other request has run into the upstream's own.
        site.get("/open/x").send().assert_refused(504, "gateway_timeout");
        site.upstream.release();
        assert_eq!(quick.join().unwrap(), "late");
    });
}

#[test]
fn a_route_sets_a_hundred_headers_and_no_more() {
    let routes = |count: usize| {
        let set: Vec<_> = (0..count).map(|number| format!("X-Set-{number} = \"on\"")).collect();
        let set = set.join(", ");
        format!(
            "[[routes]]\npath = \"/open/\"\nupstream = \"php\"\nauth = \"public\"\n\
             request_headers = {{ set = {{ {set} }} }}\n"
        )
    };
    let mut site = Site::with().routes(&routes(100)).start();
    let mut request = site.get("/open/x");
    for number in 0..90 {
        request = request.header(&format!("X-Mine-{number}"), "1");
    }
    assert_eq!(request.send().status, 200);
    let seen = site.upstream.last();
    assert_eq!((seen.header("X-Set-99"), seen.header("X-Mine-89")), (Some("on"), Some("1")));
    assert!(!site.reload(|settings| settings.routes(&routes(101))), "101 were taken");
}
