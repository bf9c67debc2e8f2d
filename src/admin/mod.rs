//! The operator's listener: health, metrics. Never reachable through the clients' listener.

mod health;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::observe::Metrics;
use crate::secret::Secret;
use crate::upstream::Upstreams;

/// What the operator's listener tells of, as the rules in force have it; a reload swaps it.
#[derive(Debug)]
pub struct View {
    /// Upstreams of the rules in force.
    pub upstreams: Arc<Upstreams>,
    /// What every request but those to `/livez` and `/readyz` must show.
    pub token: Option<Secret<String>>,
}

/// The operator's listener.
#[derive(Debug)]
pub struct Admin {
    /// Swapped by a reload.
    pub view: ArcSwap<View>,
    /// Lives as long as the process.
    pub metrics: Arc<Metrics>,
    /// True once the process drains.
    pub draining: watch::Receiver<bool>,
}

/// How long an operator's request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the operator until it is dropped.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
    axum::serve(listener, router(admin)).await
}

fn router(admin: Arc<Admin>) -> Router {
    let open =
        Router::new().route("/livez", get(health::live)).route("/readyz", get(health::ready));
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), check_token));
    open.merge(guarded)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(limit_time))
        .with_state(admin)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], admin.metrics.render()).into_response()
}

async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "not_found", "nothing is here")
}

async fn method_not_allowed(_: Method) -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method")
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    let mut response = (status, axum::Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn limit_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "it took too long")
    })
}

/// Compares in constant time, so that a token cannot be found out letter by letter.
async fn check_token(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let view = admin.view.load_full();
    let Some(token) = &view.token else {
        return next.run(request).await;
    };
    let mut shown = request.headers().get_all(header::AUTHORIZATION).iter();
    let good = match (shown.next(), shown.next()) {
        (Some(value), None) => value
            .as_bytes()
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .is_some_and(|(_, shown)| shown.ct_eq(token.expose().as_bytes()).into()),
        _ => false,
    };
    if good {
        return next.run(request).await;
    }
    let mut response =
        refusal(StatusCode::UNAUTHORIZED, "unauthorized", "this needs the admin token");
    let challenge = HeaderValue::from_static("Bearer realm=\"wxgate admin\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
