//! `/sns/jscode2session`: the code of wx.login against the user and the session_key.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong, only};

pub(super) async fn answer(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    answer::wechat(exchange(&world, &method, &Params::read(query.as_deref())))
}

fn exchange(world: &World, method: &Method, params: &Params) -> Result<Value, Wrong> {
    only(method, &Method::GET)?;
    let appid = world.apps.check(params)?;
    let code = params.get("js_code", Wrong::NO_CODE)?;
    if params.get("grant_type", Wrong::GRANT_TYPE)? != "authorization_code" {
        return Err(Wrong::GRANT_TYPE);
    }
    let mut state = world.lock();
    let now = world.clock.unix_millis();
    let login = state
        .login_codes
        .redeem(code, now, |login| if login.appid == appid { Ok(()) } else { Err(Wrong::CODE) })?;
    let user = state.users.find(&login.openid).ok_or(Wrong::CODE)?;
    // As WeChat does, without errcode and errmsg where all is well.
    Ok(json!({
        "session_key": user.session_key,
        "openid": login.openid,
        "unionid": user.unionid,
    }))
}
