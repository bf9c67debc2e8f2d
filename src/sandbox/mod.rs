//! A stand-in WeChat for development, tests and the demo, and a demo backend.
//!
//! It speaks as WeChat does: WeChat's paths, fields and error codes, HTTP 200 and text/plain for
//! all of them. What a phone would do is under `/sandbox/`.

mod answer;
mod apps;
pub mod backend;
mod fault;
mod jscode2session;
mod phone;
mod tickets;
mod token;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, post};
use tokio::net::TcpListener;

use answer::Wrong;
use apps::Apps;
use fault::Faults;
use tickets::Tickets;
use token::Tokens;
use users::Users;

use crate::clock::Clock;
use crate::secret::Secret;

/// The app of the demo.
pub const DEMO_APPID: &str = "wxdemo0000000000";
/// Its secret, which is none.
pub const DEMO_SECRET: &str = "demo";

/// A fault may carry a body of 10 MiB, to see what a gateway makes of it.
const LARGEST_ORDER: usize = 16 * 1024 * 1024;

/// Everything the sandbox knows; lost when it ends.
struct World {
    clock: Clock,
    apps: Apps,
    state: Mutex<State>,
    faults: Faults,
}

struct State {
    users: Users,
    login_codes: Tickets<LoginCode>,
    tokens: Tokens,
}

/// What a code of wx.login stands for.
#[derive(Clone)]
struct LoginCode {
    appid: String,
    openid: String,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandbox's pages for these apps, each an appid and its secret. Time is read from
/// `clock`, so that codes and tokens expire when a test says so.
pub fn router(apps: Vec<(String, Secret<String>)>, clock: Clock) -> Router {
    let world = Arc::new(World {
        clock,
        apps: Apps::new(apps),
        state: Mutex::new(State {
            users: Users::default(),
            login_codes: Tickets::living(tickets::FIVE_MINUTES),
            tokens: Tokens::default(),
        }),
        faults: Faults::default(),
    });
    let wechat = Router::new()
        .route("/sns/jscode2session", any(jscode2session::answer))
        .route("/cgi-bin/token", any(token::token))
        .route("/cgi-bin/stable_token", any(token::stable_token))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&world), fault::inject));
    let phone = Router::new()
        .route("/sandbox/login", post(phone::login))
        .route("/sandbox/fault", post(fault::order))
        .layer(DefaultBodyLimit::max(LARGEST_ORDER));
    phone.merge(wechat).with_state(world)
}

/// Serves the sandbox until the listener fails.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    apps: Vec<(String, Secret<String>)>,
    clock: Clock,
) -> std::io::Result<()> {
    axum::serve(listener, router(apps, clock)).await
}

async fn unknown() -> Response {
    answer::wechat(Err(Wrong::URL))
}

#[cfg(test)]
mod tests;
