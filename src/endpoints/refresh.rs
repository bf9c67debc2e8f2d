//! `POST {prefix}/refresh`: a new token of the same session.

use super::answer::{Answer, Refusal};
use super::{Endpoints, Request};

impl Endpoints {
    pub(super) async fn refresh(&self, request: &Request<'_>) -> Result<Answer, Refusal> {
        let caller = self.caller(request)?;
        let issued = self.sessions.refresh(&caller).await?;
        Ok(self.token_answer(&issued))
    }
}
