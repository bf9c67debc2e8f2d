//! `/sandbox/fault`: make the next calls of an API fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::World;
use super::answer::{BadOrder, errmsg, order as read, own, refusal};

/// What may fail. An order names a path of WeChat, or its last part.
const PATHS: [&str; 13] = [
    "/sns/jscode2session",
    "/cgi-bin/token",
    "/cgi-bin/stable_token",
    "/wxa/business/getuserphonenumber",
    "/wxa/checksession",
    "/wxa/resetusersessionkey",
    "/wxa/business/getuserencryptkey",
    "/connect/oauth2/authorize",
    "/connect/qrconnect",
    "/sns/oauth2/access_token",
    "/sns/oauth2/refresh_token",
    "/sns/userinfo",
    "/sns/auth",
];

/// The last part of a path, by which a fault is kept.
fn api_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

const LONGEST_DELAY_MS: u64 = 600_000;

/// The faults in force, at most one for each API.
#[derive(Default)]
pub(super) struct Faults(Mutex<HashMap<&'static str, Fault>>);

struct Fault {
    left: u32,
    how: How,
}

#[derive(Clone)]
struct How {
    delay: Duration,
    /// `None`: the call is answered as ever.
    instead: Option<Instead>,
}

#[derive(Clone)]
struct Instead {
    status: StatusCode,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Errcode(i64),
    Text(Bytes),
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, api: &str) -> Option<How> {
        let mut faults = self.lock();
        let fault = faults.get_mut(api)?;
        let how = fault.how.clone();
        fault.left = fault.left.saturating_sub(1);
        if fault.left == 0 {
            faults.remove(api);
        }
        Some(how)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    api: String,
    errcode: Option<i64>,
    delay_ms: Option<u64>,
    status: Option<u16>,
    body: Option<Value>,
    times: u32,
}

/// `POST /sandbox/fault`: the next `times` calls of `api` fail so. A later order for the same
/// API replaces an earlier one; `times` 0 ends it.
pub(super) async fn order(
    State(world): State<Arc<World>>,
    body: Bytes,
) -> Result<Response, BadOrder> {
    let (api, fault) = read(&body).and_then(understand)?;
    let left = fault.left;
    let mut faults = world.faults.lock();
    if left == 0 {
        faults.remove(api);
    } else {
        faults.insert(api, fault);
    }
    Ok(own(StatusCode::OK, &json!({"api": api, "times": left})))
}

fn understand(order: Order) -> Result<(&'static str, Fault), BadOrder> {
    let named = |path: &&'static str| *path == order.api || api_of(path) == order.api;
    let Some(api) = PATHS.into_iter().find(named).map(api_of) else {
        let apis = PATHS.map(api_of).join(", ");
        return Err(BadOrder(format!("api must be one of {apis}, or such a one's whole path")));
    };
    let delay_ms = order.delay_ms.unwrap_or_default();
    if delay_ms > LONGEST_DELAY_MS {
        return Err(BadOrder("delay_ms must be at most 600000".to_owned()));
    }
    let status = StatusCode::from_u16(order.status.unwrap_or(200));
    let status = status
        .ok()
        .filter(|status| status.as_u16() >= 200)
        .ok_or_else(|| BadOrder("status must be from 200 to 999".to_owned()))?;
    let body = match (order.errcode, order.body) {
        (Some(_), Some(_)) => {
            return Err(BadOrder("errcode and body exclude each other".to_owned()));
        }
        (Some(errcode), None) => Some(Body::Errcode(errcode)),
        (None, Some(Value::String(text))) => Some(Body::Text(text.into())),
        (None, Some(json)) => Some(Body::Text(json.to_string().into())),
        (None, None) => order.status.map(|_| Body::Text(Bytes::new())),
    };
    if body.is_none() && order.delay_ms.is_none() && order.times > 0 {
        return Err(BadOrder("name at least one of errcode, delay_ms, status, body".to_owned()));
    }
    let instead = body.map(|body| Instead { status, body });
    let how = How { delay: Duration::from_millis(delay_ms), instead };
    Ok((api, Fault { left: order.times, how }))
}

/// Answers as ordered. A call that is only delayed takes effect first: that is what makes a
/// slow answer dangerous for a code that works once.
pub(super) async fn inject(
    State(world): State<Arc<World>>,
    request: Request,
    next: Next,
) -> Response {
    let api = api_of(request.uri().path());
    let Some(how) = world.faults.next(api) else {
        return next.run(request).await;
    };
    let answer = match how.instead {
        None => next.run(request).await,
        Some(Instead { status, body }) => {
            let body = match body {
                Body::Errcode(errcode) => refusal(errcode, errmsg(errcode)).to_string().into(),
                Body::Text(text) => text,
            };
            (status, [(CONTENT_TYPE, "text/plain")], body).into_response()
        }
    };
    tokio::time::sleep(how.delay).await;
    answer
}
