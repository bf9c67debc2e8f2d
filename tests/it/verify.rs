//! Forward-auth: a proxy in front asks whether its client's request may pass, and as whom.

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
    let request = site.get("/wx/verify").host("shop.test");
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

#[test]
fn a_good_token_passes_with_the_identity_in_headers() {
    let site = site();
    let bearer = format!("Bearer {}", site.log_in("alice"));
    for uri in ["X-Forwarded-Uri", "X-Original-URI"] {
        let spoofed = ("X-WX-OPENID", "oEvil0000");
        let answer = ask(&site, &[(uri, "/a?b=c"), ("Authorization", &bearer), spoofed]);
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
        assert_eq!(answer.values("X-WX-OPENID"), [openid_of("alice")]);
        assert_eq!(answer.values("X-WX-APPID"), [APPID]);
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    }
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
        ("/wx/auth", 403, 403),
        ("https://shop.test/open/x", 403, 403),
    ] {
        assert_eq!(ask(&site, &[("X-Forwarded-Uri", uri)]).status, guest, "{uri}");
        assert_eq!(ask(&site, &[("X-Forwarded-Uri", uri), token]).status, alice, "{uri}");
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
    let guest = ask(&site, &[("X-Forwarded-Uri", "/maybe/x")]);
    assert!(guest.header("X-WX-OPENID").is_none());
    let bad = ask(&site, &[("X-Forwarded-Uri", "/maybe/x"), ("Authorization", "Bearer bad")]);
    bad.assert_refused(401, "invalid_token");
}

#[test]
fn what_a_client_could_have_added_is_not_believed() {
    let site = site();
    for lines in [
        &[("X-Forwarded-Uri", "/open/x"), ("X-Original-URI", "/a")][..],
        &[("X-Forwarded-Uri", "/open/x"), ("X-Forwarded-Uri", "/a")],
        &[("X-Original-URI", "/open/x"), ("X-Original-URI", "/open/x")],
        &[("X-Forwarded-Uri", "/x"), ("X-Forwarded-Method", "GET"), ("X-Forwarded-Method", "PUT")],
        &[],
    ] {
        ask(&site, lines).assert_refused(400, "invalid_request");
    }
}

#[test]
fn it_is_off_unless_asked_for_and_only_trusted_proxies_may_ask() {
    let off = Site::with().routes(ROUTES).start();
    ask(&off, &[("X-Forwarded-Uri", "/open/x")]).assert_refused(404, "not_found");
    let elsewhere = "trusted_proxies = [\"192.0.2.1/32\"]";
    let site = Site::with().server(elsewhere).login("verify = true").routes(ROUTES).start();
    ask(&site, &[("X-Forwarded-Uri", "/open/x")]).assert_refused(403, "access_denied");
}
