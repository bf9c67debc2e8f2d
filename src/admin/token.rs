//! `admin.token`: who may see more than health.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::{Admin, answer, dashboard};

/// Lets a request through that shows the token. Where none is configured, the listener is on
/// loopback and every program of this machine may ask; a web page that has given its own name
/// this machine's address may not, and it shows by the name. Numbers are no secret: a scraper may
/// come by any name.
pub(super) async fn check(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    let refusal = match &admin.view.load().config.admin.token {
        None => {
            let open = request.uri().path() == "/metrics" || is_local(request.headers());
            (!open).then(refuse_name)
        }
        Some(token) => {
            // Compared in constant time, so that it cannot be found out letter by letter.
            let good = shown(request.headers())
                .is_some_and(|shown| shown.ct_eq(token.expose().as_bytes()).into());
            (!good).then(|| refuse_token(&request))
        }
    };
    match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// Whether the request is for an address or for `localhost`, by its Host.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let name = name.map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn refuse_name() -> Response {
    let description = "without admin.token only localhost or an address is answered as Host";
    answer::refusal(StatusCode::FORBIDDEN, "access_denied", description)
}

/// The one credential of the request; two are none.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn refuse_token(request: &Request) -> Response {
    const DESCRIPTION: &str = "admin.token is needed, as `Authorization: Bearer`";
    let question = match request.uri().path() {
        "/" => dashboard::question(request.headers()),
        _ => None,
    };
    let mut response = question
        .unwrap_or_else(|| answer::refusal(StatusCode::UNAUTHORIZED, "unauthorized", DESCRIPTION));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = HeaderValue::from_static("Bearer realm=\"wxgate admin\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
