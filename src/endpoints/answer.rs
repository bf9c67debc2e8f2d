//! What the gateway itself says to a client: the answer, and every refusal of it.
//!
//! A refusal is made where something goes wrong and becomes bytes in one place, so that a client
//! meets one shape of error whatever refused it, and nothing of the inside is told.

use std::time::Duration;

use serde::Serialize;

/// An answer of the gateway's own, not yet on a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Without Content-Length, Date and Connection, which belong to the wire.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Whether the connection has to be closed after it, because where the next request begins
    /// is not known.
    pub closes: bool,
}

impl Answer {
    /// A body in JSON.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        // Only our own structures come here: texts and numbers, which JSON can always hold.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self {
            status,
            headers: vec![
                ("Content-Type", "application/json; charset=utf-8".to_owned()),
                ("Cache-Control", "no-store".to_owned()),
            ],
            body,
            closes: false,
        }
    }

    /// 204: done, and nothing to say.
    pub fn no_content() -> Self {
        let headers = vec![("Cache-Control", "no-store".to_owned())];
        Self { status: 204, headers, body: Vec::new(), closes: false }
    }

    /// A redirect to `location`.
    pub fn redirect(status: u16, location: String) -> Self {
        let headers = vec![("Location", location), ("Cache-Control", "no-store".to_owned())];
        Self { status, headers, body: Vec::new(), closes: false }
    }
}

/// The errors that a client can meet: `error` of the body, and its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong.
    InvalidRequest,
    /// WeChat refuses the code.
    InvalidGrant,
    /// This user may not.
    AccessDenied,
    /// The session lacks a scope.
    InsufficientScope,
    /// No token.
    Unauthorized,
    /// A token that is not good.
    InvalidToken,
    /// session_key is gone or does not fit.
    SessionKeyInvalid,
    /// Too many requests.
    SlowDown,
    /// WeChat or the store cannot be asked now.
    TemporarilyUnavailable,
    /// WeChat answers what cannot be used.
    WechatUnusable,
    /// The gateway is set up wrongly, or has a fault.
    ServerError,
    /// No server of the upstream is up.
    UpstreamUnavailable,
    /// The upstream refused the connection or broke it off.
    BadGateway,
    /// The upstream did not answer in time.
    GatewayTimeout,
    /// Nothing is there.
    NotFound,
    /// Not with this method.
    MethodNotAllowed,
    /// The request did not come in time.
    RequestTimeout,
    /// The body is too large.
    ContentTooLarge,
    /// The request line is too long.
    UriTooLong,
    /// The head is too large.
    HeaderFieldsTooLarge,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 20] = [
        Self::InvalidRequest,
        Self::InvalidGrant,
        Self::AccessDenied,
        Self::InsufficientScope,
        Self::Unauthorized,
        Self::InvalidToken,
        Self::SessionKeyInvalid,
        Self::SlowDown,
        Self::TemporarilyUnavailable,
        Self::WechatUnusable,
        Self::ServerError,
        Self::UpstreamUnavailable,
        Self::BadGateway,
        Self::GatewayTimeout,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::ContentTooLarge,
        Self::UriTooLong,
        Self::HeaderFieldsTooLarge,
    ];

    /// The status and the `error` of the body: what clients bind to.
    pub const fn public(self) -> (u16, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid_request"),
            Self::InvalidGrant => (400, "invalid_grant"),
            Self::AccessDenied => (403, "access_denied"),
            Self::InsufficientScope => (403, "insufficient_scope"),
            Self::Unauthorized => (401, "unauthorized"),
            Self::InvalidToken => (401, "invalid_token"),
            Self::SessionKeyInvalid => (409, "session_key_invalid"),
            Self::SlowDown => (429, "slow_down"),
            Self::TemporarilyUnavailable => (503, "temporarily_unavailable"),
            Self::WechatUnusable => (502, "server_error"),
            Self::ServerError => (500, "server_error"),
            Self::UpstreamUnavailable => (503, "upstream_unavailable"),
            Self::BadGateway => (502, "bad_gateway"),
            Self::GatewayTimeout => (504, "gateway_timeout"),
            Self::NotFound => (404, "not_found"),
            Self::MethodNotAllowed => (405, "method_not_allowed"),
            Self::RequestTimeout => (408, "request_timeout"),
            Self::ContentTooLarge => (413, "content_too_large"),
            Self::UriTooLong => (414, "uri_too_long"),
            Self::HeaderFieldsTooLarge => (431, "header_fields_too_large"),
        }
    }

    /// What it means to whoever reads the documentation.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is malformed, ambiguous or lacks something.",
            Self::InvalidGrant => "WeChat refused the code; call wx.login for a new one.",
            Self::AccessDenied => "This user may not.",
            Self::InsufficientScope => "The session lacks a scope that the route asks for.",
            Self::Unauthorized => "There is no token; log in.",
            Self::InvalidToken => "The token is expired, revoked or invalid; log in again.",
            Self::SessionKeyInvalid => "session_key does not fit any more; log in and try again.",
            Self::SlowDown => "Too many requests; come back after Retry-After.",
            Self::TemporarilyUnavailable => "WeChat or the session store cannot be asked now.",
            Self::WechatUnusable => "WeChat's answer could not be used.",
            Self::ServerError => "The gateway is set up wrongly or has a fault; see its log.",
            Self::UpstreamUnavailable => "No server of the upstream is up.",
            Self::BadGateway => "The upstream refused the connection or broke it off.",
            Self::GatewayTimeout => "The upstream did not answer in time.",
            Self::NotFound => "No route and no endpoint is for this host and path.",
            Self::MethodNotAllowed => "Not with this method; Allow names those that go.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::ContentTooLarge => "The body is larger than the route or endpoint takes.",
            Self::UriTooLong => "The request line is over 8 KiB.",
            Self::HeaderFieldsTooLarge => "The header section is larger than allowed.",
        }
    }
}

/// Why a client does not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    kind: Kind,
    description: String,
    errcode: Option<i64>,
    retry_after: Option<Duration>,
    allow: Option<String>,
    scope: Option<String>,
    closes: bool,
}

/// The body of every error; there are no other fields.
#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<i64>,
    request_id: &'a str,
}

impl Refusal {
    /// A refusal of this kind. `description` is read by people, and holds nothing of the inside.
    pub fn new(kind: Kind, description: impl Into<String>) -> Self {
        Self {
            kind,
            description: description.into(),
            errcode: None,
            retry_after: None,
            allow: None,
            scope: None,
            closes: false,
        }
    }

    /// Passes WeChat's own number on.
    #[must_use]
    pub fn with_errcode(mut self, errcode: i64) -> Self {
        self.errcode = Some(errcode);
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// A request that is malformed or can be read in two ways: the connection is closed, since
    /// nobody knows where the next one begins.
    pub fn malformed(what: &str) -> Self {
        let mut refusal = Self::new(Kind::InvalidRequest, format!("the request has {what}"));
        refusal.closes = true;
        refusal
    }

    /// A path that no rule may be asked about.
    pub fn invalid_path(why: String) -> Self {
        Self::new(Kind::InvalidRequest, why)
    }

    /// A request that is well formed and yet does not say one thing.
    pub fn ambiguous(why: String) -> Self {
        Self::new(Kind::InvalidRequest, why)
    }

    /// 404
    pub fn not_found() -> Self {
        Self::new(Kind::NotFound, "nothing is here")
    }

    /// 405; `allow` is the value of `Allow`.
    pub fn method_not_allowed(allow: &str) -> Self {
        let mut refusal = Self::new(Kind::MethodNotAllowed, "not with this method");
        refusal.allow = Some(allow.to_owned());
        refusal
    }

    /// 408, and the connection is closed.
    pub fn request_timeout() -> Self {
        let mut refusal = Self::new(Kind::RequestTimeout, "the request took too long to arrive");
        refusal.closes = true;
        refusal
    }

    /// 413
    pub fn content_too_large() -> Self {
        Self::new(Kind::ContentTooLarge, "the body is too large")
    }

    /// 414, and the connection is closed.
    pub fn uri_too_long() -> Self {
        let mut refusal = Self::new(Kind::UriTooLong, "the request line is too long");
        refusal.closes = true;
        refusal
    }

    /// 431, and the connection is closed.
    pub fn header_fields_too_large() -> Self {
        let mut refusal = Self::new(Kind::HeaderFieldsTooLarge, "the header section is too large");
        refusal.closes = true;
        refusal
    }

    /// 401 without a token.
    pub fn unauthorized() -> Self {
        Self::new(Kind::Unauthorized, "this needs a session token")
    }

    /// 403
    pub fn access_denied() -> Self {
        Self::new(Kind::AccessDenied, "this user may not do this")
    }

    /// 403 for want of `scope`.
    pub fn insufficient_scope(scope: &str) -> Self {
        let what = format!("this needs the scope `{scope}`");
        let mut refusal = Self::new(Kind::InsufficientScope, what);
        refusal.scope = Some(scope.to_owned());
        refusal
    }

    /// 429; `wait` is rounded up to whole seconds.
    pub fn slow_down(wait: Duration) -> Self {
        Self::new(Kind::SlowDown, "too many requests").with_retry_after(wait)
    }

    /// 500 for a fault of the gateway's own.
    pub fn internal() -> Self {
        Self::new(Kind::ServerError, "the gateway could not serve this request")
    }

    /// 502
    pub fn bad_gateway() -> Self {
        Self::new(Kind::BadGateway, "the backend could not be reached or broke off")
    }

    /// 503 for want of a server.
    pub fn upstream_unavailable() -> Self {
        Self::new(Kind::UpstreamUnavailable, "no backend server is available")
    }

    /// 504
    pub fn gateway_timeout() -> Self {
        Self::new(Kind::GatewayTimeout, "the backend did not answer in time")
    }

    /// Which error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes of it.
    pub fn into_answer(self, request_id: &str) -> Answer {
        let (status, error) = self.kind.public();
        let body =
            Body { error, error_description: &self.description, errcode: self.errcode, request_id };
        let mut answer = Answer::json(status, &body);
        answer.closes = self.closes;
        if let Some(challenge) = self.challenge() {
            answer.headers.push(("WWW-Authenticate", challenge));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            answer.headers.push(("Retry-After", seconds.max(1).to_string()));
        }
        if let Some(allow) = self.allow {
            answer.headers.push(("Allow", allow));
        }
        answer
    }

    /// RFC 6750 section 3.
    fn challenge(&self) -> Option<String> {
        const REALM: &str = "Bearer realm=\"wxgate\"";
        if self.kind == Kind::Unauthorized {
            return Some(REALM.to_owned());
        }
        if self.kind == Kind::InvalidToken {
            return Some(format!("{REALM}, error=\"invalid_token\""));
        }
        let scope = self.scope.as_deref()?;
        Some(format!("{REALM}, error=\"insufficient_scope\", scope=\"{scope}\""))
    }
}
