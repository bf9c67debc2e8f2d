//! What WeChat encrypted for a user is opened with the session_key that the gateway keeps.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use libaes::Cipher;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::harness::token::Forge;
use crate::harness::wechat::{self, ACCESS_TOKEN, APPID, IV, Play, openid_of, session_key_of};
use crate::harness::{Answer, Site};

/// What WeChat encrypted for this user.
pub(crate) fn encrypted(user: &str, plain: &str) -> Value {
    wechat::encrypted(&session_key_of(user), plain)
}

pub(crate) fn profile(appid: &str) -> String {
    json!({
        "nickName": "班德 🎈",
        "watermark": { "timestamp": 1_477_314_187, "appid": appid },
    })
    .to_string()
}

fn signature(user: &str, raw_data: &str) -> String {
    let digest = Sha1::digest(format!("{raw_data}{}", session_key_of(user)));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decrypt(site: &Site, token: &str, body: &Value) -> Answer {
    site.post("/wx/decrypt").bearer(token).json(body).send()
}

#[test]
fn it_opens_what_was_encrypted_for_the_user_and_says_that_nobody_signed_it() {
    let site = Site::start();
    let token = site.log_in("alice");
    let answer = decrypt(&site, &token, &encrypted("alice", &profile(APPID)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let data: Value = serde_json::from_str(&profile(APPID)).unwrap();
    assert_eq!(answer.json(), json!({ "data": data, "signed": false }));
    assert!(!answer.text().contains(&session_key_of("alice")));
}

#[test]
fn what_was_decrypted_is_nobodys_identity() {
    let site = Site::start();
    let token = site.log_in("alice");
    let plain = json!({
        "openId": openid_of("mallory"),
        "unionId": "uMallory________",
        "watermark": { "appid": APPID },
    });
    let answer = decrypt(&site, &token, &encrypted("alice", &plain.to_string()));
    assert_eq!(answer.status, 200);
    site.get("/api/me").bearer(&token).send();
    assert_eq!(site.upstream.last().values("X-WX-OPENID"), [openid_of("alice")]);
    assert!(site.upstream.last().values("X-WX-UNIONID").is_empty());
}

#[test]
fn a_right_signature_is_said_to_be_right_and_a_wrong_one_is_refused() {
    let site = Site::start();
    let token = site.log_in("alice");
    let raw = "{\"nickName\":\"班德\", \"gender\" : 1}";
    let mut body = encrypted("alice", &profile(APPID));
    body["rawData"] = raw.into();
    body["signature"] = signature("alice", raw).into();
    let answer = decrypt(&site, &token, &body);
    assert_eq!((answer.status, &answer.json()["signed"]), (200, &json!(true)));

    for wrong in [
        signature("bob", raw),
        signature("alice", "{}"),
        signature("alice", raw).to_uppercase(),
        String::new(),
    ] {
        body["signature"] = wrong.into();
        let answer = decrypt(&site, &token, &body);
        answer.assert_refused(409, "session_key_invalid");
        assert!(answer.description().contains("signature"), "{}", answer.description());
    }
}

#[test]
fn raw_data_and_signature_come_together() {
    let site = Site::start();
    let token = site.log_in("alice");
    for (name, value) in [("rawData", "{}".to_owned()), ("signature", signature("alice", "{}"))] {
        let mut body = encrypted("alice", &profile(APPID));
        body[name] = value.into();
        decrypt(&site, &token, &body).assert_refused(400, "invalid_request");
    }
}

#[test]
fn what_is_malformed_is_the_clients_fault() {
    let site = Site::start();
    let token = site.log_in("alice");
    let good = encrypted("alice", &profile(APPID));
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let spaced = good["encryptedData"].as_str().unwrap().replacen('A', " ", 1);
    for (body, says) in [
        (with("encryptedData", json!("*")), "base64"),
        (with("encryptedData", json!(format!(" {spaced}"))), "base64"),
        (with("iv", json!("a_b-")), "base64"),
        (with("iv", json!(BASE64.encode([0; 15]))), "iv"),
        (with("iv", json!(BASE64.encode([0; 32]))), "iv"),
        (with("encryptedData", json!("")), "encryptedData"),
        (with("encryptedData", json!(BASE64.encode([0; 17]))), "encryptedData"),
        (with("encryptedData", json!(null)), "encryptedData"),
        (with("iv", json!(null)), "iv"),
        (with("iv", json!(7)), "JSON"),
        (json!([good["encryptedData"], good["iv"]]), "JSON"),
        (encrypted("alice", &profile("wxfedcba9876543210")), "watermark"),
        (encrypted("alice", "{\"nickName\":\"x\"}"), "watermark"),
        (encrypted("alice", "{\"watermark\":[]}"), "watermark"),
    ] {
        let answer = decrypt(&site, &token, &body);
        answer.assert_refused(400, "invalid_request");
        assert!(
            answer.description().contains(&says.to_lowercase()),
            "{says}: {}",
            answer.description()
        );
    }
    let unread = site.post("/wx/decrypt").bearer(&token).body("a=b").send();
    unread.assert_refused(400, "invalid_request");
}

#[test]
fn what_does_not_fit_the_key_sends_the_client_to_log_in_again() {
    let site = Site::start();
    let token = site.log_in("alice");
    let key: [u8; 16] = BASE64.decode(session_key_of("alice")).unwrap().try_into().unwrap();
    let mut padding = Cipher::new_128(&key).cbc_encrypt(IV, b"0123456789abcde");
    padding[15] ^= 0xff;
    for (data, says) in [
        (BASE64.encode(padding), "padding"),
        (encrypted("alice", "[1]")["encryptedData"].as_str().unwrap().to_owned(), "JSON"),
        (encrypted("alice", "no")["encryptedData"].as_str().unwrap().to_owned(), "JSON"),
    ] {
        let body = json!({ "encryptedData": data, "iv": BASE64.encode(IV) });
        let answer = decrypt(&site, &token, &body);
        answer.assert_refused(409, "session_key_invalid");
        assert!(
            answer.description().contains(&says.to_lowercase()),
            "{says}: {}",
            answer.description()
        );
    }
    let answer = decrypt(&site, &token, &encrypted("bob", &profile(APPID)));
    answer.assert_refused(409, "session_key_invalid");
    // The client logs in once more, by which WeChat's key is ours again.
    let again = site.log_in("bob");
    let answer = decrypt(&site, &again, &encrypted("bob", &profile(APPID)));
    assert_eq!(answer.status, 200);
}

#[test]
fn a_good_token_is_needed_and_its_session() {
    let site = Site::start();
    let body = encrypted("alice", &profile(APPID));
    site.post("/wx/decrypt").json(&body).send().assert_refused(401, "unauthorized");
    decrypt(&site, "bad", &body).assert_refused(401, "invalid_token");
    let lost = Forge::of("alice").token();
    decrypt(&site, &lost, &body).assert_refused(401, "invalid_token");
    let token = site.log_in("alice");
    site.post("/wx/logout").bearer(&token).send();
    decrypt(&site, &token, &body).assert_refused(401, "invalid_token");
}

#[test]
fn the_body_may_have_256_kib_and_no_more() {
    let site = Site::start();
    let token = site.log_in("alice");
    let frame = json!({ "data": "", "watermark": { "appid": APPID } }).to_string().len();
    let fill = |length: usize| {
        let data = "x".repeat(length - frame);
        let plain = json!({ "data": data, "watermark": { "appid": APPID } }).to_string();
        encrypted("alice", &plain)
    };
    let answer = decrypt(&site, &token, &fill(190_000));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut body = fill(100_000);
    body["more"] = "x".repeat(256 * 1024).into();
    decrypt(&site, &token, &body).assert_refused(413, "content_too_large");
}

#[test]
fn it_shares_the_bucket_of_logins() {
    let site = Site::with().login("rate_limit = { per_ip = \"1/h\", burst = 2 }").start();
    let token = site.log_in("alice");
    let body = encrypted("alice", &profile(APPID));
    assert_eq!(decrypt(&site, &token, &body).status, 200);
    let answer = decrypt(&site, &token, &body);
    answer.assert_refused(429, "slow_down");
    assert!(answer.header("Retry-After").is_some());
    site.auth(&site.wechat.code_of("bob")).assert_refused(429, "slow_down");
}

#[test]
fn wechat_says_whether_the_session_key_still_holds() {
    let site = Site::start();
    let token = site.log_in("alice");
    let check = || site.post("/wx/check").bearer(&token).send();
    let answer = check();
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "valid": true })),
        "{}",
        answer.text()
    );
    let calls = site.wechat.calls();
    let call = calls.iter().find(|call| call.path == "/wxa/checksession").unwrap();
    assert_eq!(call.parameter("openid"), Some(openid_of("alice").as_str()));
    assert_eq!(call.parameter("sig_method"), Some("hmac_sha256"));
    assert_eq!(call.parameter("signature").unwrap().len(), 64);

    site.wechat.answers("/wxa/checksession", Play::Errcode(87009));
    assert_eq!(check().json(), json!({ "valid": false }));
    site.wechat.answers("/wxa/checksession", Play::Errcode(-1));
    check().assert_refused(503, "temporarily_unavailable");
    site.wechat.answers("/wxa/checksession", Play::Errcode(40003));
    check().assert_refused(502, "server_error");
    site.post("/wx/check").send().assert_refused(401, "unauthorized");
    assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
}

#[test]
fn the_admin_listener_gives_the_access_token_and_nobody_else_does() {
    let site = Site::start();
    let ask = |query: &str| site.admin(&format!("/api/v1/access_token{query}")).send();
    for query in ["", &format!("?appid={APPID}")] {
        let answer = ask(query);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["access_token"], ACCESS_TOKEN);
        assert!((6900..=7200).contains(&answer.json()["expires_in"].as_u64().unwrap()));
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    }
    assert_eq!(site.wechat.calls().len(), 1, "held until it must be renewed");
    assert_eq!(ask("?appid=wxunknown00000000").status, 404);
    assert_eq!(ask("?app=1").status, 400);
    assert!(!site.gateway.stderr().contains(ACCESS_TOKEN));
    let outside = site.get("/api/v1/access_token").bearer(&site.log_in("alice")).send();
    assert!(!outside.text().contains(ACCESS_TOKEN));
}

#[test]
fn without_an_access_token_logins_go_on() {
    let site = Site::start();
    site.wechat.answers("/cgi-bin/stable_token", Play::Errcode(40125));
    let answer = site.admin("/api/v1/access_token").send();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("40125"));
    assert!(!site.log_in("alice").is_empty());
}
