//! Logging in, refreshing, logging out, looking at a session; every error that they promise.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::json;

use crate::harness::token::{Forge, KEY, decode, is_signed_by, unix_seconds};
use crate::harness::wechat::{
    APPID, Play, SECRET, good_body, openid_of, session_key_of, unionid_of,
};
use crate::harness::{Answer, Reply, Site, eventually};

#[track_caller]
fn assert_retry_after(answer: &Answer) {
    let seconds: u64 = answer.header("Retry-After").expect("no Retry-After").parse().unwrap();
    assert!(seconds >= 1, "Retry-After: {seconds}");
}

#[test]
fn a_code_becomes_a_token_and_the_openid() {
    let site = Site::start();
    let answer = site.auth(&site.wechat.code_of("alice"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let body = answer.json();
    let fields: HashSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let promised = HashSet::from(["access_token", "token_type", "expires_in", "openid"]);
    assert_eq!(fields, promised, "no unionid where WeChat gave none, nothing else either");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 7200);
    assert_eq!(body["openid"], openid_of("alice"));
    let calls = site.wechat.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].path, "/sns/jscode2session");
    assert_eq!(calls[0].parameter("appid"), Some(APPID));
    assert_eq!(calls[0].parameter("secret"), Some(SECRET));
    assert_eq!(calls[0].parameter("grant_type"), Some("authorization_code"));
}

#[test]
fn the_unionid_is_passed_on_where_wechat_gives_one() {
    let site = Site::start();
    let body = site.auth(&site.wechat.code_with_unionid_of("alice")).json();
    assert_eq!(body["unionid"], unionid_of("alice"));
    let token = body["access_token"].as_str().unwrap();
    site.get("/api/me").bearer(token).send();
    let seen = site.upstream.last();
    assert_eq!(seen.header("X-WX-UNIONID"), Some(unionid_of("alice").as_str()));
}

#[test]
fn with_expose_openid_off_neither_openid_nor_unionid_is_in_an_answer() {
    let site = Site::with().login("expose_openid = false").start();
    let answer = site.auth(&site.wechat.code_with_unionid_of("alice"));
    let body = answer.json();
    assert_eq!(answer.status, 200);
    assert!(body.get("openid").is_none() && body.get("unionid").is_none(), "{body}");
    let token = body["access_token"].as_str().unwrap();
    site.get("/api/me").bearer(token).send();
    assert_eq!(site.upstream.last().header("X-WX-OPENID"), Some(openid_of("alice").as_str()));
    let session = site.get("/wx/session").bearer(token).send();
    assert_eq!(session.status, 200);
    assert!(!session.text().contains(&openid_of("alice")), "{}", session.text());
    assert!(!session.text().contains(&unionid_of("alice")), "{}", session.text());
}

#[test]
fn the_token_opens_the_backend_as_that_user() {
    let site = Site::start();
    let token = site.log_in("alice");
    let answer = site.get("/api/me?x=1").bearer(&token).send();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = site.upstream.last();
    assert_eq!(seen.target, "/api/me?x=1");
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    assert_eq!(seen.values("X-WX-APPID"), [APPID]);
    assert!(seen.values("X-WX-UNIONID").is_empty());
}

#[test]
fn the_token_is_an_access_token_of_the_promised_form_without_a_secret_in_it() {
    let site = Site::with().session("ttl = \"2h\"").start();
    let token = site.log_in("alice");
    let (header, claims) = decode(&token);
    assert_eq!(header, json!({ "alg": "HS256", "typ": "at+jwt", "kid": "test-1" }));
    assert!(is_signed_by(&token, KEY));
    assert_eq!(claims["iss"], "wxgate");
    assert_eq!(claims["sub"], openid_of("alice"));
    assert_eq!(claims["aud"], APPID);
    assert!((claims["iat"].as_i64().unwrap() - unix_seconds()).abs() <= 5);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 7200);
    for name in ["sid", "jti"] {
        assert!(claims[name].as_str().is_some_and(|value| value.len() >= 16), "{name}: {claims}");
    }
    let everything = format!("{header}{claims}");
    assert!(!everything.contains(&session_key_of("alice")) && !everything.contains(SECRET));
}

#[test]
fn every_login_makes_a_session_of_its_own() {
    let site = Site::start();
    let sids: HashSet<String> = (0..5)
        .map(|_| decode(&site.log_in("alice")).1["sid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sids.len(), 5);
}

#[test]
fn a_login_may_be_a_form() {
    let site = Site::start();
    let code = site.wechat.code_of("alice");
    let answer = site
        .post("/wx/auth")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("code={code}&appid={APPID}"))
        .send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["openid"], openid_of("alice"));
}

#[test]
fn a_login_may_say_its_charset_and_spell_its_type_as_it_likes() {
    let site = Site::start();
    for content_type in ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8"] {
        let code = site.wechat.code_of("alice");
        let answer = site
            .post("/wx/auth")
            .header("Content-Type", content_type)
            .body(json!({ "code": code }).to_string())
            .send();
        assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
    }
}

const TWO_APPS: &str = r#"
[[apps]]
appid = "wx0123456789abcdef"
secret = { env = "WX_SECRET" }
kind = "miniprogram"

[[apps]]
appid = "wxfedcba9876543210"
secret = { env = "WX_SECRET" }
kind = "miniprogram"
"#;

#[test]
fn the_app_is_the_named_one_else_the_referers_else_the_only_one() {
    let site = Site::with().apps(TWO_APPS).start();
    let other = "wxfedcba9876543210";
    let appid_of = |answer: &Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        decode(answer.json()["access_token"].as_str().unwrap()).1["aud"].clone()
    };
    let named = json!({ "code": site.wechat.code_of("alice"), "appid": other });
    assert_eq!(appid_of(&site.post("/wx/auth").json(&named).send()), other);
    assert_eq!(site.wechat.calls().last().unwrap().parameter("appid"), Some(other));

    let code = json!({ "code": site.wechat.code_of("alice") });
    let referer = format!("https://servicewechat.com/{other}/devtools/page-frame.html");
    let answer = site.post("/wx/auth").header("Referer", &referer).json(&code).send();
    assert_eq!(appid_of(&answer), other);

    let named = json!({ "code": site.wechat.code_of("alice"), "appid": APPID });
    let answer = site.post("/wx/auth").header("Referer", &referer).json(&named).send();
    assert_eq!(appid_of(&answer), APPID, "the body goes before the Referer");
}

#[test]
fn a_login_that_names_none_of_two_apps_is_refused_and_wechat_is_not_asked() {
    let site = Site::with().apps(TWO_APPS).start();
    let code = json!({ "code": site.wechat.code_of("alice") });
    for referer in [
        "https://servicewechat.com/wxunknown00000000/1/page-frame.html",
        "https://servicewechat.com.evil.test/wxfedcba9876543210/1/page-frame.html",
        "https://evil.test/https://servicewechat.com/wxfedcba9876543210/",
        "http://servicewechat.com/wxfedcba9876543210/1/page-frame.html",
        "wxfedcba9876543210",
        "",
    ] {
        let answer = site.post("/wx/auth").header("Referer", referer).json(&code).send();
        answer.assert_refused(400, "invalid_request");
    }
    site.post("/wx/auth").json(&code).send().assert_refused(400, "invalid_request");
    assert!(site.wechat.calls().is_empty());
}

#[test]
fn the_only_app_is_used_when_the_referer_names_another() {
    let site = Site::start();
    let code = json!({ "code": site.wechat.code_of("alice") });
    let referer = "https://servicewechat.com/wxunknown00000000/1/page-frame.html";
    let answer = site.post("/wx/auth").header("Referer", referer).json(&code).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn an_unknown_app_is_refused_and_wechat_is_not_asked() {
    let site = Site::start();
    for appid in ["wxunknown00000000", "", "wx0123456789ABCDEF", "../wx0123456789abcdef"] {
        let body = json!({ "code": site.wechat.code_of("alice"), "appid": appid });
        site.post("/wx/auth").json(&body).send().assert_refused(400, "invalid_request");
    }
    assert!(site.wechat.calls().is_empty());
}

#[test]
fn a_login_without_a_proper_body_is_refused_and_wechat_is_not_asked() {
    let site = Site::start();
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    for (content_type, body) in [
        (json, ""),
        (json, "not json"),
        (json, "{\"code\": \"abc\""),
        (json, "null"),
        (json, "[]"),
        (json, "\"code\""),
        (json, "{}"),
        (json, "{\"code\": null}"),
        (json, "{\"code\": 12}"),
        (json, "{\"code\": [\"abc\"]}"),
        (json, "{\"code\": \"abc\", \"appid\": 7}"),
        (json, "{\"code\": \"abc\"} trailing"),
        (json, "{\"code\": \"abc\", \"code\": \"def\"}"),
        (json, "\u{feff}"),
        (form, ""),
        (form, "appid=wx0123456789abcdef"),
        (form, "code="),
        (form, "code=a&code=b"),
        (form, "code=%ff"),
    ] {
        let answer = site.post("/wx/auth").header("Content-Type", content_type).body(body).send();
        assert_eq!(answer.status, 400, "{content_type} {body:?}: {}", answer.text());
        answer.assert_refused(400, "invalid_request");
    }
    let no_utf8 = site.post("/wx/auth").header("Content-Type", json).body(b"{\"code\":\"\xff\"}");
    no_utf8.send().assert_refused(400, "invalid_request");
    for other in ["multipart/form-data; boundary=x", "application/xml", "image/png"] {
        let answer = site.post("/wx/auth").header("Content-Type", other).body("<code>a</code>");
        answer.send().assert_refused(400, "invalid_request");
    }
    assert!(site.wechat.calls().is_empty());
}

#[test]
fn a_code_of_other_letters_is_refused_and_wechat_is_not_asked() {
    let site = Site::start();
    let long = "a".repeat(129);
    for code in [
        "",
        " ",
        "a b",
        "a&appid=wx",
        "a%26",
        "a\"b",
        "a\nb",
        "a\u{0}b",
        "é",
        "a+b",
        "a/b",
        "a=",
        "a#b",
        long.as_str(),
    ] {
        let answer = site.auth(code);
        assert_eq!(answer.status, 400, "{code:?}: {}", answer.text());
        answer.assert_refused(400, "invalid_request");
    }
    assert!(site.wechat.calls().is_empty());
    let longest = "a".repeat(128);
    site.auth(&longest).assert_refused(400, "invalid_grant");
    assert_eq!(site.wechat.calls().len(), 1, "128 letters are a code");
}

#[test]
fn a_login_body_may_be_16_kib_and_no_more() {
    let site = Site::start();
    let code = site.wechat.code_of("alice");
    let padded = |length: usize| {
        let bare = json!({ "code": code, "pad": "" }).to_string();
        json!({ "code": code, "pad": "x".repeat(length - bare.len()) }).to_string()
    };
    let send = |body: String| {
        site.post("/wx/auth").header("Content-Type", "application/json").body(body).send()
    };
    send(padded(16 * 1024 + 1)).assert_refused(413, "content_too_large");
    assert_eq!(send(padded(16 * 1024)).status, 200);
}

#[test]
fn a_login_body_that_never_ends_is_cut_at_16_kib() {
    let site = Site::start();
    let mut connection = site.connect();
    connection.send(
        "POST /wx/auth HTTP/1.1\r\nHost: shop.test\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    for _ in 0..64 {
        if connection.try_send(chunk.as_bytes()).is_err() {
            break;
        }
    }
    connection.answer().assert_refused(413, "content_too_large");
    assert!(site.wechat.calls().is_empty());
}

#[test]
fn a_chunked_login_works() {
    let site = Site::start();
    let body = json!({ "code": site.wechat.code_of("alice") }).to_string();
    let (first, second) = body.split_at(7);
    let answer = site.raw(format!(
        "POST /wx/auth HTTP/1.1\r\nHost: shop.test\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len(),
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Every errcode of the table, and what the caller hears.
const ERRCODES: [(i64, u16, &str); 19] = [
    (40029, 400, "invalid_grant"),
    (40163, 400, "invalid_grant"),
    (41008, 400, "invalid_grant"),
    (40226, 403, "access_denied"),
    (50002, 403, "access_denied"),
    (45011, 429, "slow_down"),
    (-1, 503, "temporarily_unavailable"),
    (40013, 500, "server_error"),
    (40125, 500, "server_error"),
    (41002, 500, "server_error"),
    (41004, 500, "server_error"),
    (40164, 500, "server_error"),
    (61004, 500, "server_error"),
    (40243, 500, "server_error"),
    (45009, 500, "server_error"),
    (48001, 502, "server_error"),
    (40066, 502, "server_error"),
    (99999, 502, "server_error"),
    (-2, 502, "server_error"),
];

#[test]
fn every_errcode_is_answered_as_promised_and_passed_on_as_a_number() {
    let site = Site::start();
    for (errcode, status, error) in ERRCODES {
        let as_number = json!({ "errcode": errcode, "errmsg": "refused, rid: 6f-7a-54" });
        let as_text = json!({ "errcode": errcode.to_string(), "errmsg": "refused, rid: 6f-7b-54" });
        for body in [as_number, as_text] {
            let code = site.wechat.code_that(Play::Body(body.to_string()));
            let answer = site.auth(&code);
            assert_eq!(answer.status, status, "{body}: {}", answer.text());
            let refusal = answer.assert_refused(status, error);
            assert_eq!(refusal["errcode"], errcode, "{body}");
            assert_eq!(site.wechat.calls_with(&code), 1, "{errcode}: a code is never sent twice");
            if matches!(status, 429 | 503) {
                assert_retry_after(&answer);
            }
        }
    }
}

#[test]
fn an_unknown_and_a_used_code_are_invalid_grants() {
    let site = Site::with().login("replay_window = \"0s\"").start();
    let unknown = site.auth("never-given-out").assert_refused(400, "invalid_grant");
    assert_eq!(unknown["errcode"], 40029);
    let code = site.wechat.code_of("alice");
    assert_eq!(site.auth(&code).status, 200);
    assert_eq!(site.auth(&code).assert_refused(400, "invalid_grant")["errcode"], 40163);
}

#[test]
fn a_wrong_secret_is_the_gateways_fault_and_loud_in_the_log() {
    let apps = "[[apps]]\nappid = \"wx0123456789abcdef\"\nsecret = { file = \"wrong.txt\" }\n\
                kind = \"miniprogram\"\n";
    let site = Site::with().apps(apps).file("wrong.txt", "another-app-secret-0001").start();
    let answer = site.auth(&site.wechat.code_of("alice"));
    assert_eq!(answer.assert_refused(500, "server_error")["errcode"], 40125);
    eventually("the log says it", || site.gateway.stderr().contains("40125"));
    assert!(!site.gateway.stderr().contains("another-app-secret-0001"));
    assert!(!answer.text().contains("another-app-secret-0001"));
}

#[test]
fn a_good_answer_is_good_with_errcode_0_with_unknown_fields_and_whatever_its_type() {
    let site = Site::start();
    for extra in [
        json!({ "errcode": 0 }),
        json!({ "errcode": "0", "errmsg": "ok" }),
        json!({ "expires_in": 7200, "future": { "field": [1] } }),
        json!({ "unionid": null }),
    ] {
        let mut body: serde_json::Value = serde_json::from_str(&good_body("alice", None)).unwrap();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = site.auth(&site.wechat.code_that(Play::Body(body.to_string())));
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.json()["openid"], openid_of("alice"));
    }
}

#[test]
fn the_same_code_twenty_times_at_once_asks_wechat_once() {
    let site = Site::start();
    let code = site.wechat.code_that(Play::Held("alice".to_owned()));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..20).map(|_| scope.spawn(|| site.auth(&code))).collect();
        eventually("WeChat is asked", || site.wechat.calls_with(&code) == 1);
        let all_in = || site.gateway.metric("wxgate_http_requests_in_flight", &[]) >= 20.0;
        eventually("all twenty wait", all_in);
        site.wechat.release();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["openid"], openid_of("alice"));
    }
    assert_eq!(site.wechat.calls_with(&code), 1);
}

#[test]
fn five_hundred_logins_with_five_hundred_codes_give_five_hundred_right_openids() {
    let site = Site::start();
    let users: Vec<String> = (0..500).map(|number| format!("user{number}")).collect();
    std::thread::scope(|scope| {
        for part in users.chunks(25) {
            let site = &site;
            scope.spawn(move || {
                for user in part {
                    let body = site.log_in_fully(user);
                    assert_eq!(body["openid"], openid_of(user));
                    let token = body["access_token"].as_str().unwrap();
                    assert_eq!(decode(token).1["sub"], openid_of(user));
                }
            });
        }
    });
    assert_eq!(site.wechat.calls().len(), 500);
}

#[test]
fn a_code_sent_again_within_the_replay_window_gets_the_same_answer() {
    let site = Site::start();
    let code = site.wechat.code_of("alice");
    let first = site.auth(&code).json();
    let second = site.auth(&code).json();
    assert_eq!(first["access_token"], second["access_token"], "the very same answer");
    assert_eq!(site.wechat.calls_with(&code), 1);
}

#[test]
fn a_refusal_is_repeated_within_the_replay_window_too() {
    let site = Site::start();
    let code = site.wechat.unknown_code("mallory");
    for _ in 0..3 {
        assert_eq!(site.auth(&code).assert_refused(400, "invalid_grant")["errcode"], 40029);
    }
    assert_eq!(site.wechat.calls_with(&code), 1);
}

#[test]
fn after_the_replay_window_wechat_is_asked_again() {
    let site = Site::with().login("replay_window = \"1s\"").start();
    let code = site.wechat.code_of("alice");
    assert_eq!(site.auth(&code).status, 200);
    eventually("the window ends", || site.auth(&code).status == 400);
    assert_eq!(site.wechat.calls_with(&code), 2);
}

#[test]
fn logins_past_the_rate_limit_are_429_and_wechat_is_not_asked() {
    let site = Site::with().login("rate_limit = { per_ip = \"1/h\", burst = 3 }").start();
    for _ in 0..3 {
        assert_eq!(site.auth(&site.wechat.code_of("alice")).status, 200);
    }
    let answer = site.auth(&site.wechat.code_of("alice"));
    answer.assert_refused(429, "slow_down");
    assert_retry_after(&answer);
    assert_eq!(site.wechat.calls().len(), 3);
    let token = Forge::of("alice").token();
    let other = site.get("/api/me").bearer(&token).send();
    assert_eq!(other.status, 200, "only logins are counted");
}

#[test]
fn the_rate_limit_cannot_be_evaded_by_a_forged_forwarded_for() {
    let site = Site::with().login("rate_limit = { per_ip = \"1/h\", burst = 1 }").start();
    let body = |site: &Site| json!({ "code": site.wechat.code_of("alice") });
    assert_eq!(site.post("/wx/auth").json(&body(&site)).send().status, 200);
    for number in 0..5 {
        let address = format!("198.51.100.{number}");
        let answer = site
            .post("/wx/auth")
            .header("X-Forwarded-For", &address)
            .header("X-Real-IP", &address)
            .header("Forwarded", &format!("for={address}"))
            .json(&body(&site))
            .send();
        answer.assert_refused(429, "slow_down");
    }
}

#[test]
fn a_refresh_gives_a_new_token_of_the_same_session_and_the_old_one_lives_on() {
    let site = Site::start();
    let old = site.log_in("alice");
    let answer = site.post("/wx/refresh").bearer(&old).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["openid"], openid_of("alice"));
    assert!(body["expires_in"].as_u64().unwrap() <= 7200);
    let new = body["access_token"].as_str().unwrap();
    assert_ne!(new, old);
    let (old_claims, new_claims) = (decode(&old).1, decode(new).1);
    assert_eq!(old_claims["sid"], new_claims["sid"]);
    assert_ne!(old_claims["jti"], new_claims["jti"]);
    for token in [&*old, new] {
        assert_eq!(site.get("/api/me").bearer(token).send().status, 200);
    }
    assert_eq!(site.wechat.calls().len(), 1, "WeChat is not asked for a refresh");
}

#[test]
fn a_refresh_never_goes_past_max_age() {
    let site = Site::with().session("ttl = \"2s\"\nmax_age = \"4s\"").start();
    let mut token = site.log_in("alice");
    let begin = decode(&token).1["iat"].as_i64().unwrap();
    eventually("the session ends", || site.get("/api/me").bearer(&token).send().status == 401);
    token = site.log_in("alice");
    let begin_again = decode(&token).1["iat"].as_i64().unwrap();
    assert!(begin_again >= begin + 2, "a token lives to its end");
    let end = std::cell::RefCell::new(token);
    eventually("refreshing ends too", || {
        let answer = site.post("/wx/refresh").bearer(&end.borrow()).send();
        if answer.status == 200 {
            let new = answer.json()["access_token"].as_str().unwrap().to_owned();
            assert!(decode(&new).1["exp"].as_i64().unwrap() <= begin_again + 4);
            end.replace(new);
        }
        answer.status == 401
    });
    assert!(unix_seconds() >= begin_again + 4);
}

#[test]
fn a_refresh_without_a_good_token_is_401() {
    let site = Site::start();
    let missing = site.post("/wx/refresh").send();
    missing.assert_refused(401, "unauthorized");
    assert_eq!(missing.header("WWW-Authenticate"), Some("Bearer realm=\"wxgate\""));
    let bad = site.post("/wx/refresh").bearer("nonsense").send();
    bad.assert_refused(401, "invalid_token");
}

#[test]
fn a_logout_ends_the_session_and_all_its_tokens_at_once() {
    let site = Site::start();
    let first = site.log_in("alice");
    let second = site.post("/wx/refresh").bearer(&first).send().json();
    let second = second["access_token"].as_str().unwrap();
    let other_session = site.log_in("alice");
    // All verified once, so that a cache could remember them.
    for token in [&*first, second, &*other_session] {
        assert_eq!(site.get("/api/me").bearer(token).send().status, 200);
    }
    let answer = site.post("/wx/logout").bearer(&first).send();
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    for token in [&*first, second] {
        let answer = site.get("/api/me").bearer(token).send();
        answer.assert_refused(401, "invalid_token");
        assert!(answer.description().contains("revoked"), "{}", answer.text());
        let challenge = "Bearer realm=\"wxgate\", error=\"invalid_token\"";
        assert_eq!(answer.header("WWW-Authenticate"), Some(challenge));
        site.post("/wx/refresh").bearer(token).send().assert_refused(401, "invalid_token");
    }
    assert_eq!(site.get("/api/me").bearer(&other_session).send().status, 200);
    assert_eq!(site.upstream.requests().len(), 4);
}

#[test]
fn a_logout_of_all_ends_every_session_of_this_user_and_of_nobody_else() {
    let site = Site::start();
    let alice: Vec<String> = (0..3).map(|_| site.log_in("alice")).collect();
    let bob = site.log_in("bob");
    let answer = site.post("/wx/logout").bearer(&alice[0]).json(&json!({ "all": true })).send();
    assert_eq!(answer.status, 204);
    for token in &alice {
        let answer = site.get("/api/me").bearer(token).send();
        assert!(answer.description().contains("revoked"), "{}", answer.text());
    }
    assert_eq!(site.get("/api/me").bearer(&bob).send().status, 200);
    let again = site.log_in("alice");
    assert_eq!(site.get("/api/me").bearer(&again).send().status, 200, "a new login works");
}

#[test]
fn a_logout_may_say_all_false_or_have_an_empty_body() {
    let site = Site::start();
    for body in ["", "{}", "{\"all\": false}"] {
        let (ended, other) = (site.log_in("alice"), site.log_in("alice"));
        let request = site.post("/wx/logout").bearer(&ended);
        let answer = request.header("Content-Type", "application/json").body(body).send();
        assert_eq!(answer.status, 204, "{body:?}: {}", answer.text());
        assert_eq!(site.get("/api/me").bearer(&other).send().status, 200, "{body:?}");
    }
}

#[test]
fn a_logout_with_a_body_that_cannot_be_read_is_refused_and_ends_nothing() {
    let site = Site::start();
    let token = site.log_in("alice");
    for body in ["nonsense", "{\"all\": \"yes\"}", "[]"] {
        let request = site.post("/wx/logout").bearer(&token);
        let answer = request.header("Content-Type", "application/json").body(body).send();
        answer.assert_refused(400, "invalid_request");
    }
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
}

#[test]
fn a_logout_without_a_good_token_is_401() {
    let site = Site::start();
    site.post("/wx/logout").send().assert_refused(401, "unauthorized");
    let token = site.log_in("alice");
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    site.post("/wx/logout").bearer(&token).send().assert_refused(401, "invalid_token");
}

#[test]
fn a_session_shows_what_its_token_says() {
    let site = Site::start();
    let body = site.auth(&site.wechat.code_with_unionid_of("alice")).json();
    let token = body["access_token"].as_str().unwrap();
    let answer = site.get("/wx/session").bearer(token).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let session = answer.json();
    let claims = decode(token).1;
    assert_eq!(session["active"], true);
    assert_eq!(session["openid"], openid_of("alice"));
    assert_eq!(session["appid"], APPID);
    assert_eq!(session["unionid"], unionid_of("alice"));
    assert_eq!(session["iat"], claims["iat"]);
    assert_eq!(session["exp"], claims["exp"]);
    assert!(session.get("scope").is_some(), "{session}");
    let left = session["expires_in"].as_i64().unwrap();
    assert!((left - (claims["exp"].as_i64().unwrap() - unix_seconds())).abs() <= 2, "{session}");
    let promised = ["active", "openid", "appid", "unionid", "scope", "iat", "exp", "expires_in"];
    for name in session.as_object().unwrap().keys() {
        assert!(promised.contains(&name.as_str()), "{name}: {session}");
    }
}

#[test]
fn a_session_without_a_good_token_is_401() {
    let site = Site::start();
    site.get("/wx/session").send().assert_refused(401, "unauthorized");
    site.get("/wx/session").bearer("x.y.z").send().assert_refused(401, "invalid_token");
}

#[test]
fn a_wrong_method_of_an_endpoint_is_405_with_allow() {
    let site = Site::start();
    for (path, allow, methods) in [
        ("/wx/auth", "POST", ["GET", "PUT", "DELETE"]),
        ("/wx/refresh", "POST", ["GET", "PUT", "PATCH"]),
        ("/wx/logout", "POST", ["GET", "DELETE", "PUT"]),
    ] {
        for method in methods {
            let answer = site.request(method, path).send();
            answer.assert_refused(405, "method_not_allowed");
            assert_eq!(answer.header("Allow"), Some(allow), "{method} {path}");
        }
    }
    let answer = site.post("/wx/session").body("").send();
    answer.assert_refused(405, "method_not_allowed");
    let allow = answer.header("Allow").unwrap();
    assert!(allow.split(", ").any(|method| method == "GET"), "{allow}");
}

#[test]
fn what_is_not_listed_under_the_prefix_is_404_and_never_forwarded() {
    let site = Site::with()
        .routes("[[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"public\"\n")
        .start();
    for path in [
        "/wx",
        "/wx/",
        "/wx/nothing",
        "/wx/auth/",
        "/wx/auth/more",
        "/wx/AUTH",
        "/wx/session/x",
        "/%77x/nothing",
        "/wx//nothing",
        "/x/../wx/nothing",
        "//wx/nothing",
        "/./wx/nothing",
        "/wx;a=b/nothing",
        "/wx/verify",
        "/wx/jwks.json",
        "/wx/oauth",
        "/wx/oauth/login/",
    ] {
        let answer = site.get(path).send();
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        answer.assert_refused(404, "not_found");
    }
    assert!(site.upstream.requests().is_empty());
    for path in ["/wxx", "/w", "/WX/auth", "/a/wx/auth"] {
        assert_eq!(site.get(path).send().status, 200, "{path} is the backend's");
    }
}

#[test]
fn an_endpoint_answers_in_every_spelling_of_its_path() {
    let site = Site::start();
    for path in ["/wx/auth?x=1", "//wx//auth", "/./wx/x/../auth", "/%77%78/%61uth"] {
        let body = json!({ "code": site.wechat.code_of("alice") });
        assert_eq!(site.post(path).json(&body).send().status, 200, "{path}");
    }
}

#[test]
fn the_prefix_can_be_moved() {
    let site = Site::with().login("prefix = \"/gate/way\"").start();
    let body = json!({ "code": site.wechat.code_of("alice") });
    assert_eq!(site.post("/gate/way/auth").json(&body).send().status, 200);
    site.post("/wx/auth").json(&body).send().assert_refused(404, "not_found");
}

#[test]
fn an_answer_near_the_end_of_a_token_says_so() {
    let site = Site::with().session("ttl = \"100s\"").start();
    let fresh = site.log_in("alice");
    let answer = site.get("/api/me").bearer(&fresh).send();
    assert_eq!(answer.header("X-Session-Expires-In"), None);
    let now = unix_seconds();
    let old = Forge::of("alice").claim("iat", now - 95).claim("exp", now + 8).token();
    let answer = site.get("/api/me").bearer(&old).send();
    let left: i64 = answer.header("X-Session-Expires-In").expect("no hint").parse().unwrap();
    assert!((4..=8).contains(&left), "{left}");
    let answer = site.get("/maybe/me").bearer(&old).send();
    assert!(answer.header("X-Session-Expires-In").is_some());

    // A refusal is a response too, and a backend's word on it is not the gateway's.
    site.upstream.answers("/api/broken", Reply::raw("no http\r\n\r\n").then_close());
    let answer = site.get("/api/broken").bearer(&old).send();
    assert_eq!(answer.status, 502);
    assert!(answer.header("X-Session-Expires-In").is_some());
    let forged = "HTTP/1.1 200 OK\r\nX-Session-Expires-In: 5\r\nContent-Length: 0\r\n\r\n";
    site.upstream.answers("/api/forged", Reply::raw(forged));
    let answer = site.get("/api/forged").bearer(&fresh).send();
    assert_eq!(answer.header("X-Session-Expires-In"), None);
}

#[test]
fn the_last_tenth_of_a_short_life_is_told_by_the_gateways_own_endpoints_too() {
    let site = Site::with().session("ttl = \"5s\"").start();
    let hint = |answer: &Answer| {
        let seconds = answer.header("X-Session-Expires-In");
        assert!(matches!(seconds, None | Some("1")), "{seconds:?}");
        seconds.is_some()
    };
    let token = RefCell::new(site.log_in("alice"));
    eventually("each tells", || {
        let bearer = token.borrow().clone();
        let own = |name: &str| site.post(&format!("/wx/{name}")).bearer(&bearer);
        let forwarded = site.get("/api/me").bearer(&bearer).send();
        if forwarded.status == 401 {
            // The machine was too busy to meet the half second.
            token.replace(site.log_in("alice"));
        }
        hint(&forwarded)
            && [
                own("check").send(),
                own("decrypt").body("{}").send(),
                own("logout").body("no json").send(),
                site.get("/wx/session").bearer(&bearer).send(),
            ]
            .iter()
            .all(|answer| answer.status != 401 && hint(answer))
    });
}

#[test]
fn a_login_on_one_keep_alive_connection_is_followed_by_a_request() {
    let site = Site::start();
    let mut connection = site.connect();
    let body = json!({ "code": site.wechat.code_of("alice") });
    let answer = site.post("/wx/auth").json(&body).send_on(&mut connection);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        assert_eq!(site.get("/api/me").bearer(&token).send_on(&mut connection).status, 200);
    }
    assert_eq!(site.get("/api/me").send_on(&mut connection).status, 401);
    assert_eq!(site.get("/api/me").bearer(&token).send_on(&mut connection).status, 200);
}

#[test]
fn logins_are_counted_by_app_and_result() {
    let site = Site::start();
    site.log_in("alice");
    site.auth("unknown-code");
    site.auth(&site.wechat.code_that(Play::Errcode(40226)));
    site.auth(&site.wechat.code_that(Play::Errcode(45011)));
    site.auth(&site.wechat.code_that(Play::Errcode(-1)));
    site.auth(&site.wechat.code_that(Play::Errcode(40013)));
    let body = json!({ "code": "abc", "appid": "wxunknown00000000" });
    site.post("/wx/auth").json(&body).send();
    for (appid, result) in [
        (APPID, "ok"),
        (APPID, "invalid_grant"),
        (APPID, "denied"),
        (APPID, "rate_limited"),
        (APPID, "unavailable"),
        (APPID, "error"),
    ] {
        let labels = [("appid", appid), ("result", result)];
        assert_eq!(site.gateway.metric("wxgate_logins_total", &labels), 1.0, "{result}");
    }
    assert_eq!(site.gateway.metric("wxgate_logins_total", &[("appid", "unknown")]), 1.0);
    for errcode in ["0", "40029", "40226", "45011", "-1", "40013"] {
        let labels = [("api", "jscode2session"), ("errcode", errcode)];
        assert_eq!(site.gateway.metric("wxgate_wechat_requests_total", &labels), 1.0, "{errcode}");
    }
}
