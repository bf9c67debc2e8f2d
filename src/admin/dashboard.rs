//! `GET /`: one page that shows the gateway's numbers while they change.
//!
//! A browser cannot show a bearer token by itself. Where one is needed the refusal is a page that
//! asks for it and then fetches this one; nothing is in that refusal but the question.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse as _, Response};

use super::answer;

const PAGE: &str = include_str!("dashboard.html");
const QUESTION: &str = include_str!("question.html");

/// Scripts and styles stand in the page itself; it talks to this listener alone, and nobody may
/// frame it.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

pub(super) async fn page() -> Response {
    html(PAGE)
}

/// The page that asks for the token, as the body of a refusal; for others than browsers `None`.
pub(super) fn question(headers: &HeaderMap) -> Option<Response> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.contains("text/html").then(|| html(QUESTION))
}

fn html(page: &'static str) -> Response {
    let mut response = answer::no_store(Html(page).into_response());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
