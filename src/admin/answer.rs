//! Answers to the operator: JSON that no cache may keep.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

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
