//! `POST {prefix}/logout`: end this session, or every session of its user.

use serde::Deserialize;

use super::answer::{Answer, Refusal};
use super::{Endpoints, Request, parameters};

/// What the client may send.
#[derive(Default, Deserialize)]
struct Parameters {
    #[serde(default)]
    all: bool,
}

impl Endpoints {
    pub(super) async fn logout(&self, request: &Request<'_>) -> Result<Answer, Refusal> {
        let caller = self.caller(request)?;
        let parameters = if request.body.trim_ascii().is_empty() {
            Parameters::default()
        } else {
            parameters::from_json(request.body)?
        };
        if parameters.all {
            self.sessions.end_all(&caller).await;
        } else {
            self.sessions.end(&caller).await;
        }
        Ok(Answer::no_content())
    }
}
