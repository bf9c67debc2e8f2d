//! `/wxa/business/getuserphonenumber`: the code of the getPhoneNumber button against the number.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong, only};

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    code: String,
    openid: Option<String>,
}

pub(super) async fn answer(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    answer::wechat(exchange(&world, &method, &Params::read(query.as_deref()), &body))
}

fn exchange(world: &World, method: &Method, params: &Params, body: &Bytes) -> Result<Value, Wrong> {
    only(method, &Method::POST)?;
    let token = params.get("access_token", Wrong::NO_TOKEN)?;
    let now = world.clock.unix_millis();
    let mut state = world.lock();
    let appid = state.tokens.app_of(token, now)?;
    let wanted: Wanted = serde_json::from_slice(body).map_err(|_| Wrong::BODY)?;
    if wanted.code.is_empty() {
        return Err(Wrong::NO_CODE);
    }
    let pressed = state.phone_codes.redeem(&wanted.code, now, |pressed| {
        if pressed.appid != appid {
            return Err(Wrong::APPID);
        }
        // WeChat's errcode for a code of another user is not documented; this one makes a
        // client ask for a new code.
        match &wanted.openid {
            Some(openid) if *openid != pressed.openid => Err(Wrong::CODE),
            Some(_) | None => Ok(()),
        }
    })?;
    Ok(json!({
        "errcode": 0,
        "errmsg": "ok",
        "phone_info": {
            "phoneNumber": pressed.number,
            "purePhoneNumber": pressed.number,
            "countryCode": "86",
            "watermark": {"timestamp": now / 1000, "appid": appid},
        },
    }))
}
