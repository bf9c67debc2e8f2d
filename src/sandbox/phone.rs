//! What the phone would do: wx.login, wx.getUserInfo and the getPhoneNumber button.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{BadOrder, order, own};
use super::crypt::{Sealed, seal, signature};
use super::users::{NAME_RULE, User, is_name};
use super::{LoginCode, PhoneCode, World};

/// Who acts, and in which app.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Actor {
    appid: String,
    user: String,
}

impl Actor {
    fn read(world: &World, body: &Bytes) -> Result<Self, BadOrder> {
        let actor: Self = order(body)?;
        if !world.apps.knows(&actor.appid) {
            return Err(BadOrder(format!("appid `{}` is not of this sandbox", actor.appid)));
        }
        if !is_name(&actor.user) {
            return Err(BadOrder(NAME_RULE.to_owned()));
        }
        Ok(actor)
    }
}

/// `POST /sandbox/login {"appid", "user"}` → `{"code"}`: lives 5 minutes, works once.
pub(super) async fn login(
    State(world): State<Arc<World>>,
    body: Bytes,
) -> Result<Response, BadOrder> {
    let actor = Actor::read(&world, &body)?;
    let now = world.clock.unix_millis();
    let mut state = world.lock();
    let openid = state.users.log_in(&actor.appid, &actor.user);
    let code = state.login_codes.issue(LoginCode { appid: actor.appid, openid }, now);
    Ok(own(StatusCode::OK, &json!({"code": code})))
}

/// `POST /sandbox/userinfo {"appid", "user"}` → what wx.getUserInfo gives the page.
pub(super) async fn userinfo(
    State(world): State<Arc<World>>,
    body: Bytes,
) -> Result<Response, BadOrder> {
    let actor = Actor::read(&world, &body)?;
    let (openid, user) = come_by(&world, &actor)?;
    let raw = json!({
        "nickName": user.name,
        "gender": 0,
        "language": "zh_CN",
        "city": "",
        "province": "",
        "country": "",
        "avatarUrl": "https://thirdwx.qlogo.cn/mmopen/vi_32/sandbox/132",
    });
    let mut secret = raw.clone();
    if let Some(secret) = secret.as_object_mut() {
        secret.insert("openId".to_owned(), openid.into());
        secret.insert("unionId".to_owned(), user.unionid.clone().into());
    }
    let Sealed { encrypted_data, iv } = seal_for(&world, &user, secret)?;
    let raw_data = raw.to_string();
    Ok(own(
        StatusCode::OK,
        &json!({
            "signature": signature(&user.session_key, &raw_data),
            "rawData": raw_data,
            "encryptedData": encrypted_data,
            "iv": iv,
        }),
    ))
}

/// `POST /sandbox/phone {"appid", "user"}` → what the getPhoneNumber button gives the page: the
/// code, and the older way's encryptedData. The code lives 5 minutes, works once, and is none
/// of wx.login.
pub(super) async fn press_phone_button(
    State(world): State<Arc<World>>,
    body: Bytes,
) -> Result<Response, BadOrder> {
    let actor = Actor::read(&world, &body)?;
    let (openid, user) = come_by(&world, &actor)?;
    let number = user.phone_number();
    let secret = json!({"phoneNumber": number, "purePhoneNumber": number, "countryCode": "86"});
    let Sealed { encrypted_data, iv } = seal_for(&world, &user, secret)?;
    let now = world.clock.unix_millis();
    let stands_for = PhoneCode { appid: actor.appid, openid, number };
    let code = world.lock().phone_codes.issue(stands_for, now);
    Ok(own(StatusCode::OK, &json!({"code": code, "encryptedData": encrypted_data, "iv": iv})))
}

fn come_by(world: &World, actor: &Actor) -> Result<(String, User), BadOrder> {
    let mut state = world.lock();
    let openid = state.users.visit(&actor.appid, &actor.user);
    let user = state.users.find(&openid).cloned();
    let user = user.ok_or_else(|| BadOrder("the sandbox is full".to_owned()))?;
    Ok((openid, user))
}

/// Encrypts as WeChat does: with a watermark, and the session_key of the last login.
fn seal_for(world: &World, user: &User, mut secret: Value) -> Result<Sealed, BadOrder> {
    let mark = json!({"timestamp": world.clock.unix_seconds(), "appid": user.appid});
    if let Some(secret) = secret.as_object_mut() {
        secret.insert("watermark".to_owned(), mark);
    }
    seal(&user.session_key, &secret.to_string())
        .ok_or_else(|| BadOrder("the session_key is broken".to_owned()))
}
