//! `POST refresh`: a good token for a later one of the same session.

use super::refusal::Refusal;
use super::{Answer, Endpoints, Request, auth, log_session_error};
use crate::observe::AuthResult;

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let caller = match endpoints.caller(&request) {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    let openid = Some(caller.identity.openid.clone());
    let answer = match endpoints.sessions.refresh(&caller).await {
        Ok(issued) => {
            let answer = auth::issued_answer(endpoints, &issued);
            request.browser.keep(answer, issued.token(), issued.expires_in)
        }
        Err(error) => {
            log_session_error(&error);
            // The token was good; the session behind it may be over nevertheless.
            Refusal::from(error).into_answer(request.request_id)
        }
    };
    answer.for_caller(AuthResult::Ok, openid)
}
