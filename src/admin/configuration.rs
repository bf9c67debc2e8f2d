//! `GET /api/v1/config` and `GET /api/v1/routes`: what is in force, without its secrets.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Admin, answer};
use crate::config::redacted;

pub(super) async fn whole(State(admin): State<Arc<Admin>>) -> Response {
    answer::json(StatusCode::OK, redacted(&admin.view.load().config))
}

pub(super) async fn routes(State(admin): State<Arc<Admin>>) -> Response {
    let mut config = redacted(&admin.view.load().config);
    let routes = config.get_mut("routes").map_or(Value::Null, Value::take);
    answer::json(StatusCode::OK, json!({ "routes": routes }))
}
