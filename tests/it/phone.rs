//! The phone number of a user: verified by WeChat, kept sealed, told to the backend where it is
//! named, asked for by routes.

use serde_json::{Value, json};

use crate::harness::token::decode;
use crate::harness::wechat::{ACCESS_TOKEN, APPID, Play, openid_of};
use crate::harness::{Answer, Site};

pub(crate) const API: &str = "/wxa/business/getuserphonenumber";
pub(crate) const NUMBER: &str = "13580006666";

const ROUTES: &str = r#"
[[routes]]
name = "api"
path = "/api/"
upstream = "php"
auth = "required"

[[routes]]
name = "orders"
path = "/orders/"
upstream = "php"
auth = "required"
allow = { scope = ["phone"] }

[[routes]]
name = "open"
path = "/open/"
upstream = "php"
auth = "public"
"#;

pub(crate) fn verified(appid: &str) -> Play {
    let body = json!({
        "errcode": 0,
        "errmsg": "ok",
        "phone_info": {
            "phoneNumber": NUMBER,
            "purePhoneNumber": NUMBER,
            "countryCode": 86,
            "watermark": { "timestamp": 1_637_744_274, "appid": appid },
        },
    });
    Play::Body(body.to_string())
}

fn site(identity: &str) -> Site {
    let site = Site::with().routes(ROUTES).identity(identity).start();
    site.wechat.answers(API, verified(APPID));
    site
}

fn phone(site: &Site, token: &str, code: &str) -> Answer {
    site.post("/wx/phone").bearer(token).json(&json!({ "code": code })).send()
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_code_becomes_the_number_and_a_token_with_the_scope() {
    let site = site("");
    let token = site.log_in("alice");
    let answer = phone(&site, &token, "press-1");
    let fresh = token_of(&answer);
    let mut body = answer.json();
    body["access_token"].take();
    assert_eq!(
        body,
        json!({
            "phoneNumber": NUMBER,
            "purePhoneNumber": NUMBER,
            "countryCode": "86",
            "access_token": null,
            "expires_in": 7200,
        })
    );
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let (old, new) = (decode(&token).1, decode(&fresh).1);
    assert_eq!((&new["scope"], &new["sid"]), (&json!("phone"), &old["sid"]));
    assert!(old.get("scope").is_none() && !new.to_string().contains(NUMBER));
    let session = site.get("/wx/session").bearer(&fresh).send().json();
    assert_eq!(session["scope"], "phone");

    let calls = site.wechat.calls();
    let call = calls.iter().find(|call| call.path == API).unwrap();
    assert_eq!(call.parameter("access_token"), Some(ACCESS_TOKEN));
    let sent: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(sent, json!({ "code": "press-1", "openid": openid_of("alice") }));
}

#[test]
fn a_route_that_asks_for_the_scope_opens_only_with_it() {
    let site = site("");
    let token = site.log_in("alice");
    let refused = site.get("/orders/1").bearer(&token).send();
    refused.assert_refused(403, "insufficient_scope");
    assert!(refused.header("WWW-Authenticate").unwrap().contains("scope=\"phone\""));
    let fresh = token_of(&phone(&site, &token, "press-1"));
    assert_eq!(site.get("/orders/1").bearer(&fresh).send().status, 200);
    let old = site.get("/orders/1").bearer(&token).send();
    old.assert_refused(403, "insufficient_scope");
    let later = token_of(&site.post("/wx/refresh").bearer(&token).send());
    assert_eq!(site.get("/orders/1").bearer(&later).send().status, 200, "the session has it");
}

#[test]
fn the_backend_is_told_the_number_only_where_the_header_is_named() {
    for (identity, told) in [("phone = \"X-Customer-Phone\"", true), ("", false)] {
        let site = site(identity);
        let alice = site.log_in("alice");
        let spoof = |target: &str, token: &str| {
            let sent = site.get(target).bearer(token);
            let sent = sent.header("X-WX-PHONE", "1").header("X_Customer.Phone", "2");
            assert_eq!(sent.send().status, 200);
            site.upstream.last().raw()
        };
        let before = spoof("/api/me", &alice);
        assert!(!before.contains(NUMBER), "{before}");
        let fresh = token_of(&phone(&site, &alice, "press-1"));
        for _ in 0..2 {
            let after = spoof("/api/me", &fresh);
            assert_eq!(after.contains(&format!("X-Customer-Phone: {NUMBER}\r\n")), told, "{after}");
            assert!(!after.contains("X-WX-PHONE") && (!told || !after.contains("X_Customer")));
        }
        assert!(!spoof("/open/x", &fresh).contains(NUMBER));
        assert!(!spoof("/api/me", &site.log_in("bob")).contains(NUMBER));
    }
}

#[test]
fn a_number_verified_anew_takes_the_place_of_the_old_one() {
    let site = site("phone = \"X-WX-PHONE\"");
    let token = site.log_in("alice");
    let first = token_of(&phone(&site, &token, "press-1"));
    site.get("/api/me").bearer(&first).send();
    site.wechat.answers(API, {
        let Play::Body(body) = verified(APPID) else { unreachable!() };
        Play::Body(body.replace(NUMBER, "13900001111"))
    });
    let second = token_of(&phone(&site, &first, "press-2"));
    site.get("/api/me").bearer(&second).send();
    assert_eq!(site.upstream.last().values("X-WX-PHONE"), ["13900001111"]);
}

#[test]
fn what_wechat_refuses_is_refused_and_the_session_stays_as_it_was() {
    let site = site("");
    let token = site.log_in("alice");
    for (play, status, error) in [
        (Play::Errcode(40029), 400, "invalid_grant"),
        (Play::Errcode(45011), 429, "slow_down"),
        (Play::Errcode(-1), 503, "temporarily_unavailable"),
        (Play::Errcode(40013), 500, "server_error"),
        (verified("wxfedcba9876543210"), 400, "invalid_request"),
    ] {
        site.wechat.answers(API, play);
        phone(&site, &token, &format!("press-{status}-{error}")).assert_refused(status, error);
    }
    for code in ["", "a b", "密"] {
        phone(&site, &token, code).assert_refused(400, "invalid_request");
    }
    phone(&site, "bad", "press-1").assert_refused(401, "invalid_token");
    site.post("/wx/phone").send().assert_refused(401, "unauthorized");
    assert_eq!(site.get("/wx/session").bearer(&token).send().json()["scope"], "");
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
}

#[test]
fn a_number_stands_sealed_in_the_store_and_the_session_key_beside_it_stays() {
    let site = Site::with()
        .routes(ROUTES)
        .identity("phone = \"X-WX-PHONE\"")
        .session("store = \"sqlite:wxgate.db\"")
        .start();
    site.wechat.answers(API, verified(APPID));
    let token = site.log_in("alice");
    let fresh = token_of(&phone(&site, &token, "press-1"));
    assert_eq!(site.post("/wx/check").bearer(&fresh).send().json(), json!({ "valid": true }));
    assert_eq!(site.get("/api/me").bearer(&fresh).send().status, 200);
    assert_eq!(site.upstream.last().values("X-WX-PHONE"), [NUMBER]);
    for name in ["wxgate.db", "wxgate.db-wal"] {
        let stored = std::fs::read(site.gateway.file(name)).unwrap_or_default();
        assert!(!stored.windows(NUMBER.len()).any(|part| part == NUMBER.as_bytes()), "{name}");
    }
    assert!(!site.gateway.stderr().contains(NUMBER) && !site.gateway.stdout().contains(NUMBER));
}
