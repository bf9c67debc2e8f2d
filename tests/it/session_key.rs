//! WeChat's session_key of a session: replaced when the operator says so, lost with the signing key
//! that sealed it, and shown to nobody.

use hmac::{Hmac, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::harness::client::Request;
use crate::harness::token::{KEY, KID, decode};
use crate::harness::wechat::{ACCESS_TOKEN, APPID, Play, encrypted, openid_of, session_key_of};
use crate::harness::{Answer, Site};

const RESET: &str = "/wxa/resetusersessionkey";

fn decrypts(site: &Site, token: &str, session_key: &str) -> Answer {
    let plain = json!({ "watermark": { "appid": APPID } }).to_string();
    site.post("/wx/decrypt").bearer(token).json(&encrypted(session_key, &plain)).send()
}

fn sid_of(token: &str) -> String {
    decode(token).1["sid"].as_str().unwrap().to_owned()
}

fn reset(site: &Site, sid: &str) -> Answer {
    let target = format!("/api/v1/sessions/{sid}/session_key/reset");
    Request::new(site.gateway.admin(), "POST", &target).host("127.0.0.1").send()
}

fn new_key(user: &str, session_key: &str) -> Play {
    let body = json!({
        "errcode": 0, "errmsg": "ok", "openid": openid_of(user), "session_key": session_key,
    });
    Play::Body(body.to_string())
}

#[test]
fn the_operator_has_wechat_replace_it_and_sees_neither() {
    let site = Site::start();
    let (token, old, new) = (site.log_in("alice"), session_key_of("alice"), session_key_of("new"));
    assert_eq!(decrypts(&site, &token, &old).status, 200);
    site.wechat.answers(RESET, new_key("alice", &new));
    let answer = reset(&site, &sid_of(&token));
    assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    assert_eq!(decrypts(&site, &token, &new).status, 200, "the token and its session live on");
    decrypts(&site, &token, &old).assert_refused(409, "session_key_invalid");

    let calls = site.wechat.calls();
    let call = calls.iter().find(|call| call.path == RESET).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(old.as_bytes()).unwrap().finalize().into_bytes();
    let signature: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(call.parameter("signature"), Some(signature.as_str()), "with the old key's text");
    assert_eq!(call.parameter("sig_method"), Some("hmac_sha256"));
    assert_eq!(call.parameter("openid"), Some(openid_of("alice").as_str()));
    assert_eq!(call.parameter("access_token"), Some(ACCESS_TOKEN));
    let shown = site.admin(&format!("/api/v1/sessions/{}", sid_of(&token))).send().text();
    let written = site.gateway.stdout() + &site.gateway.stderr() + &shown;
    assert!(!written.contains(&old) && !written.contains(&new));
}

#[test]
fn what_wechat_says_against_it_is_told_and_the_old_one_stays() {
    let site = Site::start();
    let token = site.log_in("alice");
    for (play, status, error) in [
        (Play::Errcode(87009), 409, "session_key_invalid"),
        (Play::Errcode(45011), 429, "slow_down"),
        (Play::Errcode(-1), 503, "temporarily_unavailable"),
        (Play::Errcode(48001), 502, "server_error"),
        (Play::Reset, 503, "temporarily_unavailable"),
        (Play::Body("<html>".to_owned()), 502, "server_error"),
        (new_key("mallory", &session_key_of("new")), 502, "server_error"),
        (new_key("alice", "c2hvcnQ="), 502, "server_error"),
    ] {
        site.wechat.answers(RESET, play.clone());
        let answer = reset(&site, &sid_of(&token));
        assert_eq!(answer.status, status, "{play:?}: {}", answer.text());
        assert_eq!(answer.json()["error"], error);
        assert_eq!(answer.header("Retry-After").is_some(), matches!(status, 429 | 503), "{play:?}");
        assert!(!answer.text().contains(&session_key_of("alice")));
        assert_eq!(decrypts(&site, &token, &session_key_of("alice")).status, 200, "{play:?}");
    }
}

#[test]
fn a_session_that_is_not_there_is_404_and_wechat_is_not_asked() {
    let site = Site::start();
    let token = site.log_in("alice");
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    for sid in [sid_of(&token).as_str(), "never-was", "%2e%2e"] {
        let answer = reset(&site, sid);
        assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("not_found")), "{sid}");
    }
    let target = format!("/api/v1/sessions/{}/session_key/reset", sid_of(&token));
    assert_eq!(site.admin(&target).send().status, 405, "only by POST");
    assert!(site.wechat.calls().iter().all(|call| call.path != RESET));
}

#[test]
fn where_the_key_that_sealed_it_is_gone_a_login_mends_it() {
    let both = format!(
        "[{{ id = \"new\", secret = {{ file = \"new.key\" }} }}, \
          {{ id = \"{KID}\", secret = {{ file = \"test-1.key\" }} }}]"
    );
    let second = "another-signing-key-of-32-bytes-or-more";
    assert_ne!(second, KEY);
    let mut site = Site::with().file("new.key", second).start();
    let old = site.log_in("alice");
    assert!(site.reload(|settings| settings.signing_keys(&both)));
    assert_eq!(decrypts(&site, &old, &session_key_of("alice")).status, 200, "both are listed");
    // A token of the new key, for a session that the old key sealed: as with a rotation that
    // leaves sessions no time to refresh.
    let exchanged = site.post("/wx/refresh").bearer(&old).send().json();
    let lasting = exchanged["access_token"].as_str().unwrap().to_owned();
    assert_eq!(decode(&lasting).0["kid"], "new");
    let alone = "[{ id = \"new\", secret = { file = \"new.key\" } }]";
    assert!(site.reload(|settings| settings.signing_keys(alone)));
    let refused = site.get("/api/me").bearer(&old).send();
    refused.assert_refused(401, "invalid_token");
    assert!(refused.description().contains("invalid"), "{}", refused.text());
    // A refresh seals anew, so that nothing is lost.
    assert_eq!(decrypts(&site, &lasting, &session_key_of("alice")).status, 200);

    // A whole rotation without a refresh: the session is there, its session_key is not.
    let third = "[{ id = \"third\", secret = { file = \"third.key\" } }]";
    let third_key = "a-third-signing-key-of-32-bytes-or-more";
    assert!(site.reload(|settings| settings.signing_keys(third).file("third.key", third_key)));
    let forged = crate::harness::token::Forge::of("alice")
        .key(third_key.as_bytes())
        .header("kid", "third")
        .claim("sid", sid_of(&lasting))
        .token();
    assert_eq!(site.get("/api/me").bearer(&forged).send().status, 200);
    let lost = decrypts(&site, &forged, &session_key_of("alice"));
    lost.assert_refused(409, "session_key_invalid");
    assert!(lost.description().contains("wx.login"), "{}", lost.text());
    site.post("/wx/check").bearer(&forged).send().assert_refused(409, "session_key_invalid");
    let answer = reset(&site, &sid_of(&lasting));
    assert_eq!((answer.status, &answer.json()["error"]), (409, &json!("session_key_invalid")));
    let fresh = site.log_in("alice");
    assert_eq!(decrypts(&site, &fresh, &session_key_of("alice")).status, 200);
}
