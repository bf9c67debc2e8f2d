//! `GET /api/v1/access_token?appid=`: WeChat's access_token of an app, for backends that call WeChat
//! themselves. The gateway is the one that fetches it, so that nobody voids anybody's token.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::{Admin, answer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    appid: Option<String>,
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let bad = |what| answer::refusal(StatusCode::BAD_REQUEST, "invalid_request", what);
    let Ok(Query(wanted)) = wanted else {
        return bad("the query is not ?appid=");
    };
    let view = admin.view.load_full();
    let appid = match (&wanted.appid, view.config.apps.as_slice()) {
        (Some(appid), _) => appid,
        (None, [app]) => &app.appid,
        (None, _) => return bad("the parameter `appid` is missing"),
    };
    match view.wechat.access_token(appid).await {
        Ok(token) => answer::json(
            StatusCode::OK,
            json!({
                "access_token": token.token.expose(),
                "expires_in": token.expires_in.as_secs(),
            }),
        ),
        Err(error) => answer::wechat_refusal(&error),
    }
}
