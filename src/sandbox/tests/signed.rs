//! What needs an access_token or a session_key: phone numbers, userinfo, signed calls.

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut as _, KeyIvInit as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::*;

const PHONE: &str = "/wxa/business/getuserphonenumber";

fn open(session_key: &str, sealed: &Value) -> Value {
    let bytes = |text: &str| STANDARD.decode(text).unwrap();
    let key: [u8; 16] = bytes(session_key).try_into().unwrap();
    let iv: [u8; 16] = bytes(&text(sealed, "iv")).try_into().unwrap();
    let mut data = bytes(&text(sealed, "encryptedData"));
    let cipher = Decryptor::<Aes128>::new(&key.into(), &iv.into());
    let plain = cipher.decrypt_padded_mut::<Pkcs7>(&mut data).unwrap();
    serde_json::from_slice(plain).unwrap()
}

fn sign(session_key: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(session_key.as_bytes()).unwrap();
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sandbox {
    /// The openid and session_key of a fresh login to `APP`.
    async fn session(&self, user: &str) -> (String, String) {
        let code = self.log_in(APP, user).await;
        let body = self.exchange(&code).await.json();
        (text(&body, "openid"), text(&body, "session_key"))
    }

    async fn phone_number(&self, token: &str, code: &str, openid: &str) -> Answer {
        let body = json!({"code": code, "openid": openid}).to_string();
        self.post(&format!("{PHONE}?access_token={token}"), &body).await
    }
}

#[tokio::test]
async fn userinfo_is_signed_and_sealed_with_the_key_of_the_last_login() {
    let sandbox = Sandbox::start().await;
    let (openid, key) = sandbox.session("小明").await;
    let given = sandbox.act("userinfo", "小明").await;
    let opened = open(&key, &given);
    assert_eq!(text(&opened, "openId"), openid);
    assert_eq!(text(&opened, "nickName"), "小明");
    let mark = json!({"appid": APP, "timestamp": NOW / 1000});
    assert_eq!(opened.get("watermark"), Some(&mark));
    let raw: Value = serde_json::from_str(&text(&given, "rawData")).unwrap();
    assert_eq!(raw.get("nickName"), opened.get("nickName"));
    assert!(raw.get("openId").is_none());
    assert_eq!(text(&given, "signature"), crypt::signature(&key, &text(&given, "rawData")));
    // Another login, and what was sealed before no longer fits.
    let (_, next_key) = sandbox.session("小明").await;
    assert_ne!(key, next_key);
    assert_eq!(text(&open(&next_key, &sandbox.act("userinfo", "小明").await), "openId"), openid);
}

#[tokio::test]
async fn a_phone_code_gives_the_number_once_to_its_own_user() {
    let sandbox = Sandbox::start().await;
    let (openid, key) = sandbox.session("alice").await;
    let token = sandbox.token().await;
    let given = sandbox.act("phone", "alice").await;
    let code = text(&given, "code");
    assert_eq!(sandbox.phone_number(&token, &code, "oSomebodyElse").await.errcode(), 40029);
    let answer = sandbox.phone_number(&token, &code, &openid).await.json();
    let found = answer.get("phone_info").unwrap();
    assert_eq!(found.get("countryCode"), Some(&json!("86")));
    assert_eq!(found.pointer("/watermark/appid"), Some(&json!(APP)));
    let number = text(found, "purePhoneNumber");
    assert_eq!(number, text(&open(&key, &given), "purePhoneNumber"));
    assert_eq!(sandbox.phone_number(&token, &code, &openid).await.errcode(), 40163);
    // Without an openid WeChat does not ask whose code it is.
    let code = text(&sandbox.act("phone", "alice").await, "code");
    let body = json!({"code": code}).to_string();
    let answer = sandbox.post(&format!("{PHONE}?access_token={token}"), &body).await;
    assert_eq!(answer.errcode(), 0);
}

#[tokio::test]
async fn codes_of_the_two_kinds_cannot_stand_for_each_other() {
    let sandbox = Sandbox::start().await;
    let token = sandbox.token().await;
    let login = sandbox.log_in(APP, "alice").await;
    let phone = text(&sandbox.act("phone", "alice").await, "code");
    assert_eq!(sandbox.phone_number(&token, &login, "o").await.errcode(), 40029);
    assert_eq!(sandbox.exchange(&phone).await.errcode(), 40029);
}

#[tokio::test]
async fn each_mistake_with_a_phone_code_has_wechats_errcode() {
    let sandbox = Sandbox::start().await;
    let token = sandbox.token().await;
    let wanted = json!({"grant_type": "client_credential", "appid": OTHER, "secret": "other"});
    let other = sandbox.post("/cgi-bin/stable_token", &wanted.to_string()).await.json();
    let code = text(&sandbox.act("phone", "alice").await, "code");
    let foreign = sandbox.phone_number(&text(&other, "access_token"), &code, "o").await;
    assert_eq!(foreign.errcode(), 40013);
    assert_eq!(sandbox.phone_number("", &code, "o").await.errcode(), 41001);
    assert_eq!(sandbox.phone_number("no", &code, "o").await.errcode(), 40001);
    assert_eq!(sandbox.phone_number(&token, "", "o").await.errcode(), 41008);
    let url = format!("{PHONE}?access_token={token}");
    assert_eq!(sandbox.post(&url, "code=1").await.errcode(), 47001);
    assert_eq!(sandbox.get(&url).await.errcode(), 43002);
    sandbox.clock.set_unix_millis(NOW + 7_200_000);
    assert_eq!(sandbox.phone_number(&token, &code, "o").await.errcode(), 42001);
}

#[tokio::test]
async fn a_session_key_is_checked_by_its_signature_and_replaced_by_a_reset() {
    let sandbox = Sandbox::start().await;
    let (openid, key) = sandbox.session("alice").await;
    let token = sandbox.token().await;
    let ask = async |api: &str, openid: &str, signature: &str, method: &str| {
        let path = format!(
            "/wxa/{api}?access_token={token}&openid={openid}&signature={signature}\
             &sig_method={method}"
        );
        sandbox.get(&path).await
    };
    let hmac = "hmac_sha256";
    assert_eq!(ask("checksession", &openid, &sign(&key), hmac).await.errcode(), 0);
    assert_eq!(ask("checksession", &openid, &sign("other"), hmac).await.errcode(), 87009);
    assert_eq!(ask("checksession", &openid, &sign(&key), "md5").await.errcode(), 87008);
    assert_eq!(ask("checksession", "oUnknown", &sign(&key), hmac).await.errcode(), 40003);
    let reset = ask("resetusersessionkey", &openid, &sign(&key), hmac).await.json();
    let fresh = text(&reset, "session_key");
    assert_eq!((text(&reset, "openid"), fresh == key), (openid.clone(), false));
    assert_eq!(ask("checksession", &openid, &sign(&key), hmac).await.errcode(), 87009);
    assert_eq!(ask("checksession", &openid, &sign(&fresh), hmac).await.errcode(), 0);
    // A new login makes it stale too.
    sandbox.log_in(APP, "alice").await;
    assert_eq!(ask("checksession", &openid, &sign(&fresh), hmac).await.errcode(), 87009);
}

#[tokio::test]
async fn the_keys_of_the_encrypted_channel_want_an_empty_body() {
    let sandbox = Sandbox::start().await;
    let (openid, key) = sandbox.session("alice").await;
    let token = sandbox.token().await;
    let path = format!(
        "/wxa/business/getuserencryptkey?access_token={token}&openid={openid}&signature={}\
         &sig_method=hmac_sha256",
        sign(&key)
    );
    assert_eq!(sandbox.post(&path, "{}").await.errcode(), 87009);
    let body = sandbox.post(&path, "").await.json();
    let first = body.pointer("/key_info_list/0").unwrap();
    assert_eq!(first.get("version"), Some(&json!(1)));
    assert_eq!(first.get("expire_in"), Some(&json!(3600)));
    assert_eq!(STANDARD.decode(text(first, "encrypt_key")).unwrap().len(), 16);
    assert_eq!(sandbox.get(&path).await.json(), body);
}

#[tokio::test]
async fn every_api_of_the_sandbox_can_be_made_to_fail() {
    let sandbox = Sandbox::start().await;
    for path in [
        "/sns/jscode2session",
        "/cgi-bin/token",
        "/cgi-bin/stable_token",
        PHONE,
        "/wxa/checksession",
        "/wxa/resetusersessionkey",
        "/wxa/business/getuserencryptkey",
        "/connect/oauth2/authorize",
        "/connect/qrconnect",
        "/sns/oauth2/access_token",
        "/sns/oauth2/refresh_token",
        "/sns/userinfo",
        "/sns/auth",
    ] {
        let api = path.rsplit('/').next().unwrap();
        let ordered = sandbox.fault(json!({"api": api, "errcode": -1, "times": 1})).await;
        assert_eq!(ordered.status, 200, "{api}");
        assert_eq!(sandbox.get(path).await.errcode(), -1, "{api}");
    }
}
