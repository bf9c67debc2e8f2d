//! `POST check`: whether WeChat still takes the session_key of this login.

use serde::Serialize;

use super::{Answer, Endpoints, Request};
use crate::session::Verified;

#[derive(Serialize)]
struct Body {
    valid: bool,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let ask = async |caller: &Verified| {
        let key = endpoints.session_key(caller).await?;
        let (appid, openid) = (caller.identity.appid.as_str(), caller.identity.openid.as_str());
        let valid = endpoints.wechat.session_key_holds(appid, openid, &key).await?;
        Ok(Answer::json(&Body { valid }))
    };
    endpoints.for_caller(&request, ask).await
}
