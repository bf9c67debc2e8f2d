//! The operator's listener: health, metrics, what is in force, and a page that shows it. Never
//! reachable through the clients' listener.
//!
//! One file per endpoint; `token.rs` guards all but health, `connections.rs` carries them.

mod access_token;
mod answer;
mod configuration;
mod connections;
mod dashboard;
mod health;
mod metrics;
mod session_key;
mod sessions;
mod token;
mod upstreams;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::Response;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::observe::Metrics;
use crate::session::Sessions;
use crate::upstream::Upstreams;
use crate::wechat::Wechat;

/// What the operator is told of, as the configuration in force has it; a reload swaps it.
#[derive(Debug)]
pub struct View {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Its upstreams.
    pub upstreams: Arc<Upstreams>,
    /// WeChat, with its apps.
    pub wechat: Wechat,
}

/// The operator's listener.
pub struct Admin {
    /// Swapped by a reload, the token with it.
    pub view: ArcSwap<View>,
    /// Lives as long as the process.
    pub metrics: Arc<Metrics>,
    /// Lives as long as the process.
    pub sessions: Arc<Sessions>,
    /// True once the process drains.
    pub draining: watch::Receiver<bool>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Serves the operator for ever. Where the future is dropped the listener closes and what is
/// being answered is cut off; until then health tells of a drain.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    connections::serve(listener, router(admin)).await;
}

fn router(admin: Arc<Admin>) -> Router {
    let open =
        Router::new().route("/livez", get(health::live)).route("/readyz", get(health::ready));
    // The token is asked for before anything is said about which paths there are.
    let guarded = Router::new()
        .route("/metrics", get(metrics::scrape))
        .route("/", get(dashboard::page))
        .route("/api/v1/sessions", get(sessions::list))
        .route("/api/v1/sessions/{sid}", get(sessions::show).delete(sessions::kick))
        .route("/api/v1/sessions/{sid}/session_key/reset", post(session_key::reset))
        .route("/api/v1/users/{openid}/sessions", delete(sessions::kick_user))
        .route("/api/v1/access_token", get(access_token::show))
        .route("/api/v1/upstreams", get(upstreams::list))
        .route("/api/v1/routes", get(configuration::routes))
        .route("/api/v1/config", get(configuration::whole))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), token::check));
    open.merge(guarded).method_not_allowed_fallback(method_not_allowed).with_state(admin)
}

async fn not_found() -> Response {
    answer::refusal(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

async fn method_not_allowed() -> Response {
    let description = "the method is not allowed here; see Allow";
    answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", description)
}
