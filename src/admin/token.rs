//! `admin.token`: who may see more than health.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::{Admin, answer};

/// Lets a request through that shows the token, or every one where none is configured.
pub(super) async fn check(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    let good = match &admin.view.load().config.admin.token {
        None => true,
        // Compared in constant time, so that it cannot be found out letter by letter.
        Some(token) => shown(request.headers())
            .is_some_and(|shown| shown.ct_eq(token.expose().as_bytes()).into()),
    };
    if good { next.run(request).await } else { refuse() }
}

/// The one credential of the request; two are none.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn refuse() -> Response {
    let description = "admin.token is needed, as `Authorization: Bearer`";
    let mut response = answer::refusal(StatusCode::UNAUTHORIZED, "unauthorized", description);
    let challenge = HeaderValue::from_static("Bearer realm=\"wxgate admin\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
