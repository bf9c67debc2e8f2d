//! The signed statement about the caller, as a backend checks it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde_json::{Value, json};

use crate::harness::Site;
use crate::harness::site::Settings;
use crate::harness::token::{decode, unix_seconds};
use crate::harness::wechat::{APPID, openid_of};

fn settings() -> Settings {
    let pem = SigningKey::from_bytes(&[7; 32]).to_pkcs8_pem(LineEnding::LF).unwrap();
    Site::with()
        .file("assertion.pem", &pem)
        .identity("assertion = \"X-Proof\"\nassertion_key = { file = \"assertion.pem\" }")
}

/// The one key of the key set.
fn key(site: &Site) -> Value {
    let answer = site.get("/wx/jwks.json").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    keys[0].clone()
}

fn assert_signed(assertion: &str, key: &Value) {
    let x = BASE64URL.decode(key["x"].as_str().unwrap()).unwrap();
    let public = VerifyingKey::from_bytes(&x.try_into().unwrap()).unwrap();
    let (input, signature) = assertion.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&BASE64URL.decode(signature).unwrap()).unwrap();
    public.verify_strict(input.as_bytes(), &signature).unwrap();
}

#[test]
fn a_backend_can_prove_who_calls_it_with_what() {
    for (lane, setting) in [("fast", "fast_lane = true"), ("full", "fast_lane = false")] {
        let site = settings().server(setting).start();
        let token = site.log_in("alice");
        let request = site.post("/api/me?secret=1").bearer(&token);
        request.header("X-Proof", "mine").header("X_Proof", "mine").body("x").send();
        let seen = site.upstream.last();
        assert_eq!(seen.values("X-Proof").len(), 1, "{lane}");
        assert!(!seen.raw().contains("mine"));
        let assertion = seen.header("X-Proof").unwrap();
        let key = key(&site);
        assert_signed(assertion, &key);
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"]),
            (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"))
        );
        assert!(key.get("d").is_none());
        let (header, claims) = decode(assertion);
        assert_eq!(header["alg"], "EdDSA");
        assert_eq!((&header["kid"], &header["typ"]), (&key["kid"], &json!("wxgate-assertion+jwt")));
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!("wxgate"), &json!("php")));
        assert_eq!((&claims["sub"], &claims["appid"]), (&json!(openid_of("alice")), &json!(APPID)));
        assert_eq!((&claims["method"], &claims["path"]), (&json!("POST"), &json!("/api/me")));
        let (made, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!(ends - made == 60 && (made - unix_seconds()).abs() <= 5);
    }
}

#[test]
fn nobody_is_stated_where_nobody_is_known() {
    let site = settings().start();
    let token = site.log_in("alice");
    for (target, bearer) in [("/maybe/x", None), ("/open/x", None), ("/open/x", Some(&token))] {
        let request = site.get(target).header("X-Proof", "mine");
        let request = bearer.into_iter().fold(request, |request, token| request.bearer(token));
        assert_eq!(request.send().status, 200);
        assert!(site.upstream.last().values("X-Proof").is_empty(), "{target}");
    }
}

#[test]
fn an_assertion_is_no_session_token_even_where_one_key_signs_both() {
    let pem = SigningKey::from_bytes(&[7; 32]).to_pkcs8_pem(LineEnding::LF).unwrap();
    let site = Site::with()
        .file("sign.pem", &pem)
        .signing_keys("[{ id = \"k1\", secret = { file = \"sign.pem\" } }]")
        .identity("assertion = \"X-WX-Assertion\"")
        .start();
    let token = site.log_in("alice");
    site.get("/api/me").bearer(&token).send();
    let assertion = site.upstream.last().header("X-WX-Assertion").unwrap().to_owned();
    assert_signed(&assertion, &key(&site));
    site.get("/api/me").bearer(&assertion).send().assert_refused(401, "invalid_token");
    site.get("/wx/session").bearer(&assertion).send().assert_refused(401, "invalid_token");
}

#[test]
fn without_a_header_for_it_there_are_no_keys() {
    Site::start().get("/wx/jwks.json").send().assert_refused(404, "not_found");
}
