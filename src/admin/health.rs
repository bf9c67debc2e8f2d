//! `/livez`: the process runs. `/readyz`: it can do its work, or which part of it cannot.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::{Admin, View, answer};

#[derive(Serialize)]
struct Readiness<'a> {
    ready: bool,
    /// The process finishes what is in flight and takes nothing new.
    draining: bool,
    /// Upstreams of some route of which no server is up.
    upstreams_down: BTreeSet<&'a str>,
    /// Where sessions are kept, and where other nodes tell which were ended.
    store: Store,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Store {
    Up,
    Down,
}

pub(super) async fn live() -> Response {
    answer::no_store("ok\n".into_response())
}

pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let view = admin.view.load();
    let draining = *admin.draining.borrow();
    let upstreams_down = upstreams_down(&view);
    let store = if admin.sessions.store_is_up() { Store::Up } else { Store::Down };
    let ready = !draining && upstreams_down.is_empty() && store == Store::Up;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, Readiness { ready, draining, upstreams_down, store })
}

/// An upstream that no route uses keeps nobody from being served.
fn upstreams_down(view: &View) -> BTreeSet<&str> {
    let used = view.config.routes.iter().filter_map(|route| view.upstreams.get(route.upstream));
    used.filter(|upstream| !upstream.is_up())
        .map(|upstream| upstream.config.name.as_str())
        .collect()
}
