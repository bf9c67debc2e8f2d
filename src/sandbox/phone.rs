//! What the phone would do: `/sandbox/login` is wx.login.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::answer::{BadOrder, order, own};
use super::{LoginCode, World};

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
        let length = actor.user.chars().count();
        if !(1..=64).contains(&length) || actor.user.chars().any(char::is_control) {
            return Err(BadOrder(
                "user must be 1 to 64 characters, none of them a control".to_owned(),
            ));
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
