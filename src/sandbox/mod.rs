//! A stand-in WeChat for development, tests and the demo, and a demo backend.
//!
//! It speaks as WeChat does: WeChat's paths, fields and error codes, HTTP 200 and text/plain for
//! all of them. What a phone would do is under `/sandbox/`.

mod answer;
mod apps;
pub mod backend;
mod crypt;
mod fault;
mod jscode2session;
mod oauth;
mod phone;
mod phone_number;
mod session_key;
mod sns;
mod tickets;
mod token;
mod users;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, get, post};
use tokio::net::TcpListener;

use answer::Wrong;
use apps::Apps;
use fault::Faults;
use sns::Web;
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
    phone_codes: Tickets<PhoneCode>,
    tokens: Tokens,
    web: Web,
}

/// What a code of wx.login stands for.
#[derive(Clone)]
struct LoginCode {
    appid: String,
    openid: String,
}

/// What a code of the getPhoneNumber button stands for.
struct PhoneCode {
    appid: String,
    openid: String,
    number: String,
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
            phone_codes: Tickets::living(tickets::FIVE_MINUTES),
            tokens: Tokens::default(),
            web: Web::default(),
        }),
        faults: Faults::default(),
    });
    let wechat = Router::new()
        .route("/sns/jscode2session", any(jscode2session::answer))
        .route("/cgi-bin/token", any(token::token))
        .route("/cgi-bin/stable_token", any(token::stable_token))
        .route("/wxa/business/getuserphonenumber", any(phone_number::answer))
        .route("/wxa/checksession", any(session_key::check))
        .route("/wxa/resetusersessionkey", any(session_key::reset))
        .route("/wxa/business/getuserencryptkey", any(session_key::channel_keys))
        .route("/connect/oauth2/authorize", get(oauth::authorize))
        .route("/connect/qrconnect", get(oauth::qrconnect))
        .route("/sns/oauth2/access_token", any(sns::access_token))
        .route("/sns/oauth2/refresh_token", any(sns::refresh_token))
        .route("/sns/userinfo", any(sns::userinfo))
        .route("/sns/auth", any(sns::auth))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&world), fault::inject));
    let phone = Router::new()
        .route("/sandbox/login", post(phone::login))
        .route("/sandbox/userinfo", post(phone::userinfo))
        .route("/sandbox/phone", post(phone::press_phone_button))
        .route("/sandbox/consent", get(oauth::consent))
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
