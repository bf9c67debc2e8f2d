//! `POST check`: whether WeChat still takes the session_key of this login.

use serde::Serialize;

use super::refusal::Refusal;
use super::{Answer, Endpoints, Request};
use crate::observe::AuthResult;
use crate::session::Verified;

#[derive(Serialize)]
struct Body {
    valid: bool,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let caller = match endpoints.caller(&request) {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    let answer = match ask(endpoints, &caller).await {
        Ok(valid) => Answer::json(&Body { valid }),
        Err(refusal) => refusal.into_answer(request.request_id),
    };
    answer.for_caller(AuthResult::Ok, Some(caller.identity.openid.clone()))
}

async fn ask(endpoints: &Endpoints, caller: &Verified) -> Result<bool, Refusal> {
    let key = endpoints.session_key(caller).await?;
    let (appid, openid) = (caller.identity.appid.as_str(), caller.identity.openid.as_str());
    Ok(endpoints.wechat.session_key_holds(appid, openid, &key).await?)
}
