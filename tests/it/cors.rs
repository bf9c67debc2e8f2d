//! Pages of other sites: a browser's preflight is answered without a token, answers and refusals
//! can be read by the pages that the operator names, and by no others.

use serde_json::json;

use crate::harness::client::Answer;
use crate::harness::http2::{Call, Http2};
use crate::harness::tls::Authority;
use crate::harness::token::{Forge, unix_seconds};
use crate::harness::{Reply, Site};
use crate::tls;

const H5: &str = "https://h5.example.com";

const ROUTES: &str = r#"
[[routes]]
name = "api"
path = "/api/"
upstream = "php"
cors = { origins = ["https://h5.example.com", "https://*.shop.test"], expose = ["X-Total"], credentials = true, max_age = "1h" }

[[routes]]
name = "reports"
path = "/reports/"
methods = ["GET", "DELETE"]
upstream = "php"
auth = "public"
cors = { origins = ["*"], methods = ["GET"], headers = [] }

[[routes]]
name = "reports-write"
path = "/reports/"
methods = ["POST"]
upstream = "php"

[[routes]]
name = "plain"
path = "/plain/"
upstream = "php"
auth = "public"
"#;

fn start() -> Site {
    let login = "cors = { origins = [\"https://h5.example.com\"], credentials = true }";
    Site::with().routes(ROUTES).login(login).start()
}

fn preflight(site: &Site, target: &str, origin: &str, method: &str) -> Answer {
    let request = site.request("OPTIONS", target).header("Origin", origin);
    request.header("Access-Control-Request-Method", method).send()
}

/// The names of everything that CORS says in an answer, in lower case, sorted.
fn said(answer: &Answer) -> Vec<String> {
    let names = answer.headers.iter().map(|(name, _)| name.to_lowercase());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("access-control-")).collect();
    names.sort();
    names
}

#[test]
fn a_preflight_of_a_permitted_page_is_answered_without_a_token_and_without_the_backend() {
    let site = start();
    for origin in [H5, "https://a.shop.test", "https://b.a.shop.test"] {
        let answer = preflight(&site, "/api/me?x=1", origin, "PUT");
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(origin));
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), Some("true"));
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
        assert_eq!(answer.header("Access-Control-Allow-Methods"), Some(methods));
        let headers = "Authorization, Content-Type, x-session-token";
        assert_eq!(answer.header("Access-Control-Allow-Headers"), Some(headers));
        assert_eq!(answer.header("Access-Control-Max-Age"), Some("3600"));
        assert!(answer.header("Vary").unwrap().starts_with("Origin"));
        assert!(answer.body.is_empty());
    }
    assert_eq!(site.upstream.connections(), 0, "the backend was asked");
    let line = site.access_line(|line| line["method"] == "OPTIONS");
    assert_eq!((&line["route"], &line["status"]), (&json!("api"), &json!(204)));
}

#[test]
fn a_preflight_of_another_page_goes_the_way_of_all_requests() {
    let site = start();
    for origin in [
        "https://evil.test",
        "http://h5.example.com",
        "https://h5.example.com.evil.test",
        "https://h5.example.com:8443",
        "https://H5.EXAMPLE.COM",
        "https://shop.test",
        "https://evil.test/.shop.test",
        "null",
        "*",
        "",
    ] {
        let answer = preflight(&site, "/api/me", origin, "PUT");
        answer.assert_refused(401, "unauthorized");
        assert_eq!(said(&answer), [""; 0], "{origin}");
        assert_eq!(answer.header("Vary"), Some("Origin"), "{origin}");
    }
    // What is no preflight, or one that can be read in two ways.
    let origin = || site.request("OPTIONS", "/api/me").header("Origin", H5);
    let asks = "Access-Control-Request-Method";
    for request in [
        origin(),
        site.request("OPTIONS", "/api/me").header(asks, "GET"),
        origin().header("Origin", H5).header(asks, "GET"),
        origin().header(asks, "GET").header(asks, "PUT"),
        site.post("/api/me").header("Origin", H5).header(asks, "GET").body(""),
    ] {
        request.send().assert_refused(401, "unauthorized");
    }
    // A route without `cors` leaves it to its backend.
    preflight(&site, "/plain/x", H5, "GET");
    assert_eq!(site.upstream.last().method, "OPTIONS");
    assert_eq!(site.upstream.requests().len(), 1);
}

#[test]
fn the_method_that_is_asked_for_chooses_the_route() {
    let site = start();
    let answer = preflight(&site, "/reports/1", "https://anybody.test", "GET");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("GET"));
    assert_eq!(answer.header("Access-Control-Allow-Headers"), None);
    assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
    // DELETE is of the same route, and the browser reads that only GET is permitted.
    let answer = preflight(&site, "/reports/1", "https://anybody.test", "DELETE");
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("GET"));
    for method in ["POST", "PATCH", "OPTIONS", "get", ""] {
        let answer = preflight(&site, "/reports/1", "https://anybody.test", method);
        answer.assert_refused(405, "method_not_allowed");
        assert_eq!(said(&answer), [""; 0], "{method}");
    }
    // A preflight opens nothing: the request itself still needs what its route asks.
    site.post("/reports/1").body("").send().assert_refused(401, "unauthorized");
    assert_eq!(site.upstream.connections(), 0);
}

#[test]
fn answers_say_what_the_gateway_says_and_not_what_the_backend_says() {
    let site = start();
    let token = site.log_in("alice");
    let theirs = [
        "Access-Control-Allow-Origin: *",
        "access-control-allow-credentials: maybe",
        "Access-Control-Allow-Private-Network: true",
        "Vary: Accept-Encoding",
        "X-Total: 7",
    ];
    site.upstream.answers_everything(Reply::with_body("200 OK", &theirs, "ok"));
    let answer = site.get("/api/me").bearer(&token).header("Origin", H5).send();
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5));
    assert_eq!(answer.header("Access-Control-Allow-Credentials"), Some("true"));
    let exposed = "X-Session-Expires-In, X-Request-Id, Retry-After, X-Total";
    assert_eq!(answer.header("Access-Control-Expose-Headers"), Some(exposed));
    assert_eq!(said(&answer).len(), 3);
    assert_eq!(answer.values("Vary"), ["Accept-Encoding", "Origin"]);
    // The backend decides by itself what it does with Origin.
    assert_eq!(site.upstream.last().header("Origin"), Some(H5));
    let request = || site.get("/api/me").bearer(&token);
    for request in [request().header("Origin", "https://evil.test"), request()] {
        let answer = request.send();
        assert_eq!(answer.status, 200, "no page is kept out by CORS alone");
        assert_eq!(said(&answer), [""; 0]);
        assert_eq!(answer.values("Vary"), ["Accept-Encoding", "Origin"]);
    }
    let answer = site.get("/reports/1").send();
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(answer.values("Vary"), ["Accept-Encoding"], "everybody gets the same");
    let answer = site.get("/plain/1").send();
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"), "left to the backend");
    assert_eq!(said(&answer).len(), 3);
}

#[test]
fn refusals_of_the_gateway_can_be_read_too() {
    let site = start();
    let old = Forge::of("alice").claim("exp", unix_seconds() - 5).token();
    for (request, status) in [
        (site.get("/api/me"), 401),
        (site.get("/api/me").bearer(&old), 401),
        (site.post("/api/me").header("Content-Length", "999999999999"), 413),
    ] {
        let answer = request.header("Origin", H5).send();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5), "{status}");
        assert_eq!(answer.header("Vary"), Some("Origin"));
        assert!(answer.json()["error"].is_string());
    }
    let token = site.log_in("alice");
    site.upstream.answers("/api/broken", Reply::default().then_close());
    let answer = site.post("/api/broken").bearer(&token).header("Origin", H5).body("").send();
    answer.assert_refused(502, "bad_gateway");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5));
}

#[test]
fn a_page_logs_in_and_refreshes_across_sites_but_not_by_cookie() {
    let site = start();
    let answer = preflight(&site, "/wx/auth", H5, "POST");
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5));
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("GET, HEAD, POST"));
    preflight(&site, "/wx/auth", "https://evil.test", "POST")
        .assert_refused(405, "method_not_allowed");
    preflight(&site, "/wx/auth", H5, "GET").assert_refused(405, "method_not_allowed");
    preflight(&site, "/wx/nothing", H5, "POST").assert_refused(404, "not_found");
    let code = json!({ "code": site.wechat.code_of("alice") });
    let answer = site.post("/wx/auth").header("Origin", H5).json(&code).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5));
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    for request in [site.post("/wx/refresh").body(""), site.get("/wx/session")] {
        let answer = request.bearer(&token).header("Origin", H5).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5));
    }
    let by_cookie = format!("wxgate_session={token}");
    let answer = site.post("/wx/refresh").header("Cookie", &by_cookie).header("Origin", H5);
    let answer = answer.body("").send();
    answer.assert_refused(403, "access_denied");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(H5), "and can be read");
    let answer = site.get("/wx/session").header("Origin", "https://evil.test").send();
    answer.assert_refused(401, "unauthorized");
    assert_eq!(said(&answer), [""; 0]);
}

#[test]
fn a_gateway_without_cors_says_nothing_of_it() {
    let site = Site::start();
    let answer = site.get("/api/me").header("Origin", H5).send();
    assert_eq!(said(&answer), [""; 0]);
    assert_eq!(answer.header("Vary"), None);
    preflight(&site, "/api/me", H5, "GET").assert_refused(401, "unauthorized");
    preflight(&site, "/wx/session", H5, "GET").assert_refused(405, "method_not_allowed");
}

#[test]
fn the_same_holds_over_http_2() {
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).routes(ROUTES).start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let asks = [("origin", H5), ("access-control-request-method", "PUT")];
    let ask = |headers| Call { method: "OPTIONS", ..Call::get("/api/me", headers) };
    let answer = http2.send(&ask(&asks)).unwrap();
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some(H5));
    let answer = http2.send(&ask(&asks[1..])).unwrap();
    assert_eq!(answer.status, 401);
    let answer = http2.send(&Call::get("/api/me", &asks[..1])).unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), Some(H5));
    let theirs = ["Access-Control-Allow-Origin: https://theirs.test"];
    site.upstream.answers_everything(Reply::with_body("200 OK", &theirs, "ok"));
    let bearer = format!("Bearer {}", Forge::of("alice").token());
    let answer =
        http2.send(&Call::get("/api/me", &[("origin", H5), ("authorization", &bearer)])).unwrap();
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.header("access-control-allow-origin"), Some(H5));
    assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().count(), 1);
}
