//! `/wxa/checksession`, `/wxa/resetusersessionkey` and `/wxa/business/getuserencryptkey`: calls
//! that a server signs with the session_key.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong, ok, only, random};
use super::crypt::signs_nothing;
use super::users::{CHANNEL_KEY_LIFE, User};

pub(super) async fn check(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::read(query.as_deref());
    answer::wechat(only(&method, &Method::GET).and_then(|()| signed(&world, &params, |_, _| ok())))
}

pub(super) async fn reset(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::read(query.as_deref());
    let replace = |openid: &str, user: &mut User| {
        user.session_key = STANDARD.encode(random::<16>());
        json!({"errcode": 0, "errmsg": "ok", "openid": openid, "session_key": user.session_key})
    };
    answer::wechat(only(&method, &Method::GET).and_then(|()| signed(&world, &params, replace)))
}

/// WeChat's older page says POST, its newer one GET; both work.
pub(super) async fn channel_keys(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    // The signature is over the body, and is only ever made over an empty one.
    if !body.is_empty() {
        return answer::wechat(Err(Wrong::SIGNATURE));
    }
    let now = world.clock.unix_seconds();
    let list = |_: &str, user: &mut User| {
        let keys: Vec<Value> = user
            .channel_keys(now)
            .iter()
            .map(|key| {
                json!({
                    "encrypt_key": key.encrypt_key,
                    "iv": key.iv,
                    "version": key.version,
                    "expire_in": (key.created_at + CHANNEL_KEY_LIFE).saturating_sub(now),
                    "create_time": key.created_at,
                })
            })
            .collect();
        json!({"errcode": 0, "errmsg": "ok", "key_info_list": keys})
    };
    answer::wechat(signed(&world, &Params::read(query.as_deref()), list))
}

/// Answers by `act` if the token is the app's, the user is one of it, and the signature was
/// made with the user's present session_key.
fn signed(
    world: &World,
    params: &Params,
    act: impl FnOnce(&str, &mut User) -> Value,
) -> Result<Value, Wrong> {
    let token = params.get("access_token", Wrong::NO_TOKEN)?;
    let mut state = world.lock();
    let appid = state.tokens.app_of(token, world.clock.unix_millis())?;
    let openid = params.get("openid", Wrong::OPENID)?;
    let user = state.users.find(openid).filter(|user| user.appid == appid);
    let user = user.ok_or(Wrong::OPENID)?;
    if params.or_empty("sig_method") != "hmac_sha256" {
        return Err(Wrong::SIG_METHOD);
    }
    if !signs_nothing(&user.session_key, params.or_empty("signature")) {
        return Err(Wrong::SIGNATURE);
    }
    Ok(act(openid, user))
}
