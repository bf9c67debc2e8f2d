//! `GET session`: what the shown token says, while it is good.

use serde::Serialize;

use super::{Answer, Endpoints, Request};

/// By the names of RFC 7662.
#[derive(Serialize)]
struct Body<'a> {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    openid: Option<&'a str>,
    appid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    /// Separated by spaces; empty if there is none.
    scope: String,
    iat: u64,
    exp: u64,
    expires_in: u64,
}

pub(super) fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let caller = match endpoints.caller(&request) {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    let (openid, unionid) = endpoints.reveals.of(&caller.identity);
    let body = Body {
        active: true,
        openid,
        appid: caller.identity.appid.as_str(),
        unionid,
        scope: caller.scope.join(" "),
        iat: caller.issued_at,
        exp: caller.expires_at,
        expires_in: endpoints.sessions.expires_in(&caller).as_secs(),
    };
    endpoints.to_caller(Answer::json(&body), &caller)
}
