//! The gateway's own answers, before any lane writes them: JSON that no cache may keep.

use serde::Serialize;

use crate::identity::OpenId;
use crate::observe::AuthResult;

/// One answer. Whoever writes it adds `Content-Length` and leaves the body out for `HEAD`.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names and values in the order in which they are sent.
    pub headers: Vec<(&'static str, String)>,
    /// Headers that tell who is calling, by their configured names.
    pub told: Vec<(String, String)>,
    /// The body; empty for 204 and redirects.
    pub body: Vec<u8>,
    /// Whether the connection must be closed after it.
    pub closes: bool,
    /// What became of the authentication, for metrics and the access log; `None` where the
    /// request did not come that far.
    pub auth: Option<AuthResult>,
    /// Who is logged in, or was until this answer. For the access log, hashed.
    pub openid: Option<OpenId>,
}

impl Answer {
    /// A body of JSON with status 200.
    pub(super) fn json(body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self::new(200, body),
            Err(error) => {
                // Only maps with keys that are no text fail, and no body has one.
                log::error!("an answer could not be written as JSON: {error}");
                Self::new(500, Vec::new())
            }
        }
    }

    /// A body that is JSON already, with status 200.
    pub(super) fn with_json(body: Vec<u8>) -> Self {
        Self::new(200, body)
    }

    /// 204: done, and nothing to say.
    pub(super) fn no_content() -> Self {
        Self::new(204, Vec::new())
    }

    /// 204 to a preflight, with what a browser is told.
    pub fn preflight(lines: Vec<(&'static str, String)>) -> Self {
        let mut answer = Self::no_content();
        answer.headers.extend(lines);
        answer
    }

    /// 200 for a proxy that asked whether a request may pass, with what is told of its caller.
    pub fn vouch(told: Vec<(String, String)>) -> Self {
        Self { told, ..Self::new(200, Vec::new()) }
    }

    /// A redirect, 301 to 308, to a location that the caller has made safe.
    pub fn redirect(status: u16, location: String) -> Self {
        let mut answer = Self::new(status, Vec::new());
        answer.headers.push(("Location", location));
        answer
    }

    /// The same with a further header.
    pub(super) fn saying(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with what the operator is told of the caller; a refusal's own word on the
    /// authentication stays.
    pub(super) fn for_caller(self, auth: AuthResult, openid: Option<OpenId>) -> Self {
        Self { auth: self.auth.or(Some(auth)), openid, ..self }
    }

    fn new(status: u16, body: Vec<u8>) -> Self {
        let mut headers = Vec::with_capacity(3);
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json; charset=utf-8".to_owned()));
        }
        headers.push(("Cache-Control", "no-store".to_owned()));
        Self { status, headers, told: Vec::new(), body, closes: false, auth: None, openid: None }
    }
}
