//! `POST {prefix}/auth`: the code of wx.login → a session token. session_key stays here.

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Kind, Refusal};
use super::failure::login_result;
use super::parameters::{self, Form};
use super::{Endpoints, Request, invalid};
use crate::identity::{AppId, OpenId, UnionId};
use crate::session::{Issued, NewSession};
use crate::wechat::WechatError;

/// What the client sends.
#[derive(Deserialize)]
struct Parameters {
    code: Option<String>,
    appid: Option<String>,
}

/// What the client gets (RFC 6749 section 5.1).
#[derive(Serialize)]
pub(super) struct TokenAnswer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    openid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
}

/// A login with an appid that is not configured is counted under this name.
const UNKNOWN: &str = "unknown";

impl Endpoints {
    pub(super) async fn auth(&self, request: &Request<'_>) -> Result<Answer, Refusal> {
        // The bucket comes first: whoever floods may not make us parse either.
        self.check_rate(request).inspect_err(|_| self.count_login(UNKNOWN, "rate_limited"))?;
        let parameters = Parameters::read(request)?;
        let appid = self.appid_of(&parameters, request)?;
        let code = parameters.code.as_deref().filter(|code| is_code(code)).ok_or_else(|| {
            self.count_login(&appid, "invalid_grant");
            Refusal::invalid_code()
        })?;
        match self.log_in(&appid, code).await {
            Ok(issued) => {
                self.count_login(&appid, "ok");
                Ok(self.token_answer(&issued))
            }
            Err(Failed::Wechat(error)) => {
                self.count_login(&appid, login_result(&error));
                log_failure(&appid, &error, request.request_id);
                Err(Refusal::from(&error))
            }
            Err(Failed::Gateway(refusal)) => {
                self.count_login(&appid, "error");
                Err(refusal)
            }
        }
    }

    async fn log_in(&self, appid: &str, code: &str) -> Result<Issued, Failed> {
        let login = self.wechat.code2session(appid, code).await.map_err(Failed::Wechat)?;
        let not_ours = |_| Failed::Gateway(Refusal::internal());
        let new = NewSession {
            openid: OpenId::parse(&login.openid).map_err(not_ours)?,
            appid: AppId::parse(appid).map_err(not_ours)?,
            unionid: login.unionid.as_deref().map(UnionId::parse).transpose().map_err(not_ours)?,
            session_key: login.session_key.clone(),
        };
        self.sessions.open(new).await.map_err(|error| Failed::Gateway(error.into()))
    }

    /// Which app a login is for: the body's, else the Referer's, else the only one.
    fn appid_of(&self, parameters: &Parameters, request: &Request<'_>) -> Result<String, Refusal> {
        if let Some(appid) = &parameters.appid {
            return if self.appids.contains(appid) {
                Ok(appid.clone())
            } else {
                self.count_login(UNKNOWN, "error");
                Err(Refusal::unknown_app())
            };
        }
        let named = request.referer.and_then(appid_of_referer);
        if let Some(appid) = named.and_then(|named| self.appids.iter().find(|it| *it == named)) {
            return Ok(appid.clone());
        }
        match self.appids.as_slice() {
            [only] => Ok(only.clone()),
            _ => {
                self.count_login(UNKNOWN, "error");
                Err(invalid("`appid` is missing, and this gateway serves several apps"))
            }
        }
    }

    pub(super) fn token_answer(&self, issued: &Issued) -> Answer {
        let identity = &issued.verified.identity;
        let shown = self.login.expose_openid;
        Answer::json(
            200,
            &TokenAnswer {
                access_token: issued.token(),
                token_type: "Bearer",
                expires_in: issued.expires_in.as_secs(),
                openid: Some(identity.openid.as_str()).filter(|_| shown),
                unionid: identity.unionid.as_ref().map(UnionId::as_str).filter(|_| shown),
            },
        )
    }

    fn count_login(&self, appid: &str, result: &str) {
        self.metrics.logins.with_label_values(&[appid, result]).inc();
    }
}

enum Failed {
    Wechat(WechatError),
    Gateway(Refusal),
}

impl Parameters {
    fn read(request: &Request<'_>) -> Result<Self, Refusal> {
        match Form::of(request)? {
            Form::Json => parameters::from_json(request.body),
            Form::UrlEncoded => {
                let mut read = Self { code: None, appid: None };
                for (name, value) in parameters::fields(request.body) {
                    let place = match name.as_str() {
                        "code" => &mut read.code,
                        "appid" => &mut read.appid,
                        _ => continue,
                    };
                    if place.replace(value).is_some() {
                        return Err(invalid("a field of the form is repeated"));
                    }
                }
                Ok(read)
            }
        }
    }
}

fn is_code(code: &str) -> bool {
    (1..=128).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// `https://servicewechat.com/{appid}/{version}/page-frame.html`: WeChat writes it, and no code
/// in a mini program can change it. Others can forge it, so it only names an app, never a user.
fn appid_of_referer(referer: &str) -> Option<&str> {
    referer.strip_prefix("https://servicewechat.com/")?.split_once('/').map(|(appid, _)| appid)
}

/// Loud where the operator has to act, quiet where a client does.
fn log_failure(appid: &str, error: &WechatError, request_id: &str) {
    match Refusal::from(error).kind() {
        Kind::ServerError => {
            log::error!("logins to {appid} fail until this is mended: {error}; {request_id}");
        }
        Kind::TemporarilyUnavailable | Kind::WechatUnusable => {
            log::warn!("login to {appid} failed: {error}; {request_id}");
        }
        Kind::InvalidRequest
        | Kind::InvalidGrant
        | Kind::AccessDenied
        | Kind::InsufficientScope
        | Kind::Unauthorized
        | Kind::InvalidToken
        | Kind::SessionKeyInvalid
        | Kind::SlowDown
        | Kind::UpstreamUnavailable
        | Kind::BadGateway
        | Kind::GatewayTimeout
        | Kind::NotFound
        | Kind::MethodNotAllowed
        | Kind::RequestTimeout
        | Kind::ContentTooLarge
        | Kind::UriTooLong
        | Kind::HeaderFieldsTooLarge => {
            log::info!("login to {appid} refused: {error}; {request_id}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_referer_names_the_app_only_in_wechats_own_form() {
        for (referer, appid) in [
            (
                "https://servicewechat.com/wx0123456789abcdef/12/page-frame.html",
                Some("wx0123456789abcdef"),
            ),
            ("https://servicewechat.com/wx0123456789abcdef", None),
            ("http://servicewechat.com/wx0123456789abcdef/0/page-frame.html", None),
            ("https://servicewechat.com.evil.example/wx0123456789abcdef/0/", None),
            ("", None),
        ] {
            assert_eq!(appid_of_referer(referer), appid, "{referer}");
        }
    }
}
