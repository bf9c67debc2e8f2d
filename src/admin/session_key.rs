//! `POST /api/v1/sessions/{sid}/session_key/reset`: a new session_key for a session whose old one may
//! have got out. WeChat voids the old one; the new one is sealed at once and shown to nobody.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::sessions::{done, failed, unknown};
use super::{Admin, answer};

pub(super) async fn reset(State(admin): State<Arc<Admin>>, Path(sid): Path<String>) -> Response {
    let session = match admin.sessions.keyed(&sid).await {
        Ok(Some(session)) => session,
        Ok(None) => return unknown(),
        Err(error) => return failed(&error),
    };
    let Some(old) = session.session_key else {
        let description = "this session has no session_key; it has one after the next wx.login";
        return answer::refusal(StatusCode::CONFLICT, "session_key_invalid", description);
    };
    let wechat = admin.view.load().wechat.clone();
    let (appid, openid) = (session.appid.as_str(), session.openid.as_str());
    let new = match wechat.reset_session_key(appid, openid, &old).await {
        Ok(new) => new,
        Err(error) => return answer::wechat_refusal(&error),
    };
    match admin.sessions.keep_session_key(&sid, &new).await {
        Ok(true) => done(),
        Ok(false) => unknown(),
        Err(error) => failed(&error),
    }
}
