//! The demo backend: shows what it was asked, so that one can see what the gateway passed on.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::net::TcpListener;

use super::answer::own;

const LARGEST_BODY: usize = 1024 * 1024;

/// Answers any path and method with `{"method", "path", "headers", "header_list", "body"}`:
/// `path` with its query, `headers` by lower-case name with repeated ones joined by `, ` as PHP
/// and Java show them, `header_list` as `[name, value]` pairs one by one, `body` as text.
pub fn router() -> Router {
    Router::new().fallback(echo)
}

/// Serves the demo backend until the listener fails.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    axum::serve(listener, router()).await
}

async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let list: Vec<(&str, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &list {
        joined
            .entry(name)
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        let error = json!({"error": "the body is over 1 MiB or was cut off"});
        return own(StatusCode::PAYLOAD_TOO_LARGE, &error);
    };
    own(
        StatusCode::OK,
        &json!({
            "method": head.method.as_str(),
            "path": head.uri.path_and_query().map_or("*", |path| path.as_str()),
            "headers": joined,
            "header_list": list,
            "body": String::from_utf8_lossy(&body),
        }),
    )
}
