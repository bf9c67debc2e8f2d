//! Access tokens, and the calls that need one, against the scripted WeChat.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const OPENID: &str = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";
const STABLE: &str = "/cgi-bin/stable_token";
const PHONE: &str = "/wxa/business/getuserphonenumber";

fn key() -> Secret<String> {
    Secret::new("tiihtNczf5v6AKRyjwEUhQ==".to_owned())
}

fn token(number: usize) -> Act {
    json(&format!(r#"{{"access_token":"token-{number}","expires_in":7200}}"#))
}

fn phone_number() -> Act {
    json(&format!(
        r#"{{"errcode":0,"errmsg":"ok","phone_info":{{"phoneNumber":"13580006666",
        "purePhoneNumber":"13580006666","countryCode":86,
        "watermark":{{"timestamp":1637744274,"appid":"{APPID}"}}}}}}"#
    ))
}

/// Tokens numbered from 1; every other path is answered by `other`.
async fn wechat(mut other: impl FnMut(&str) -> Act + Send + 'static) -> Script {
    let mut number = 0;
    Script::planned(move |request| {
        if request.contains(STABLE) {
            number += 1;
            return token(number);
        }
        other(request)
    })
    .await
}

async fn text(gateway: &Gateway) -> String {
    gateway.wechat.access_token(APPID).await.unwrap().token.expose().clone()
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_never_by_force() {
    let script = wechat(|_| good()).await;
    let gateway = before(&script);
    let tokens = futures_util::future::join_all((0..20).map(|_| text(&gateway))).await;
    assert!(tokens.iter().all(|token| token == "token-1"));
    assert_eq!(text(&gateway).await, "token-1");
    assert_eq!(script.asked(), 1);
    let said = script.said();
    assert!(said.starts_with("POST /cgi-bin/stable_token HTTP/1.1\r\n"), "{said}");
    let (_, body) = said.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let wanted =
        serde_json::json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET});
    assert_eq!(body, wanted);
    let fetched = gateway.metrics.wechat_access_token_timestamp.with_label_values(&[APPID]);
    assert_eq!(fetched.get(), 1_800_000_000);
}

#[tokio::test]
async fn a_token_is_renewed_in_its_last_five_minutes() {
    let script = wechat(|_| good()).await;
    let gateway = before(&script);
    assert_eq!(text(&gateway).await, "token-1");
    gateway.clock.set_unix_millis(1_800_006_899_999);
    let shown = gateway.wechat.access_token(APPID).await.unwrap();
    assert_eq!(shown.expires_in, Duration::from_millis(300_001));
    gateway.clock.set_unix_millis(1_800_006_900_000);
    assert_eq!(text(&gateway).await, "token-2");
    assert_eq!(script.asked(), 2);
}

#[tokio::test]
async fn the_old_token_serves_to_its_end_while_no_new_one_can_be_had() {
    let script = wechat(|_| good()).await;
    let gateway = before(&script);
    assert_eq!(text(&gateway).await, "token-1");
    script.now(json(r#"{"errcode":45009,"errmsg":"reach max api daily quota limit"}"#));
    gateway.clock.set_unix_millis(1_800_007_199_999);
    assert_eq!(text(&gateway).await, "token-1");
    gateway.clock.set_unix_millis(1_800_007_200_000);
    let error = gateway.wechat.access_token(APPID).await.map(|_| ()).unwrap_err();
    assert_eq!(error, WechatError::QuotaExhausted { errcode: 45009 });
    assert_eq!(gateway.counted_for("stable_token", "45009"), 2);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_for_each_of_its_errcodes() {
    for errcode in [40001, 40014, 42001] {
        let script = wechat(move |request| {
            if request.contains("access_token=token-1 ") {
                json(&format!(r#"{{"errcode":{errcode},"errmsg":"no"}}"#))
            } else {
                phone_number()
            }
        })
        .await;
        let gateway = before(&script);
        let phone = gateway.wechat.phone(APPID, OPENID, "code").await.unwrap();
        assert_eq!(phone.pure_phone_number, "13580006666");
        assert_eq!((script.asked_for(STABLE), script.asked_for(PHONE)), (2, 2));
        assert_eq!(text(&gateway).await, "token-2");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_again_is_not_tried_a_third_time() {
    let script = wechat(|_| json(r#"{"errcode":40001,"errmsg":"no"}"#)).await;
    let gateway = before(&script);
    let error = gateway.wechat.phone(APPID, OPENID, "code").await.map(|_| ()).unwrap_err();
    assert_eq!(error, WechatError::Unexpected { errcode: 40001 });
    assert_eq!((script.asked_for(STABLE), script.asked_for(PHONE)), (2, 2));
}

#[tokio::test]
async fn a_phone_code_goes_out_once_with_the_openid_and_is_answered_to_that_user_only() {
    let script = wechat(|request| {
        if request.contains("oAnotherUser") {
            json(r#"{"errcode":40029,"errmsg":"invalid code"}"#)
        } else {
            phone_number()
        }
    })
    .await;
    let gateway = before(&script);
    let calls = (0..5).map(|_| gateway.wechat.phone(APPID, OPENID, "code"));
    for phone in futures_util::future::join_all(calls).await {
        assert_eq!(phone.unwrap().country_code, "86");
    }
    assert_eq!(script.asked_for(PHONE), 1);
    let said = script.said();
    assert!(said.contains(&format!(r#"{{"code":"code","openid":"{OPENID}"}}"#)), "{said}");
    let other = gateway.wechat.phone(APPID, "oAnotherUser", "code").await;
    assert_eq!(other.map(|_| ()), Err(WechatError::CodeRefused { errcode: 40029 }));
}

#[tokio::test]
async fn a_session_key_holds_or_not_and_the_call_is_signed() {
    let script = wechat(|_| json(r#"{"errcode":0,"errmsg":"ok"}"#)).await;
    let gateway = before(&script);
    assert_eq!(gateway.wechat.session_key_holds(APPID, OPENID, &key()).await, Ok(true));
    // By OpenSSL, over nothing, with the key's base64 text.
    let signature = "7154f9f8b4b76b92f541cbf0e37d48840fa06e5e42da92a6f80168a1516a4735";
    let said = script.said();
    let line = said.lines().find(|line| line.starts_with("GET /wxa/checksession?")).unwrap();
    let query = format!("&openid={OPENID}&signature={signature}&sig_method=hmac_sha256 ");
    assert!(line.contains(&query), "{line}");

    let script = wechat(|_| json(r#"{"errcode":87009,"errmsg":"invalid signature"}"#)).await;
    let gateway = before(&script);
    assert_eq!(gateway.wechat.session_key_holds(APPID, OPENID, &key()).await, Ok(false));
    let script = wechat(|_| json(r#"{"errcode":-1,"errmsg":"system error"}"#)).await;
    let gateway = before(&script);
    let error = gateway.wechat.session_key_holds(APPID, OPENID, &key()).await.unwrap_err();
    assert_eq!(error.errcode(), Some(-1));
}

#[tokio::test]
async fn a_reset_gives_the_new_key_of_this_user_and_no_other() {
    let answer = |openid: &str| {
        json(&format!(
            r#"{{"errcode":0,"errmsg":"ok","openid":"{openid}",
            "session_key":"HyVFkGl5F5OQWJZZaNzBBg=="}}"#
        ))
    };
    let script = wechat(move |_| answer(OPENID)).await;
    let fresh = before(&script).wechat.reset_session_key(APPID, OPENID, &key()).await.unwrap();
    assert_eq!(fresh.expose(), "HyVFkGl5F5OQWJZZaNzBBg==");
    let script = wechat(move |_| answer("oSomebodyElse")).await;
    let error = before(&script).wechat.reset_session_key(APPID, OPENID, &key()).await.unwrap_err();
    assert_eq!(error, WechatError::Malformed(Flaw::Field("openid")));
}

#[tokio::test]
async fn a_phone_code_that_had_no_token_to_go_with_may_be_shown_again() {
    let mut failures = 1;
    let script = Script::planned(move |request| match request.contains(STABLE) {
        true if failures > 0 => {
            failures -= 1;
            Act::Raw(Vec::new())
        }
        true => token(1),
        false => phone_number(),
    })
    .await;
    let gateway = before(&script);
    assert!(gateway.wechat.phone(APPID, OPENID, "code").await.is_err());
    assert!(gateway.wechat.phone(APPID, OPENID, "code").await.is_ok());
}

#[tokio::test]
async fn a_failing_access_token_never_hurts_a_login() {
    let script =
        Script::planned(
            |request| {
                if request.contains(STABLE) { Act::Raw(Vec::new()) } else { good() }
            },
        )
        .await;
    let gateway = before(&script);
    for number in 0..6 {
        let code = format!("code{number}");
        assert!(gateway.wechat.phone(APPID, OPENID, &code).await.is_err());
    }
    let error = gateway.wechat.access_token(APPID).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, WechatError::Unavailable { why: Outage::CircuitOpen, .. }),
        "{error:?}"
    );
    assert!(gateway.login("code").await.is_ok());
}

#[tokio::test]
async fn a_web_code_is_exchanged_once_however_often_the_page_is_opened() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let script = Script::planned(move |request| {
        assert!(request.contains("GET /sns/oauth2/access_token?appid="), "{request}");
        assert!(request.contains("&code=web&grant_type=authorization_code "), "{request}");
        counted.fetch_add(1, Ordering::SeqCst);
        json(&format!(r#"{{"access_token":"a","openid":"{OPENID}","scope":"snsapi_base"}}"#))
    })
    .await;
    let gateway = before(&script);
    for _ in 0..2 {
        let user = gateway.wechat.web_user(APPID, "s1", "web").await.unwrap();
        assert_eq!((user.openid.as_str(), &user.unionid), (OPENID, &None));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // In another login WeChat has the word, which takes no code twice.
    gateway.wechat.web_user(APPID, "s2", "web").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn tokens_of_an_odd_shape_are_malformed_and_of_an_unknown_app_not_asked_for() {
    for body in [
        r#"{"expires_in":7200}"#,
        r#"{"access_token":"a"}"#,
        r#"{"access_token":"a","expires_in":0}"#,
        r#"{"access_token":"a b","expires_in":7200}"#,
        r#"{"access_token":"a\r\nX: y","expires_in":7200}"#,
    ] {
        let gateway = before(&Script::start(json(body)).await);
        let error = gateway.wechat.access_token(APPID).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, WechatError::Malformed(Flaw::Field(_))), "{body}: {error:?}");
    }
    let script = wechat(|_| good()).await;
    let unknown = before(&script).wechat.access_token("wxffffffffffffffff").await;
    assert_eq!(unknown.map(|_| ()), Err(WechatError::UnknownApp));
    assert_eq!(script.asked(), 0);
}
