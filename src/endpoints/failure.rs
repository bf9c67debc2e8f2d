//! What goes wrong behind an endpoint → what the client is told.

use std::time::Duration;

use super::answer::{Kind, Refusal};
use crate::session::{SessionError, TokenError};
use crate::wechat::WechatError;

/// When to come back where nobody said it.
const SOON: Duration = Duration::from_secs(1);

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Invalid => Self::new(Kind::InvalidToken, "the token is invalid"),
            TokenError::Expired => Self::new(Kind::InvalidToken, "the token has expired"),
            TokenError::Revoked => Self::new(Kind::InvalidToken, "the token was revoked"),
        }
    }
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Token(error) => error.into(),
            SessionError::Key(_)
            | SessionError::App(_)
            | SessionError::Random(_)
            | SessionError::Signing => {
                log::error!("a session could not be served: {error}");
                Self::internal()
            }
        }
    }
}

impl From<&WechatError> for Refusal {
    fn from(error: &WechatError) -> Self {
        let unavailable = || Self::new(Kind::TemporarilyUnavailable, "WeChat cannot be asked now");
        let fault = || Self::new(Kind::ServerError, "the gateway's app is not accepted by WeChat");
        match error {
            WechatError::InvalidCode => Self::invalid_code(),
            WechatError::UnknownApp => Self::unknown_app(),
            WechatError::CodeRefused { errcode } => {
                Self::new(Kind::InvalidGrant, "WeChat refused the code; call wx.login again")
                    .with_errcode(*errcode)
            }
            WechatError::UserRefused { errcode } => {
                Self::new(Kind::AccessDenied, "WeChat refused this user").with_errcode(*errcode)
            }
            WechatError::SessionKeyInvalid { errcode } => {
                Self::new(Kind::SessionKeyInvalid, "WeChat no longer knows this session_key")
                    .with_errcode(*errcode)
            }
            WechatError::RateLimited { errcode, retry_after } => {
                Self::new(Kind::SlowDown, "WeChat asks to slow down")
                    .with_errcode(*errcode)
                    .with_retry_after(*retry_after)
            }
            WechatError::Busy { errcode, retry_after } => {
                unavailable().with_errcode(*errcode).with_retry_after(*retry_after)
            }
            WechatError::Unavailable { retry_after, .. } => {
                unavailable().with_retry_after((*retry_after).max(SOON))
            }
            WechatError::Malformed(_) => {
                Self::new(Kind::WechatUnusable, "WeChat's answer could not be read")
            }
            WechatError::Unexpected { errcode } => {
                Self::new(Kind::WechatUnusable, "WeChat answered with an unknown error")
                    .with_errcode(*errcode)
            }
            WechatError::Misconfigured { errcode } => fault().with_errcode(*errcode),
            WechatError::QuotaExhausted { errcode } => {
                Self::new(Kind::ServerError, "the app's quota at WeChat is used up")
                    .with_errcode(*errcode)
            }
            WechatError::Setup(_) => Self::internal(),
        }
    }
}

impl Refusal {
    /// A code that WeChat is not even asked about.
    pub(super) fn invalid_code() -> Self {
        Self::new(
            Kind::InvalidRequest,
            "`code` must be 1 to 128 letters, digits, `_` or `-`, as wx.login gives it",
        )
    }

    /// An appid that is not configured.
    pub(super) fn unknown_app() -> Self {
        Self::new(Kind::InvalidRequest, "`appid` names no app of this gateway")
    }
}

/// The label of `wxgate_logins_total` for a login that failed.
pub(super) fn login_result(error: &WechatError) -> &'static str {
    match error {
        WechatError::InvalidCode | WechatError::CodeRefused { .. } => "invalid_grant",
        WechatError::UserRefused { .. } => "denied",
        WechatError::RateLimited { .. } => "rate_limited",
        WechatError::Busy { .. } | WechatError::Unavailable { .. } => "unavailable",
        WechatError::UnknownApp
        | WechatError::SessionKeyInvalid { .. }
        | WechatError::Malformed(_)
        | WechatError::Unexpected { .. }
        | WechatError::Misconfigured { .. }
        | WechatError::QuotaExhausted { .. }
        | WechatError::Setup(_) => "error",
    }
}
