//! `POST logout`: the end of this session, or of every session of this user.

use serde::Deserialize;

use super::refusal::{InputError, Refusal};
use super::{Answer, Endpoints, Request, body, log_session_error};
use crate::session::Verified;

/// Which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    This,
    All,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let end = async |caller: &Verified| {
        end(endpoints, caller, request.body).await?;
        Ok(request.browser.forget(Answer::no_content()))
    };
    endpoints.for_caller(&request, end).await
}

async fn end(endpoints: &Endpoints, caller: &Verified, body: &[u8]) -> Result<(), Refusal> {
    let ended = match read(body)? {
        Which::This => endpoints.sessions.end(caller).await,
        Which::All => endpoints.sessions.end_all(caller).await,
    };
    Ok(ended.inspect_err(log_session_error)?)
}

/// An empty body ends this session. What cannot be read ends none: whoever wanted all of them to
/// end must not take a 204 for it.
fn read(body: &[u8]) -> Result<Which, InputError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        all: bool,
    }
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(Which::This);
    }
    match body::object(body)? {
        Body { all: true } => Ok(Which::All),
        Body { all: false } => Ok(Which::This),
    }
}
