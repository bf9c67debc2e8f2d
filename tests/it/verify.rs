//! Forward-auth: a proxy in front asks whether its client's request may pass, and as whom.

use crate::harness::token::{Forge, unix_seconds};
use crate::harness::wechat::{APPID, openid_of};
use crate::harness::{Answer, Site};

const ROUTES: &str = r#"
[[routes]]
path = "/"
upstream = "php"
auth = "required"

[[routes]]
path = "/open/"
upstream = "php"
auth = "public"

[[routes]]
path = "/maybe/"
upstream = "php"
auth = "optional"

[[routes]]
path = "/paid/"
upstream = "php"
auth = "required"
allow = { scope = ["phone"] }

[[routes]]
host = "admin.test"
path = "/"
methods = ["GET"]
upstream = "php"
auth = "required"
allow = { appids = ["wx0123456789abcdef"], scope = ["phone"] }
"#;

fn site() -> Site {
    let trusted = "trusted_proxies = [\"127.0.0.1/32\"]";
    Site::with().server(trusted).login("verify = true").routes(ROUTES).start()
}

fn ask(site: &Site, headers: &[(&str, &str)]) -> Answer {
    let request = site.get("/wx/verify").host("gateway.internal");
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

/// Asks as a proxy does that tells all: about a GET for this path of shop.test.
fn ask_about(site: &Site, uri: &str, more: &[(&str, &str)]) -> Answer {
    let told = [
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Host", "shop.test"),
        ("X-Forwarded-Uri", uri),
    ];
    ask(site, &[&told, more].concat())
}

#[test]
fn a_token_that_is_about_to_end_says_so_here_too() {
    let site = site();
    let now = unix_seconds();
    let token = Forge::of("alice").claim("iat", now - 3000).claim("exp", now + 60).token();
    let answer = ask_about(&site, "/api/x", &[("Authorization", &format!("Bearer {token}"))]);
    assert_eq!(answer.status, 200);
    let left: u64 = answer.header("X-Session-Expires-In").expect("no hint").parse().unwrap();
    assert!((1..=60).contains(&left), "{left}");
}

#[test]
fn a_good_token_passes_with_the_identity_in_headers() {
    let site = site();
    let bearer = format!("Bearer {}", site.log_in("alice"));
    let more = [("Authorization", bearer.as_str()), ("X-WX-OPENID", "oEvil0000")];
    let answer = ask_about(&site, "/a?b=c", &more);
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(answer.values("X-WX-OPENID"), [openid_of("alice")]);
    assert_eq!(answer.values("X-WX-APPID"), [APPID]);
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    assert!(site.upstream.requests().is_empty(), "nothing is forwarded");
}

#[test]
fn policy_is_that_of_the_original_request_after_the_same_normaliser() {
    let site = site();
    let bearer = format!("Bearer {}", site.log_in("alice"));
    let token = ("Authorization", bearer.as_str());
    for (uri, guest, alice) in [
        ("/a", 401, 200),
        ("/open/x", 200, 200),
        ("/maybe/x", 200, 200),
        ("/paid/x", 401, 403),
        ("/open/../paid/x", 401, 403),
        ("/open/%2e%2e/a", 401, 200),
        ("//paid//x", 401, 403),
        ("/%70aid/x", 401, 403),
        ("/open/..%2fa", 403, 403),
        ("/open/..;/a", 403, 403),
        ("/open\\..\\a", 403, 403),
        ("/open/%2e%2e%2fpaid/x", 403, 403),
        ("/open/.%2e/paid/x", 401, 403),
        ("/paid;v=1/x", 401, 403),
        ("/open/%00", 403, 403),
        ("/open/%", 403, 403),
        ("/../open/x", 403, 403),
        ("/open/x#/../../paid/x", 403, 403),
        ("/open/ x", 403, 403),
        ("*", 403, 403),
        ("", 403, 403),
        ("open/x", 403, 403),
        ("/open/x?/../../paid/x", 200, 200),
        ("/wx/auth", 403, 403),
        ("/WX/../wx/verify", 403, 403),
        ("https://shop.test/open/x", 403, 403),
    ] {
        assert_eq!(ask_about(&site, uri, &[]).status, guest, "{uri}");
        assert_eq!(ask_about(&site, uri, &[token]).status, alice, "{uri}");
    }
    let at = |host, method| {
        let lines = [
            ("X-Forwarded-Uri", "/open/x"),
            ("X-Forwarded-Host", host),
            ("X-Forwarded-Method", method),
            token,
        ];
        ask(&site, &lines)
    };
    at("admin.test", "GET").assert_refused(403, "insufficient_scope");
    at("admin.test", "POST").assert_refused(403, "access_denied");
    assert_eq!(at("shop.test", "POST").status, 200);
    assert_eq!(at("ADMIN.test.:443", "GET").status, 403, "a host in every spelling");
    assert_eq!(at("", "GET").status, 200, "no host is nobody's");
    let guest = ask_about(&site, "/maybe/x", &[("X-WX-OPENID", "oEvil0000")]);
    assert!(guest.header("X-WX-OPENID").is_none());
    let bad = ask_about(&site, "/maybe/x", &[("Authorization", "Bearer bad")]);
    bad.assert_refused(401, "invalid_token");
    let two = [token, ("Authorization", "Basic YTpi")];
    ask_about(&site, "/a", &two).assert_refused(403, "access_denied");
}

#[test]
fn what_a_proxy_does_not_tell_must_not_matter() {
    let routes = r#"
[[routes]]
path = "/"
upstream = "php"
auth = "public"

[[routes]]
path = "/read/"
methods = ["GET"]
upstream = "php"
auth = "public"

[[routes]]
path = "/both/"
methods = ["GET"]
upstream = "php"
auth = "public"

[[routes]]
path = "/both/"
methods = ["POST"]
upstream = "php"
auth = "required"

[[routes]]
host = "admin.test"
path = "/staff/"
upstream = "php"
auth = "required"

[[routes]]
host = "*.shops.test"
path = "/tills/"
upstream = "php"
auth = "required"
"#;
    let trusted = "trusted_proxies = [\"127.0.0.1/32\"]";
    let site = Site::with().server(trusted).login("verify = true").routes(routes).start();
    let method = ("X-Forwarded-Method", "GET");
    let host = ("X-Forwarded-Host", "shop.test");
    let on = |name, uri, more: &[(&str, &str)]| ask(&site, &[&[(name, uri)], more].concat()).status;
    for (path, all, no_method, no_host, uri_alone) in [
        ("/x", 200, 200, 200, 200),
        ("/read/x", 200, 403, 200, 403),
        ("/both/x", 200, 403, 200, 403),
        ("/staff/x", 200, 200, 403, 403),
        ("/staff", 200, 200, 403, 403),
        ("/tills/x", 200, 200, 403, 403),
    ] {
        assert_eq!(on("X-Forwarded-Uri", path, &[method, host]), all, "{path}");
        assert_eq!(on("X-Forwarded-Uri", path, &[host]), no_method, "{path} without method");
        assert_eq!(on("X-Forwarded-Uri", path, &[method]), no_host, "{path} without host");
        assert_eq!(on("X-Original-URI", path, &[]), uri_alone, "{path} alone");
        // nginx passes on what its client says, unless it is told to say it itself.
        let evil = [("X-Forwarded-Uri", path), method, host];
        assert_eq!(on("X-Original-URI", path, &evil), uri_alone, "{path} beside a client's word");
        assert_eq!(on("X-Original-URI", path, &evil[1..]), uri_alone, "{path} beside two");
    }
}

#[test]
fn what_a_client_could_have_added_is_not_believed() {
    let site = site();
    for lines in [
        &[("X-Forwarded-Uri", "/open/x"), ("X-Original-URI", "/a")][..],
        &[("X-Forwarded-Uri", "/open/x"), ("X-Forwarded-Uri", "/a")],
        &[("X-Original-URI", "/open/x"), ("X-Original-URI", "/open/x")],
        &[("X-Forwarded-Uri", "/x"), ("X-Forwarded-Method", "GET"), ("X-Forwarded-Method", "PUT")],
        &[
            ("X-Forwarded-Uri", "/x"),
            ("X-Forwarded-Host", "a.test"),
            ("X-Forwarded-Host", "a.test"),
        ],
    ] {
        ask(&site, lines).assert_refused(403, "access_denied");
    }
    // That is the operator's mistake, and worth an error in the proxy's log.
    ask(&site, &[]).assert_refused(400, "invalid_request");
    let told = [("X-Forwarded-Method", "GET"), ("X-Forwarded-Host", "shop.test")];
    for method in ["POST", "OPTIONS", "PUT", "DELETE"] {
        let request = site.request(method, "/wx/verify").header("X-Forwarded-Uri", "/open/x");
        let answer = told.iter().fold(request, |it, (name, value)| it.header(name, value)).send();
        assert_eq!(answer.status, 405, "{method}: {}", answer.text());
    }
    for spelled in ["X_Forwarded_Uri", "X-Forwarded.Uri"] {
        ask(&site, &[(spelled, "/open/x")]).assert_refused(400, "invalid_request");
    }
}

#[test]
fn it_is_off_unless_asked_for_and_only_trusted_proxies_may_ask() {
    let off = Site::with().routes(ROUTES).start();
    ask_about(&off, "/open/x", &[]).assert_refused(404, "not_found");
    let elsewhere = "trusted_proxies = [\"192.0.2.1/32\"]";
    let site = Site::with().server(elsewhere).login("verify = true").routes(ROUTES).start();
    ask_about(&site, "/open/x", &[]).assert_refused(403, "access_denied");
    let nobody = Site::with().login("verify = true").routes(ROUTES).start();
    ask_about(&nobody, "/open/x", &[]).assert_refused(403, "access_denied");
    let warned = nobody.gateway.stderr();
    assert!(warned.contains("warning: login.verify: "), "{warned}");
}
