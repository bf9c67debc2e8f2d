//! Browsers log in on WeChat's page: the way there, the way back, and what must not come of it.

use serde_json::json;

use crate::harness::redis::Redis;
use crate::harness::token::Forge;
use crate::harness::wechat::{APPID, Play, SECRET, openid_of};
use crate::harness::{Answer, Site, eventually};

const API: &str = "/sns/oauth2/access_token";
const ACCOUNT: &str = "wxaccount00000000";
const COOKIE: &str = "wxgate_session=";

fn app(appid: &str, kind: &str) -> String {
    format!(
        "[[apps]]\nappid = \"{appid}\"\nsecret = {{ env = \"WX_SECRET\" }}\nkind = \"{kind}\"\n"
    )
}

fn user(name: &str) -> Play {
    let body = json!({
        "access_token": "of-the-user",
        "expires_in": 7200,
        "refresh_token": "r",
        "openid": openid_of(name),
        "scope": "snsapi_base",
    });
    Play::Body(body.to_string())
}

/// A site with a mini program and an official account.
fn site() -> Site {
    let apps = app(APPID, "miniprogram") + &app(ACCOUNT, "official_account");
    let site = Site::with().apps(&apps).start();
    site.wechat.answers(API, user("alice"));
    site
}

fn login(site: &Site, query: &str) -> Answer {
    site.get(&format!("/wx/oauth/login{query}")).host("shop.test").send()
}

/// The state that a login began with and its cookie, `name=value`.
fn begin(site: &Site, query: &str) -> (String, String) {
    let answer = login(site, query);
    assert_eq!(answer.status, 302, "{}", answer.text());
    let location = url::Url::parse(answer.header("Location").unwrap()).unwrap();
    let state = location.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let cookie = answer.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    (state, cookie)
}

fn callback(site: &Site, query: &str, cookie: &str) -> Answer {
    site.get(&format!("/wx/oauth/callback{query}"))
        .host("shop.test")
        .header("Cookie", cookie)
        .send()
}

/// The session cookie that an answer sets, with its attributes.
fn session_cookie(answer: &Answer) -> Option<String> {
    let set = answer.values("Set-Cookie").into_iter();
    set.filter(|cookie| cookie.starts_with(COOKIE)).map(str::to_owned).next()
}

fn logged_in(site: &Site, code: &str) -> String {
    let (state, cookie) = begin(site, "");
    let answer = callback(site, &format!("?code={code}&state={state}"), &cookie);
    assert_eq!(answer.status, 302, "{}", answer.text());
    session_cookie(&answer).unwrap().split(';').next().unwrap().to_owned()
}

#[test]
fn a_browser_is_sent_to_wechats_page_and_bound_to_its_state() {
    let site = site();
    let answer = login(&site, "?return_to=/orders%3Fid%3D1");
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let location = answer.header("Location").unwrap();
    let (state, cookie) = begin(&site, "");
    assert!(state.len() >= 22 && !location.contains(&state), "random each time");
    let begins = format!(
        "https://open.weixin.qq.com/connect/oauth2/authorize?appid={ACCOUNT}&redirect_uri=http%3A%2F%2Fshop.test%2Fwx%2Foauth%2Fcallback&response_type=code&scope=snsapi_base&state="
    );
    assert!(location.starts_with(&begins), "{location}");
    assert!(location.ends_with("#wechat_redirect"));
    let set = answer.header("Set-Cookie").unwrap();
    for flag in ["HttpOnly", "Secure", "SameSite=Lax", "Max-Age=600", "Path=/wx/oauth"] {
        assert!(set.split("; ").any(|part| part == flag), "{flag}: {set}");
    }
    assert!(!cookie.contains("orders"), "sealed");
    let asked = login(&site, &format!("?appid={ACCOUNT}&scope=snsapi_userinfo"));
    assert!(asked.header("Location").unwrap().contains("scope=snsapi_userinfo"));
}

#[test]
fn the_way_back_sets_the_session_cookie_and_goes_where_it_was_asked_to() {
    let site = site();
    let (state, cookie) = begin(&site, "?return_to=/api/me%3Fa%3D1");
    let answer = callback(&site, &format!("?code=c1&state={state}"), &cookie);
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("Location"), Some("/api/me?a=1"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let set = session_cookie(&answer).unwrap();
    for flag in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=7200"] {
        assert!(set.split("; ").any(|part| part == flag), "{flag}: {set}");
    }
    let session = set.split(';').next().unwrap();
    assert_eq!(site.get("/api/me").header("Cookie", session).send().status, 200);
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    assert_eq!(seen.values("X-WX-APPID"), [ACCOUNT]);
    let calls = site.wechat.calls();
    let call = calls.iter().find(|call| call.path == API).unwrap();
    assert_eq!(call.parameter("code"), Some("c1"));
    assert_eq!(call.parameter("secret"), Some(SECRET));
    let lines = site.gateway.stdout() + &site.gateway.stderr();
    assert!(!lines.contains(&state) && !lines.contains("code=c1"));
}

#[test]
fn secure_is_left_out_only_on_plain_http_to_loopback() {
    let site = Site::with()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .apps(&app(ACCOUNT, "website"))
        .start();
    for (host, proto, secure) in [
        ("localhost:8080", "http", false),
        ("127.0.0.1:8080", "http", false),
        ("[::1]:8080", "http", false),
        ("127.0.0.1:8080", "https", true),
        ("shop.test", "http", true),
        ("localhost.evil.test", "http", true),
        ("shop.test", "https", true),
    ] {
        let request = site.get("/wx/oauth/login").host(host).header("X-Forwarded-Proto", proto);
        let answer = request.send();
        let set = answer.header("Set-Cookie").unwrap();
        assert_eq!(set.contains("; Secure"), secure, "{proto}://{host}: {set}");
        let back = format!("{proto}://{host}/wx/");
        let back: String = url::form_urlencoded::byte_serialize(back.as_bytes()).collect();
        let location = answer.header("Location").unwrap();
        assert!(location.contains(&back), "{location}");
        assert!(location.contains("/connect/qrconnect?") && location.contains("snsapi_login"));
    }
}

#[test]
fn a_callback_opened_twice_gives_the_same_session() {
    let site = site();
    let (state, cookie) = begin(&site, "");
    let query = format!("?code=c1&state={state}");
    let first = session_cookie(&callback(&site, &query, &cookie)).unwrap();
    site.wechat.answers(API, Play::Errcode(40163));
    let second = callback(&site, &query, &cookie);
    assert_eq!(second.status, 302, "{}", second.text());
    let value = |set: &str| set.split(';').next().unwrap().to_owned();
    assert_eq!(value(&session_cookie(&second).unwrap()), value(&first));
    let calls = site.wechat.calls();
    assert_eq!(calls.iter().filter(|call| call.path == API).count(), 1);
}

#[test]
fn a_state_is_good_once_and_only_in_its_own_browser() {
    let site = site();
    let (state, cookie) = begin(&site, "");
    let (other, theirs) = begin(&site, "");
    let renamed = format!("wxgate_login_{state}={}", theirs.split_once('=').unwrap().1);
    for (query, cookie) in [
        (format!("?code=c1&state={state}"), ""),
        (format!("?code=c1&state={state}"), theirs.as_str()),
        (format!("?code=c1&state={state}"), renamed.as_str()),
        (format!("?code=c1&state={other}"), cookie.as_str()),
        ("?code=c1".to_owned(), cookie.as_str()),
        ("?code=c1&state=".to_owned(), cookie.as_str()),
        (format!("?code=c1&state={state}&state={state}"), cookie.as_str()),
        (format!("?code=c1&code=c2&state={state}"), cookie.as_str()),
    ] {
        let answer = callback(&site, &query, cookie);
        answer.assert_refused(400, "invalid_request");
        assert!(session_cookie(&answer).is_none());
    }
    assert!(site.wechat.calls().is_empty());
    assert_eq!(callback(&site, &format!("?code=c1&state={state}"), &cookie).status, 302);
}

#[test]
fn a_login_that_is_complete_takes_no_other_code() {
    let site = site();
    let (state, cookie) = begin(&site, "?return_to=/orders%23top");
    let first = callback(&site, &format!("?code=c1&state={state}"), &cookie);
    assert_eq!(first.header("Location"), Some("/orders#top"));
    site.wechat.answers(API, user("mallory"));
    let other = callback(&site, &format!("?code=c2&state={state}"), &cookie);
    other.assert_refused(400, "invalid_request");
    assert!(other.header("Set-Cookie").is_none());
    let exchanged = site.wechat.calls().into_iter().filter(|call| call.path == API);
    assert_eq!(exchanged.count(), 1, "the second code is not even shown to WeChat");
    let again = callback(&site, &format!("?code=c1&state={state}"), &cookie);
    assert_eq!((again.status, again.header("Location")), (302, Some("/orders#top")));
    assert_eq!(session_cookie(&again), session_cookie(&first));
}

#[test]
fn a_login_that_is_complete_takes_no_other_code_after_a_restart_and_at_no_other_node() {
    let apps = app(APPID, "miniprogram") + &app(ACCOUNT, "official_account");
    let redis = Redis::start();
    let shared = format!("store = \"redis://127.0.0.1:{}\"", redis.port);
    for store in ["store = \"sqlite:wxgate.db\"", &shared] {
        let mut site = Site::with().apps(&apps).session(store).start();
        site.wechat.answers(API, user("alice"));
        eventually("it is ready", || site.admin("/readyz").send().status == 200);
        let (state, cookie) = begin(&site, "");
        let callback_with = |site: &Site, code: &str| {
            callback(site, &format!("?code={code}&state={state}"), &cookie)
        };
        assert_eq!(callback_with(&site, "c1").status, 302, "{store}");
        if store == shared {
            let other = Site::with().apps(&apps).session(store).start();
            other.wechat.answers(API, user("alice"));
            // It has read then what was ended before.
            eventually("the other node is ready", || other.admin("/readyz").send().status == 200);
            callback_with(&other, "c2").assert_refused(400, "invalid_request");
            assert!(other.wechat.calls().iter().all(|call| call.path != API), "not even shown");
        } else {
            site.gateway.restart();
            callback_with(&site, "c2").assert_refused(400, "invalid_request");
        }
    }
}

#[test]
fn a_code_that_leaked_opens_no_other_login() {
    let site = site();
    let (state, cookie) = begin(&site, "");
    assert_eq!(callback(&site, &format!("?code=c1&state={state}"), &cookie).status, 302);
    site.wechat.answers(API, Play::Errcode(40163));
    // Mallory's own login, with Alice's code, well within login.replay_window.
    let (state, cookie) = begin(&site, "");
    let answer = callback(&site, &format!("?code=c1&state={state}"), &cookie);
    answer.assert_refused(400, "invalid_grant");
    assert!(session_cookie(&answer).is_none());
}

#[test]
fn logins_that_nobody_completes_do_not_pile_up_in_the_browser() {
    let site = site();
    let long = format!("?return_to=/{}", "a".repeat(2000));
    let mut kept: Vec<String> = Vec::new();
    for _ in 0..10 {
        let request = site.get(&format!("/wx/oauth/login{long}")).host("shop.test");
        let answer = request.header("Cookie", &kept.join("; ")).send();
        assert_eq!(answer.status, 302, "{}", answer.text());
        for set in answer.values("Set-Cookie") {
            let (pair, attributes) = set.split_once("; ").unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            kept.retain(|cookie| !cookie.starts_with(&format!("{name}=")));
            assert!(attributes.contains("Path=/wx/oauth;") && pair.len() < 4096, "{set}");
            if value.is_empty() {
                assert!(attributes.contains("Max-Age=0"), "{set}");
            } else {
                kept.push(pair.to_owned());
            }
        }
        assert!(kept.len() <= 6, "{}", kept.len());
    }
    let (name, _) = kept[5].split_once('=').unwrap();
    let query = format!("?code=c1&state={}", name.trim_start_matches("wxgate_login_"));
    assert_eq!(callback(&site, &query, &kept.join("; ")).status, 302);
}

#[test]
fn who_refuses_or_is_refused_is_not_logged_in() {
    let site = site();
    for query in ["", "&code=", "&code=authdeny"] {
        let (state, cookie) = begin(&site, "");
        let answer = callback(&site, &format!("?state={state}{query}"), &cookie);
        answer.assert_refused(403, "access_denied");
        assert!(session_cookie(&answer).is_none());
    }
    assert!(site.wechat.calls().is_empty());
    let snapshot = json!({ "openid": openid_of("virtual"), "is_snapshotuser": 1 }).to_string();
    for (index, (play, status, error)) in [
        (Play::Body(snapshot), 403, "access_denied"),
        (Play::Errcode(40029), 400, "invalid_grant"),
        (Play::Errcode(40163), 400, "invalid_grant"),
        (Play::Errcode(-1), 503, "temporarily_unavailable"),
        (Play::Errcode(40125), 500, "server_error"),
    ]
    .into_iter()
    .enumerate()
    {
        site.wechat.answers(API, play);
        let (state, cookie) = begin(&site, "");
        let answer = callback(&site, &format!("?code=c{index}&state={state}"), &cookie);
        answer.assert_refused(status, error);
        assert!(session_cookie(&answer).is_none());
    }
    let counted = |result| {
        let labels = [("appid", ACCOUNT), ("result", result)];
        site.gateway.metric("wxgate_logins_total", &labels)
    };
    assert!(counted("denied") >= 4.0 && counted("invalid_grant") >= 2.0);
}

#[test]
fn nobody_is_sent_to_another_site() {
    let site = site();
    for evil in [
        "https://evil.test/",
        "//evil.test",
        "/%5Cevil.test",
        "/%255Cevil.test",
        "/%252Fevil.test",
        "%2F%2Fevil.test",
        "/%0d%0aSet-Cookie:a=b",
        "user@evil.test",
        "javascript:alert(1)",
    ] {
        let answer = login(&site, &format!("?return_to={evil}"));
        answer.assert_refused(400, "invalid_request");
        assert!(answer.header("Location").is_none(), "{evil}");
    }
}

#[test]
fn the_cookie_may_have_a_name_that_no_other_host_can_set() {
    let name = "token_from = [\"authorization\", \"cookie:__Host-session\"]";
    let site = Site::with().session(name).apps(&app(ACCOUNT, "official_account")).start();
    site.wechat.answers(API, user("alice"));
    let (state, cookie) = begin(&site, "");
    let answer = callback(&site, &format!("?code=c1&state={state}"), &cookie);
    let set = answer.values("Set-Cookie").join("\n");
    // Browsers take it only so (RFC 6265bis section 4.1.3.2).
    assert!(set.starts_with("__Host-session=") && set.contains("; Path=/; "), "{set}");
    assert!(set.contains("; Secure") && !set.contains("Domain"), "{set}");
    let session = set.split(';').next().unwrap();
    assert_eq!(site.get("/api/me").header("Cookie", session).send().status, 200);
    assert!(site.upstream.last().values("Cookie").is_empty());
}

#[test]
fn what_is_said_of_the_site_and_the_app_is_not_believed() {
    let site = site();
    let answer = site
        .get("/wx/oauth/login")
        .host("shop.test")
        .header("X-Forwarded-Host", "evil.test")
        .header("X-Forwarded-Proto", "gopher")
        .header("Forwarded", "host=evil.test")
        .header("Origin", "https://evil.test")
        .send();
    let location = answer.header("Location").unwrap();
    assert!(location.contains("redirect_uri=http%3A%2F%2Fshop.test%2Fwx%2F"), "{location}");
    for query in [
        "?appid=wxaccount0000000%30%00",
        "?appid=WXACCOUNT00000000",
        "?appid=%EF%BD%97xaccount00000000",
        "?appid=wxaccount00000000&appid=wxaccount00000000",
        "?appid=%FF",
        "?return_to=/a&return_to=/b",
        "?return_to=/a%20&return%5Fto=/b",
        "?return_to=/%2e%2e%2f%2fevil.test",
    ] {
        let answer = login(&site, query);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(answer.header("Set-Cookie").is_none(), "{query}");
    }
    let (state, cookie) = begin(&site, "");
    let sealed = cookie.split_once('=').unwrap().1;
    for tossed in [
        format!("wxgate_login_{state}=; {cookie}"),
        format!("wxgate_login_{state}={sealed}AA"),
        format!("wxgate_login_{state}=\"{sealed}\""),
        format!("WXGATE_LOGIN_{state}={sealed}"),
        format!("wxgate_login_={sealed}"),
    ] {
        let answer = callback(&site, &format!("?code=c1&state={state}"), &tossed);
        answer.assert_refused(400, "invalid_request");
        assert!(session_cookie(&answer).is_none(), "{tossed}");
    }
    for state in ["%00", "../x", "a;b", "%0d%0aSet-Cookie:a=b", &"s".repeat(5000)] {
        let answer = callback(&site, &format!("?code=c1&state={state}"), &cookie);
        answer.assert_refused(400, "invalid_request");
    }
    assert!(site.wechat.calls().is_empty());
}

#[test]
fn only_apps_with_web_pages_log_in_so() {
    let site = site();
    for query in [format!("?appid={APPID}"), "?appid=wxunknown00000000".to_owned()] {
        login(&site, &query).assert_refused(400, "invalid_request");
    }
    let code = json!({ "code": site.wechat.code_of("alice"), "appid": ACCOUNT });
    site.post("/wx/auth").json(&code).send().assert_refused(400, "invalid_request");
    assert_eq!(site.auth(&site.wechat.code_of("alice")).status, 200, "the only mini program");
    let answer = site.post("/wx/oauth/login").send();
    answer.assert_refused(405, "method_not_allowed");
    assert_eq!(answer.header("Allow"), Some("GET"));
    site.request("HEAD", "/wx/oauth/callback").send();
    Site::start().get("/wx/oauth/login").send().assert_refused(400, "invalid_request");
}

#[test]
fn a_browser_without_a_session_is_sent_to_the_login_and_programs_are_not() {
    let site = site();
    let page = |accept: &str| {
        site.get("/api//orders?a=1&b=%2F").host("shop.test").header("Accept", accept)
    };
    let answer = page("text/html,application/xhtml+xml,*/*;q=0.8").send();
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let location = answer.header("Location").unwrap();
    assert!(location.starts_with("/wx/oauth/login?appid=wxaccount00000000&return_to="));
    let there = site.get(location).host("shop.test").send();
    assert_eq!(there.status, 302, "{}", there.text());

    // A query that the login would not take is left behind: the page is worth more.
    for query in ["a".repeat(3000), "a=%5C".to_owned(), "a=%FF".to_owned()] {
        let odd = site.get(&format!("/api/orders?{query}")).host("shop.test");
        let answer = odd.header("Accept", "text/html").send();
        let location = answer.header("Location").unwrap();
        assert!(location.ends_with("&return_to=%2Fapi%2Forders"), "{location}");
        assert_eq!(site.get(location).host("shop.test").send().status, 302);
    }

    let spent = Forge::of("alice").claim("exp", 1_000_000).claim("iat", 999_999).token();
    let expired = page("text/html").header("Cookie", &format!("{COOKIE}{spent}")).send();
    assert_eq!(expired.status, 302);

    for accept in ["*/*", "application/json", "text/plain"] {
        page(accept).send().assert_refused(401, "unauthorized");
    }
    page("text/html").bearer("bad").send().assert_refused(401, "invalid_token");
    let posted = site.post("/api/orders").header("Accept", "text/html").send();
    posted.assert_refused(401, "unauthorized");
    assert_eq!(site.get("/maybe/x").header("Accept", "text/html").send().status, 200);
    assert_eq!(Site::start().get("/api/x").header("Accept", "text/html").send().status, 401);
}

#[test]
fn where_several_apps_could_be_meant_a_route_names_the_one() {
    let other = "wxwebsite00000000";
    let apps = app(ACCOUNT, "official_account") + &app(other, "website");
    let routes = format!(
        "[[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"required\"\n\
         [[routes]]\npath = \"/site/\"\nupstream = \"php\"\nauth = \"required\"\n\
         allow = {{ appids = [\"{other}\"] }}\n"
    );
    let site = Site::with().apps(&apps).routes(&routes).start();
    site.get("/x").header("Accept", "text/html").send().assert_refused(401, "unauthorized");
    let answer = site.get("/site/x").header("Accept", "text/html").send();
    assert!(answer.header("Location").unwrap().contains(other));
    login(&site, "").assert_refused(400, "invalid_request");
}

#[test]
fn logout_clears_the_cookie_and_refresh_renews_it() {
    let site = site();
    let session = logged_in(&site, "c1");
    let post = |endpoint: &str| site.post(endpoint).host("shop.test").header("Cookie", &session);
    let refreshed = post("/wx/refresh").send();
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let renewed = session_cookie(&refreshed).unwrap();
    let token = refreshed.json()["access_token"].as_str().unwrap().to_owned();
    assert!(renewed.starts_with(&format!("{COOKIE}{token}; ")), "{renewed}");
    let out = post("/wx/logout").send();
    assert_eq!(out.status, 204);
    let cleared = session_cookie(&out).unwrap();
    assert!(cleared.starts_with("wxgate_session=; Path=/; Max-Age=0;"), "{cleared}");
    assert_eq!(site.get("/api/me").header("Cookie", &session).send().status, 401);
    let program = site.log_in("bob");
    let out = site.post("/wx/logout").bearer(&program).send();
    assert!(out.header("Set-Cookie").is_none());
}

#[test]
fn a_page_of_another_site_cannot_use_the_cookie() {
    let site = site();
    let session = logged_in(&site, "c1");
    let post = |origin: &str| {
        let request = site.post("/wx/logout").host("shop.test").header("Cookie", &session);
        request.header("Origin", origin).send()
    };
    for origin in
        ["https://evil.test", "null", "https://shop.test.evil.test", "http://shop.test:81"]
    {
        post(origin).assert_refused(403, "access_denied");
    }
    assert_eq!(site.get("/api/me").header("Cookie", &session).send().status, 200);
    let token = session.trim_start_matches(COOKIE);
    let shown = site.post("/wx/check").bearer(token).header("Origin", "https://evil.test").send();
    shown.assert_refused(409, "session_key_invalid");
    assert_eq!(post("https://shop.test").status, 204);
}

#[test]
fn a_browsers_session_has_no_session_key() {
    let site = site();
    let session = logged_in(&site, "c1");
    let body =
        json!({ "encryptedData": "AAAAAAAAAAAAAAAAAAAAAA==", "iv": "AAAAAAAAAAAAAAAAAAAAAA==" });
    let request = site.post("/wx/decrypt").host("shop.test").header("Cookie", &session);
    request.json(&body).send().assert_refused(409, "session_key_invalid");
}
