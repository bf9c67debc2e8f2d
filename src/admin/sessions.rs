//! `/api/v1/sessions` and `/api/v1/users/{openid}/sessions`: who is logged in, and out with them.
//! A session_key is never shown.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::{Admin, answer};
use crate::identity::{AppId, OpenId};
use crate::session::{Filter, Listed, SessionError, StoreError};

/// Sessions of a page, where nobody says how many.
const PER_PAGE: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    openid: Option<String>,
    appid: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Page<'a> {
    sessions: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<&'a str>,
}

#[derive(Serialize)]
struct Shown<'a> {
    sid: &'a str,
    openid: &'a str,
    appid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    /// Separated by spaces, as `GET session` has it.
    scope: String,
    created_at: String,
    expires_at: String,
}

impl<'a> From<&'a Listed> for Shown<'a> {
    fn from(session: &'a Listed) -> Self {
        Self {
            sid: &session.sid,
            openid: session.openid.as_str(),
            appid: session.appid.as_str(),
            unionid: session.unionid.as_ref().map(|unionid| unionid.as_str()),
            scope: session.scope.join(" "),
            created_at: rfc3339(session.created_at),
            expires_at: rfc3339(session.expires_at),
        }
    }
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let Ok(Query(wanted)) = wanted else {
        return bad("the query takes openid, appid, limit (a number) and cursor, each once");
    };
    let openid = wanted.openid.as_deref().map(OpenId::parse).transpose();
    let appid = wanted.appid.as_deref().map(AppId::parse).transpose();
    let (Ok(openid), Ok(appid)) = (openid, appid) else {
        return bad("openid and appid are 6 to 64 letters, digits, `_` or `-`");
    };
    let limit = wanted.limit.unwrap_or(PER_PAGE);
    let filter = Filter { openid, appid, limit, cursor: wanted.cursor };
    match admin.sessions.list(filter).await {
        Ok(found) => {
            let sessions = found.sessions.iter().map(Shown::from).collect();
            let next_cursor = found.next_cursor.as_deref();
            answer::json(StatusCode::OK, Page { sessions, next_cursor })
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(sid): Path<String>) -> Response {
    match admin.sessions.get(&sid).await {
        Ok(Some(session)) => answer::json(StatusCode::OK, Shown::from(&session)),
        Ok(None) => unknown(),
        Err(error) => failed(&error),
    }
}

pub(super) async fn kick(State(admin): State<Arc<Admin>>, Path(sid): Path<String>) -> Response {
    match admin.sessions.kick(&sid).await {
        Ok(true) => done(),
        Ok(false) => unknown(),
        Err(error) => failed(&error),
    }
}

/// A user without a session is as it should be after this, so that it is no error.
pub(super) async fn kick_user(
    State(admin): State<Arc<Admin>>,
    Path(openid): Path<String>,
) -> Response {
    let Ok(openid) = OpenId::parse(&openid) else {
        return bad("an openid is 6 to 64 letters, digits, `_` or `-`");
    };
    match admin.sessions.kick_user(&openid).await {
        Ok(_) => done(),
        Err(error) => failed(&error),
    }
}

pub(super) fn done() -> Response {
    answer::no_store(StatusCode::NO_CONTENT.into_response())
}

fn bad(description: &str) -> Response {
    answer::refusal(StatusCode::BAD_REQUEST, "invalid_request", description)
}

pub(super) fn unknown() -> Response {
    answer::refusal(StatusCode::NOT_FOUND, "not_found", "there is no open session of this id")
}

pub(super) fn failed(error: &SessionError) -> Response {
    match error {
        SessionError::Store(StoreError::Cursor) => bad("the cursor is none that a list gave"),
        SessionError::Token(_)
        | SessionError::Key(_)
        | SessionError::App(_)
        | SessionError::Random(_)
        | SessionError::Signing
        | SessionError::Store(_) => {
            log::warn!("an operator's request about sessions failed: {error}");
            let description = "the session store does not answer; the log says why";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            answer::refusal(status, "temporarily_unavailable", description)
        }
    }
}

fn rfc3339(unix: u64) -> String {
    let timestamp =
        i64::try_from(unix).ok().and_then(|unix| jiff::Timestamp::from_second(unix).ok());
    timestamp.unwrap_or(jiff::Timestamp::MAX).to_string()
}
