//! The cookie bridge: what a backend keeps in cookies works for a client that keeps none, and
//! stays within the session that it was set in.

use std::time::Duration;

use crate::harness::http2::{Call, Http2};
use crate::harness::site::Settings;
use crate::harness::tls::Authority;
use crate::harness::{Answer, Refusing, Reply, Site, Upstream, eventually, within};
use crate::{http2, tls};

const ROUTES: &str = r#"
[[routes]]
name = "shop"
path = "/shop/"
upstream = "php"
auth = "required"
cookie_bridge = true

[[routes]]
name = "maybe"
path = "/maybe/"
upstream = "php"
auth = "optional"
cookie_bridge = true

[[routes]]
name = "stripped"
path = "/v1/shop/"
upstream = "php"
auth = "required"
strip_prefix = "/v1"
cookie_bridge = true

[[routes]]
name = "java"
path = "/java/"
upstream = "java"
auth = "required"
cookie_bridge = true

[[routes]]
name = "plain"
path = "/plain/"
upstream = "php"
auth = "required"
"#;

fn bridged() -> Settings {
    Site::with().routes(ROUTES)
}

/// The upstream `java` is the same backend under another name.
fn start(settings: Settings) -> Site {
    let upstream = Upstream::start();
    let java = format!("[[upstreams]]\nname = \"java\"\nservers = [\"{}\"]\n", upstream.address());
    settings.more_upstreams(&java).start_with(upstream)
}

fn sets(lines: &[&str]) -> Reply {
    let lines: Vec<_> = lines.iter().map(|line| format!("Set-Cookie: {line}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    Reply::with_body("200 OK", &lines, "set")
}

/// Asks for a path of the backend; its answer must not hold a cookie.
#[track_caller]
fn get(site: &Site, path: &str, token: &str) -> Answer {
    let answer = site.get(path).bearer(token).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.values("Set-Cookie").is_empty(), "{:?}", answer.headers);
    answer
}

/// The `Cookie` that a request arrives with.
#[track_caller]
fn cookie(site: &Site, path: &str, token: &str) -> Option<String> {
    get(site, path, token);
    site.upstream.last().header("Cookie").map(ToOwned::to_owned)
}

#[test]
fn a_cookie_comes_back_with_the_next_requests_of_its_session_and_no_other() {
    let site = start(bridged());
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1; path=/; HttpOnly", "lang=zh"]));
    let (ann, bob) = (site.log_in("ann"), site.log_in("bob"));
    let again = site.log_in("ann");
    assert_eq!(cookie(&site, "/shop/in", &ann), None);
    assert_eq!(cookie(&site, "/shop/cart", &ann).as_deref(), Some("lang=zh; PHPSESSID=s1"));
    assert_eq!(cookie(&site, "/shop/cart", &bob), None, "another user");
    assert_eq!(cookie(&site, "/shop/cart", &again), None, "another session of the user");
    assert_eq!(cookie(&site, "/java/x", &ann), None, "another upstream");
    assert_eq!(cookie(&site, "/plain/x", &ann), None, "a route without the bridge");
    // Any kind of request: with a body, chunked, HEAD, a long-lived one.
    let post = site.post("/shop/cart").bearer(&ann).body("x=1").send();
    assert_eq!(post.status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), Some("lang=zh; PHPSESSID=s1"));
    let chunked = format!(
        "POST /shop/cart HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {ann}\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n"
    );
    assert_eq!(site.raw(chunked).status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), Some("lang=zh; PHPSESSID=s1"));
}

#[test]
fn a_clients_own_cookie_header_keeps_its_spelling() {
    let site = start(bridged());
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1; path=/"]));
    let token = site.log_in("ann");
    get(&site, "/shop/in", &token);
    for (sent, arrives) in
        [(Some("cOOkie"), "cOOkie"), (Some("Cookie"), "Cookie"), (None, "Cookie")]
    {
        let request = site.get("/shop/cart").bearer(&token);
        let request = match sent {
            Some(name) => request.header(name, "own=1"),
            None => request,
        };
        assert_eq!(request.send().status, 200);
        let seen = site.upstream.last();
        assert!(seen.values("Cookie")[0].starts_with("PHPSESSID=s1"), "{}", seen.raw());
        assert!(seen.headers.iter().any(|(name, _)| name == arrives), "{}", seen.raw());
    }
}

#[test]
fn paths_expiry_deletion_and_hosts_count_as_in_a_browser() {
    let site = start(bridged());
    let token = site.log_in("ann");
    let here = "here=1; Path=/shop/here";
    let soon = "soon=1; Max-Age=1";
    let foreign = "foreign=1; Domain=evil.test";
    site.upstream.answers("/shop/a", sets(&[here, soon, foreign, "a=1; Secure", "b=1", "c=1"]));
    get(&site, "/shop/a", &token);
    let all = cookie(&site, "/shop/here/x", &token).unwrap();
    assert!(all == "here=1; soon=1; a=1; b=1; c=1" || all == "here=1; a=1; b=1; c=1", "{all}");
    let gone = "b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
    site.upstream.answers("/shop/a", sets(&[gone, "c=2"]));
    get(&site, "/shop/a", &token);
    eventually("a cookie's time is over", || {
        cookie(&site, "/shop/", &token).as_deref() == Some("a=1; c=2")
    });
    let elsewhere = site.get("/shop/").host("other.test").bearer(&token).send();
    assert_eq!(elsewhere.status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), None);
    // Cookies go by the paths that the backend knows.
    assert_eq!(cookie(&site, "/v1/shop/here/", &token).as_deref(), Some("here=1; a=1; c=2"));
}

#[test]
fn the_clients_own_cookies_go_along_and_the_jar_wins_where_names_are_equal() {
    let site = start(bridged());
    let token = site.log_in("ann");
    site.upstream.answers("/shop/in", sets(&["sid=kept", "wxgate_session=theirs"]));
    get(&site, "/shop/in", &token);
    let mine = format!("theme=dark;sid=forged; wxgate_session={token};; sid2=x");
    let answer = site.get("/shop/").header("Cookie", &mine).header("cookie", "last=1").send();
    assert_eq!(answer.status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), Some("sid=kept; theme=dark; sid2=x; last=1"));
    // Nor is the gateway's own cookie kept.
    assert_eq!(cookie(&site, "/shop/", &token).as_deref(), Some("sid=kept"));
}

#[test]
fn a_guest_has_no_jar_and_other_routes_pass_cookies_on() {
    let site = start(bridged());
    let token = site.log_in("ann");
    for path in ["/maybe/in", "/plain/in"] {
        site.upstream.answers(path, sets(&["a=1"]));
    }
    let guest = site.get("/maybe/in").header("Cookie", "own=1").send();
    assert_eq!(guest.values("Set-Cookie"), ["a=1"]);
    assert_eq!(site.upstream.last().header("Cookie"), Some("own=1"));
    let plain = site.get("/plain/in").bearer(&token).send();
    assert_eq!(plain.values("Set-Cookie"), ["a=1"]);
    assert_eq!(cookie(&site, "/maybe/x", &token), None);
    assert_eq!(cookie(&site, "/maybe/in", &token), None);
    assert_eq!(cookie(&site, "/maybe/x", &token).as_deref(), Some("a=1"));
    assert_eq!(site.get("/maybe/x").send().status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), None);
}

#[test]
fn a_jar_outlives_refresh_and_restart_and_dies_with_its_session() {
    let settings = bridged().session("store = \"sqlite:wxgate.db\"");
    let mut site = start(settings);
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1", "keep=1; Max-Age=86400"]));
    let token = site.log_in("ann");
    get(&site, "/shop/in", &token);
    let refreshed = site.post("/wx/refresh").bearer(&token).send().json();
    let refreshed = refreshed["access_token"].as_str().unwrap();
    let both = Some("PHPSESSID=s1; keep=1");
    assert_eq!(cookie(&site, "/shop/", refreshed).as_deref(), both);
    site.gateway.restart();
    assert_eq!(cookie(&site, "/shop/", &token).as_deref(), both);
    assert_eq!(site.post("/wx/logout").bearer(refreshed).send().status, 204);
    site.get("/shop/").bearer(&token).send().assert_refused(401, "invalid_token");
    assert_eq!(cookie(&site, "/shop/", &site.log_in("ann")), None);
}

#[test]
fn parallel_requests_of_a_session_lose_no_cookie() {
    let site = start(bridged());
    let token = site.log_in("ann");
    for number in 0..20 {
        let reply = sets(&[&format!("c{number:02}=1"), "both=1"]);
        site.upstream.answers(&format!("/shop/{number}"), reply);
    }
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (site, token) = (&site, &token);
            scope.spawn(move || get(site, &format!("/shop/{number}"), token));
        }
    });
    let kept = cookie(&site, "/shop/", &token).unwrap();
    let mut kept: Vec<_> = kept.split("; ").map(ToOwned::to_owned).collect();
    kept.sort();
    let mut all: Vec<_> = (0..20).map(|number| format!("c{number:02}=1")).collect();
    all.insert(0, "both=1".to_owned());
    assert_eq!(kept, all);
}

#[test]
fn a_jar_holds_50_cookies_and_16_kib() {
    let site = start(bridged());
    let token = site.log_in("ann");
    let lines: Vec<_> = (0..60).map(|number| format!("c{number}=1")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    site.upstream.answers("/shop/many", sets(&lines));
    get(&site, "/shop/many", &token);
    let kept = cookie(&site, "/shop/", &token).unwrap();
    assert_eq!(kept.split("; ").count(), 50);
    assert!(kept.starts_with("c10=1; ") && kept.ends_with("; c59=1"), "{kept}");
    let long = "x".repeat(4000);
    let lines: Vec<_> = (0..6).map(|number| format!("l{number}={long}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    site.upstream.answers("/shop/long", sets(&lines));
    get(&site, "/shop/long", &token);
    let kept = cookie(&site, "/shop/", &token).unwrap();
    let names: Vec<_> = kept.split("; ").map(|pair| &pair[..2]).collect();
    assert_eq!(names, ["l2", "l3", "l4", "l5"]);
}

#[test]
fn a_websocket_and_an_interim_answer_are_bridged_too() {
    let site = start(bridged());
    let token = site.log_in("ann");
    let early = "HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n\
                 HTTP/1.1 200 OK\r\nSet-Cookie: late=1\r\nContent-Length: 0\r\n\r\n";
    site.upstream.answers("/shop/early", Reply::raw(early));
    assert_eq!(get(&site, "/shop/early", &token).interim, [103]);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSet-Cookie: socket=1\r\n\r\n";
    site.upstream.answers("/shop/socket", Reply::raw(switch).then_echo());
    let mut connection = site.connect();
    let answer = site
        .get("/shop/socket")
        .bearer(&token)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send_on(&mut connection);
    assert_eq!((answer.status, answer.values("Set-Cookie").len()), (101, 0));
    let head = site.upstream.last();
    assert_eq!(head.header("Cookie"), Some("early=1; late=1"));
    assert_eq!(cookie(&site, "/shop/", &token).as_deref(), Some("early=1; late=1; socket=1"));
}

#[test]
fn http_2_is_bridged_as_http_1_is() {
    let authority = Authority::new();
    let site = start(tls::with(&authority.issue()).routes(ROUTES));
    let client = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let bearer = format!("Bearer {}", http2::log_in(&site, &client, "ann"));
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1"]));
    let headers = [("authorization", bearer.as_str()), ("cookie", "a=1"), ("cookie", "b=2")];
    let answer = client.send(&Call::get("/shop/in", &headers)).unwrap();
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
    assert_eq!(site.upstream.last().header("Cookie"), Some("a=1; b=2"));
    assert_eq!(client.send(&Call::get("/shop/", &headers)).unwrap().status, 200);
    assert_eq!(site.upstream.last().header("Cookie"), Some("PHPSESSID=s1; a=1; b=2"));
}

#[test]
fn a_retry_takes_the_cookies_along() {
    let refusing = Refusing::start();
    let upstream = Upstream::start();
    let servers = format!("[\"{}\", \"{}\"]", refusing.address(), upstream.address());
    let java = "[[upstreams]]\nname = \"java\"\nservers = [\"127.0.0.1:9\"]\n";
    let site = bridged().servers(&servers).more_upstreams(java).start_with(upstream);
    let token = site.log_in("ann");
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1"]));
    get(&site, "/shop/in", &token);
    for _ in 0..4 {
        assert_eq!(cookie(&site, "/shop/", &token).as_deref(), Some("PHPSESSID=s1"));
    }
    let retries = || site.gateway.metric("wxgate_upstream_retries_total", &[]);
    eventually("a server was tried again", || retries() >= 1.0);
}

#[test]
fn what_a_reload_turns_off_is_off() {
    let mut site = start(bridged());
    let token = site.log_in("ann");
    site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1"]));
    get(&site, "/shop/in", &token);
    assert!(site.reload(|settings| settings.routes(&ROUTES.replace("cookie_bridge = true", ""))));
    assert_eq!(site.get("/shop/in").bearer(&token).send().values("Set-Cookie"), ["PHPSESSID=s1"]);
    assert_eq!(site.upstream.last().header("Cookie"), None);
    assert!(site.reload(|settings| settings.routes(ROUTES)));
    assert_eq!(cookie(&site, "/shop/", &token).as_deref(), Some("PHPSESSID=s1"));
}

#[test]
fn where_the_store_fails_on_store_error_decides() {
    for (policy, status) in [("deny", 503), ("allow", 200)] {
        let store = format!("store = \"sqlite:wxgate.db\"\non_store_error = \"{policy}\"");
        let site = start(bridged().session(&store));
        let token = site.log_in("ann");
        site.upstream.answers("/shop/in", sets(&["PHPSESSID=s1"]));
        site.gateway.limit_file_size(Some(0));
        let answer = site.get("/shop/in").bearer(&token).send();
        assert_eq!(answer.status, status, "{policy}: {}", answer.text());
        assert!(answer.values("Set-Cookie").is_empty());
        if status == 503 {
            answer.assert_refused(503, "temporarily_unavailable");
        }
        // What needs no store goes on.
        assert_eq!(site.get("/plain/x").bearer(&token).send().status, 200);
        site.gateway.limit_file_size(None);
        let limit = Duration::from_secs(10);
        within(limit, "the store is up again", || site.admin("/readyz").send().status == 200);
        get(&site, "/shop/in", &token);
        assert_eq!(cookie(&site, "/shop/", &token).as_deref(), Some("PHPSESSID=s1"));
    }
}
