//! `POST refresh`: a good token for a later one of the same session.

use super::{Answer, Endpoints, Request, auth, log_session_error};
use crate::session::Verified;

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    let refresh = async |caller: &Verified| {
        // The token is good; the session behind it may be over nevertheless.
        let issued = endpoints.sessions.refresh(caller).await.inspect_err(log_session_error)?;
        let answer = auth::issued_answer(endpoints, &issued);
        Ok(request.browser.keep(answer, issued.token(), issued.expires_in))
    };
    endpoints.for_caller(&request, refresh).await
}
