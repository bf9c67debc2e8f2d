//! `/sns/jscode2session`: the code of wx.login against the user and the session_key.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};

use super::World;
use super::answer::{self, Params, Wrong};

pub(super) async fn answer(
    State(world): State<Arc<World>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    answer::wechat(exchange(&world, &method, &Params::read(query.as_deref())))
}

fn exchange(world: &World, method: &Method, params: &Params) -> Result<Value, Wrong> {
    let (appid, code) = world.apps.exchange(method, params, "js_code")?;
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
