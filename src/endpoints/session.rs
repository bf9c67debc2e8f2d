//! `GET {prefix}/session`: what a token stands for (after RFC 7662).

use serde::Serialize;

use super::answer::{Answer, Refusal};
use super::{Endpoints, Request};
use crate::identity::UnionId;

#[derive(Serialize)]
struct SessionAnswer<'a> {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    openid: Option<&'a str>,
    appid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    scope: String,
    iat: u64,
    exp: u64,
    expires_in: u64,
}

impl Endpoints {
    pub(super) fn session(&self, request: &Request<'_>) -> Result<Answer, Refusal> {
        let caller = self.caller(request)?;
        let identity = &caller.identity;
        let shown = self.login.expose_openid;
        Ok(Answer::json(
            200,
            &SessionAnswer {
                active: true,
                openid: Some(identity.openid.as_str()).filter(|_| shown),
                appid: identity.appid.as_str(),
                unionid: identity.unionid.as_ref().map(UnionId::as_str).filter(|_| shown),
                scope: caller.scope.join(" "),
                iat: caller.issued_at,
                exp: caller.expires_at,
                expires_in: self.sessions.expires_in(&caller).as_secs(),
            },
        ))
    }
}
