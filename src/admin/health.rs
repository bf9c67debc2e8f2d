//! `/livez`: the process runs. `/readyz`: it can do its work, or which part of it cannot.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Admin;

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    draining: bool,
    /// Upstreams of which no server is up.
    upstreams_down: Vec<&'a str>,
}

pub(super) async fn live() -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], "ok\n").into_response()
}

pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let view = admin.view.load_full();
    let draining = *admin.draining.borrow();
    let down = view.upstreams.iter().filter(|upstream| !upstream.is_up());
    let upstreams_down: Vec<&str> = down.map(|upstream| upstream.config.name.as_str()).collect();
    let ready = !draining && upstreams_down.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, Json(Ready { ready, draining, upstreams_down })).into_response()
}
