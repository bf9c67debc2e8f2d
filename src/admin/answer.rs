//! Answers to the operator: JSON that no cache may keep.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use crate::wechat::WechatError;

/// A body of JSON.
pub(super) fn json(status: StatusCode, body: impl Serialize) -> Response {
    no_store((status, Json(body)).into_response())
}

/// An error, in the shape that clients get too.
pub(super) fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    json(status, json!({ "error": error, "error_description": description }))
}

/// The same, not to be kept by any cache.
pub(super) fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What WeChat refused, or why it could not be asked. The operator is told the cause itself: it
/// holds no secret.
pub(super) fn wechat_refusal(error: &WechatError) -> Response {
    let (status, name) = match error {
        WechatError::UnknownApp => (StatusCode::NOT_FOUND, "not_found"),
        WechatError::SessionKeyInvalid { .. } => (StatusCode::CONFLICT, "session_key_invalid"),
        WechatError::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "slow_down"),
        WechatError::Busy { .. } | WechatError::Unavailable { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
        }
        WechatError::InvalidCode
        | WechatError::CodeRefused { .. }
        | WechatError::UserRefused { .. }
        | WechatError::SnapshotUser
        | WechatError::Watermark(_)
        | WechatError::Malformed(_)
        | WechatError::Unexpected { .. }
        | WechatError::Misconfigured { .. }
        | WechatError::QuotaExhausted { .. }
        | WechatError::Setup(_) => (StatusCode::BAD_GATEWAY, "server_error"),
    };
    let mut response = refusal(status, name, &error.to_string());
    if let Some(wait) = error.retry_after() {
        let seconds = HeaderValue::from(wait.as_secs().max(1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}
