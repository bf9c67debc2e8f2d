//! `GET /metrics`: what Prometheus scrapes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::{Admin, answer};

pub(super) async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    admin.metrics.store_up.set(i64::from(admin.sessions.store_is_up()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer::no_store(([(header::CONTENT_TYPE, text)], admin.metrics.render()).into_response())
}
