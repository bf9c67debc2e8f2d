//! Who is let through a route: allow, deny, scopes, list files, rate limits.

use std::time::Duration;

use serde_json::json;

use crate::harness::token::Forge;
use crate::harness::wechat::openid_of;
use crate::harness::{Site, within};

/// A change of a list file is live within 2 s; half a second more for a busy machine.
const LIVE: Duration = Duration::from_millis(2_500);

fn route(auth: &str, lines: &str) -> String {
    format!(
        "[[routes]]\nname = \"guarded\"\npath = \"/\"\nupstream = \"php\"\nauth = \"{auth}\"\n{lines}\n"
    )
}

fn status(site: &Site, token: &str) -> u16 {
    site.get("/x").bearer(token).send().status
}

#[test]
fn a_required_route_wants_a_token() {
    let site = Site::start();
    let answer = site.get("/api/x").send();
    answer.assert_refused(401, "unauthorized");
    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer realm=\"wxgate\""));
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn an_optional_route_lets_guests_through_and_refuses_bad_tokens() {
    let site = Site::start();
    assert_eq!(site.get("/maybe/x").send().status, 200);
    let seen = site.upstream.last();
    assert!(seen.values("X-WX-OPENID").is_empty() && seen.values("X-WX-APPID").is_empty());
    let token = site.log_in("alice");
    assert_eq!(site.get("/maybe/x").bearer(&token).send().status, 200);
    assert_eq!(site.upstream.last().values("X-WX-OPENID"), [openid_of("alice")]);
    let bad = site.get("/maybe/x").bearer("bad").send();
    bad.assert_refused(401, "invalid_token");
    assert_eq!(site.upstream.requests().len(), 2);
}

#[test]
fn a_public_route_neither_needs_nor_reads_a_token() {
    let site = Site::start();
    let revoked = site.log_in("alice");
    site.post("/wx/logout").bearer(&revoked).send();
    for token in ["bad", &revoked, &site.log_in("alice")] {
        assert_eq!(site.get("/open/x").bearer(token).send().status, 200);
        assert!(site.upstream.last().values("X-WX-OPENID").is_empty());
    }
}

#[test]
fn only_listed_users_pass_where_a_list_allows() {
    let list =
        format!("# testers\n\n{}\n  {}  # with a remark\n", openid_of("alice"), openid_of("bob"));
    let site = Site::with()
        .routes(&route("required", "allow = { openids_file = \"beta.txt\" }"))
        .file("beta.txt", &list)
        .start();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| site.log_in(user));
    assert_eq!(status(&site, &alice), 200);
    assert_eq!(status(&site, &bob), 200);
    let answer = site.get("/x").bearer(&carol).send();
    answer.assert_refused(403, "access_denied");
    assert_eq!(site.upstream.requests().len(), 2);
}

#[test]
fn listed_users_are_refused_where_a_list_denies() {
    let site = Site::with()
        .routes(&route("required", "deny = { openids_file = \"banned.txt\" }"))
        .file("banned.txt", &format!("{}\n", openid_of("mallory")))
        .start();
    let [alice, mallory] = ["alice", "mallory"].map(|user| site.log_in(user));
    assert_eq!(status(&site, &alice), 200);
    let answer = site.get("/x").bearer(&mallory).send();
    answer.assert_refused(403, "access_denied");
    assert!(!answer.text().contains(&openid_of("mallory")));
}

#[test]
fn a_list_with_windows_line_ends_and_no_last_newline_is_read() {
    let site = Site::with()
        .routes(&route("required", "deny = { openids_file = \"banned.txt\" }"))
        .file("banned.txt", &format!("{}\r\n{}", openid_of("mallory"), openid_of("eve")))
        .start();
    for user in ["mallory", "eve"] {
        assert_eq!(status(&site, &site.log_in(user)), 403, "{user}");
    }
}

#[test]
fn a_changed_list_is_live_within_two_seconds() {
    let site = Site::with()
        .routes(&route("required", "deny = { openids_file = \"banned.txt\" }"))
        .file("banned.txt", "")
        .start();
    let token = site.log_in("alice");
    let list = site.gateway.file("banned.txt");
    assert_eq!(status(&site, &token), 200);
    std::fs::write(&list, openid_of("alice")).unwrap();
    within(LIVE, "alice is banned", || status(&site, &token) == 403);
    std::fs::write(&list, "").unwrap();
    within(LIVE, "alice is back", || status(&site, &token) == 200);
    // As editors and deployments do it.
    let new = site.gateway.file("banned.new");
    std::fs::write(&new, openid_of("alice")).unwrap();
    std::fs::rename(&new, &list).unwrap();
    within(LIVE, "alice is banned again", || status(&site, &token) == 403);
}

#[test]
fn a_change_that_keeps_length_and_name_is_seen() {
    let site = Site::with()
        .routes(&route("required", "deny = { openids_file = \"banned.txt\" }"))
        .file("banned.txt", &openid_of("bob"))
        .start();
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    assert_eq!((status(&site, &alice), status(&site, &bob)), (200, 403));
    std::fs::write(site.gateway.file("banned.txt"), openid_of("alice")).unwrap();
    within(LIVE, "the other is banned", || {
        (status(&site, &alice), status(&site, &bob)) == (403, 200)
    });
}

#[test]
fn a_list_that_vanishes_keeps_its_last_content() {
    let site = Site::with()
        .routes(&route("required", "deny = { openids_file = \"banned.txt\" }"))
        .file("banned.txt", &openid_of("mallory"))
        .start();
    let (alice, mallory) = (site.log_in("alice"), site.log_in("mallory"));
    std::fs::remove_file(site.gateway.file("banned.txt")).unwrap();
    within(Duration::from_secs(10), "the log says it", || {
        site.gateway.stderr().contains("banned.txt")
    });
    assert_eq!((status(&site, &alice), status(&site, &mallory)), (200, 403));
}

#[test]
fn on_an_optional_route_lists_judge_whoever_shows_a_token() {
    let lines = "allow = { openids_file = \"beta.txt\" }\ndeny = { openids_file = \"banned.txt\" }";
    let site = Site::with()
        .routes(&route("optional", lines))
        .file("beta.txt", &format!("{}\n{}\n", openid_of("alice"), openid_of("mallory")))
        .file("banned.txt", &openid_of("mallory"))
        .start();
    assert_eq!(site.get("/x").send().status, 200, "guests pass");
    for (user, expected) in [("alice", 200), ("bob", 403), ("mallory", 403)] {
        assert_eq!(status(&site, &site.log_in(user)), expected, "{user}");
    }
}

#[test]
fn all_conditions_of_allow_must_hold() {
    let lines = "allow = { appids = [\"wx0123456789abcdef\"], openids_file = \"beta.txt\", \
                 scope = [\"phone\"] }";
    let site = Site::with()
        .routes(&route("required", lines))
        .apps(
            "[[apps]]\nappid = \"wx0123456789abcdef\"\nsecret = { env = \"WX_SECRET\" }\n\
             kind = \"miniprogram\"\n\
             [[apps]]\nappid = \"wxfedcba9876543210\"\nsecret = { env = \"WX_SECRET\" }\n\
             kind = \"miniprogram\"\n",
        )
        .file("beta.txt", &openid_of("alice"))
        .start();
    let alice = || Forge::of("alice").claim("scope", "phone");
    assert_eq!(status(&site, &alice().token()), 200);
    let other_app = alice().claim("aud", "wxfedcba9876543210").token();
    assert_eq!(status(&site, &other_app), 403);
    assert_eq!(status(&site, &Forge::of("bob").claim("scope", "phone").token()), 403);
    assert_eq!(status(&site, &Forge::of("alice").token()), 403);
}

#[test]
fn a_missing_scope_says_which() {
    let site = Site::with().routes(&route("required", "allow = { scope = [\"phone\"] }")).start();
    let answer = site.get("/x").bearer(&site.log_in("alice")).send();
    answer.assert_refused(403, "insufficient_scope");
    let challenge = answer.header("WWW-Authenticate").expect("no WWW-Authenticate");
    assert!(challenge.starts_with("Bearer realm=\"wxgate\""), "{challenge}");
    assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    assert!(challenge.contains("scope=\"phone\""), "{challenge}");
}

#[test]
fn only_listed_apps_pass_where_apps_are_listed() {
    let site = Site::with()
        .routes(&route("required", "allow = { appids = [\"wxfedcba9876543210\"] }"))
        .apps(
            "[[apps]]\nappid = \"wx0123456789abcdef\"\nsecret = { env = \"WX_SECRET\" }\n\
             kind = \"miniprogram\"\n\
             [[apps]]\nappid = \"wxfedcba9876543210\"\nsecret = { env = \"WX_SECRET\" }\n\
             kind = \"miniprogram\"\n",
        )
        .start();
    for (appid, expected) in [("wx0123456789abcdef", 403), ("wxfedcba9876543210", 200)] {
        let body = json!({ "code": site.wechat.code_of("alice"), "appid": appid });
        let login = site.post("/wx/auth").json(&body).send().json();
        let token = login["access_token"].as_str().unwrap();
        assert_eq!(status(&site, token), expected, "{appid}");
    }
}

#[test]
fn a_limit_per_openid_counts_users_apart() {
    let site = Site::with()
        .routes(&route("required", "rate_limit = { per_openid = \"1/h\", burst = 3 }"))
        .start();
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    let again = site.log_in("alice");
    for token in [&alice, &again, &alice] {
        assert_eq!(status(&site, token), 200);
    }
    for token in [&alice, &again] {
        let answer = site.get("/x").bearer(token).send();
        answer.assert_refused(429, "slow_down");
        let wait: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
        assert!((1..=3600).contains(&wait), "{wait}");
    }
    assert_eq!(status(&site, &bob), 200);
}

#[test]
fn a_limit_per_openid_counts_guests_by_address() {
    let site = Site::with()
        .routes(&route("optional", "rate_limit = { per_openid = \"1/h\", burst = 2 }"))
        .start();
    let statuses: Vec<u16> = (0..4).map(|_| site.get("/x").send().status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(status(&site, &site.log_in("alice")), 200, "a user has a bucket of their own");
}

#[test]
fn a_limit_per_address_goes_by_the_clients_address_behind_a_trusted_proxy() {
    let site = Site::with()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .routes(&route("public", "rate_limit = { per_ip = \"1/h\", burst = 2 }"))
        .start();
    let from = |address: &str| site.get("/x").header("X-Forwarded-For", address).send().status;
    let statuses: Vec<u16> = (0..3).map(|_| from("198.51.100.1")).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(from("198.51.100.2"), 200);
    assert_eq!(from("203.0.113.5, 198.51.100.1"), 429, "the right-most untrusted one counts");
    assert_eq!([1, 2, 3].map(|n| from(&format!("2001:db8::{n}"))), [200, 200, 429], "a /64 is one");
}

#[test]
fn a_limit_per_address_cannot_be_evaded_by_a_forged_header() {
    let site = Site::with()
        .routes(&route("public", "rate_limit = { per_ip = \"1/h\", burst = 2 }"))
        .start();
    let from = |address: &str| site.get("/x").header("X-Forwarded-For", address).send().status;
    let statuses: Vec<u16> = (0..4).map(|n| from(&format!("198.51.100.{n}"))).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[test]
fn a_limit_lets_requests_through_again_as_time_goes_by() {
    let site = Site::with()
        .routes(&route("public", "rate_limit = { per_ip = \"5/s\", burst = 1 }"))
        .start();
    assert_eq!(site.get("/x").send().status, 200);
    within(Duration::from_secs(5), "the bucket fills", || site.get("/x").send().status == 200);
}

#[test]
fn decisions_are_counted_by_route_and_result() {
    let lines = "deny = { openids_file = \"banned.txt\" }";
    let site = Site::with()
        .more_routes(&format!("{}\n", route("required", lines).replace("\"/\"", "\"/guarded/\"")))
        .file("banned.txt", &openid_of("mallory"))
        .start();
    let (alice, mallory) = (site.log_in("alice"), site.log_in("mallory"));
    let ended = site.log_in("alice");
    site.post("/wx/logout").bearer(&ended).send();
    let now = crate::harness::token::unix_seconds();
    let expired = Forge::of("alice").claim("iat", now - 20).claim("exp", now - 10).token();
    site.get("/api/x").bearer(&alice).send();
    site.get("/maybe/x").send();
    site.get("/open/x").bearer(&alice).send();
    site.get("/api/x").send();
    site.get("/api/x").bearer("bad").send();
    site.get("/api/x").bearer(&expired).send();
    site.get("/api/x").bearer(&ended).send();
    site.get("/guarded/x").bearer(&mallory).send();
    for (route, result) in [
        ("api", "ok"),
        ("maybe", "guest"),
        ("open", "public"),
        ("api", "missing"),
        ("api", "invalid"),
        ("api", "expired"),
        ("api", "revoked"),
        ("guarded", "forbidden"),
    ] {
        let labels = [("route", route), ("result", result)];
        let count = site.gateway.metric("wxgate_auth_decisions_total", &labels);
        assert_eq!(count, 1.0, "{route} {result}");
    }
}

#[test]
fn a_reload_gives_nobody_a_fresh_bucket() {
    let limited = |burst: u32| {
        route("public", &format!("rate_limit = {{ per_ip = \"1/h\", burst = {burst} }}"))
    };
    let mut site = Site::with().routes(&limited(1)).start();
    assert_eq!(site.get("/x/1").send().status, 200);
    site.get("/x/1").send().assert_refused(429, "slow_down");
    assert!(site.reload(|settings| settings));
    site.get("/x/1").send().assert_refused(429, "slow_down");
    assert!(site.reload(|settings| settings.routes(&limited(3))), "another limit");
    assert_eq!(site.get("/x/1").send().status, 200);
}
