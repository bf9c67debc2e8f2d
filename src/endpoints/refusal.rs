//! Every error that a client can get: status, code, description and headers, in one map.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::answer::Answer;
use crate::observe::AuthResult;
use crate::route::path::PathError;
use crate::session::{SessionError, TokenError};
use crate::wechat::{DecryptError, WechatError};

/// Why a request is not served, as the client is told. The answer's body is fixed text: nothing
/// of the request, and nothing that is secret or inside, gets into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Bytes that are no well-formed HTTP, or could be read in two ways; says which. What follows
    /// them on the connection has no known beginning.
    Malformed(&'static str),
    /// The path cannot be brought into its one form.
    Path(PathError),
    /// Two `Authorization` headers: nobody knows which one counts.
    TwoCredentials,
    /// What was sent to one of the gateway's own endpoints is not what it takes.
    Input(InputError),
    /// WeChat refused, or could not be asked.
    Wechat(WechatError),
    /// What WeChat encrypted cannot be opened.
    Decrypt(DecryptError),
    /// The signature is not WeChat's over this rawData and session_key.
    SignatureWrong,
    /// The session_key was sealed under a signing key that is no longer listed.
    SessionKeyLost,
    /// The user did not consent on WeChat's login page.
    Declined,
    /// A page of another site made a browser send the request.
    ForeignOrigin,
    /// No token where one is needed.
    Unauthorized,
    /// A token that is malformed, forged, or of another key.
    TokenInvalid,
    /// A token past its time.
    TokenExpired,
    /// A token of a session that was ended.
    TokenRevoked,
    /// The route's policy forbids.
    AccessDenied,
    /// The session lacks this scope, which the route asks for.
    InsufficientScope(String),
    /// No route, or no such endpoint.
    NotFound,
    /// There is a route, but not for this method.
    MethodNotAllowed {
        /// The methods that there are, as `Allow` lists them.
        allow: String,
    },
    /// The head or the body of the request did not come in time.
    RequestTimeout,
    /// The request's body is larger than the route or endpoint takes.
    ContentTooLarge,
    /// The request line is longer than 8 KiB.
    UriTooLong,
    /// More or longer headers than `server.max_header_bytes`.
    HeaderFieldsTooLarge,
    /// A rate limit of the gateway's own.
    SlowDown {
        /// When there is room again.
        retry_after: Duration,
    },
    /// The gateway cannot go on by a fault of its own; the cause is in its log.
    Internal,
    /// The upstream's server could not be connected to, or broke off.
    BadGateway,
    /// Whether the session is still open cannot be known now.
    StoreUnavailable,
    /// No server of the upstream is up.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    GatewayTimeout,
}

/// What is wrong with what was sent to one of the gateway's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The body is no JSON object of the fields that the endpoint takes.
    #[error("the body is not a JSON object of the documented fields, each at most once")]
    NotJson,
    /// A form field that counts stands there twice.
    #[error("a form field stands there more than once")]
    RepeatedField,
    /// Neither JSON nor a form.
    #[error("the Content-Type is neither application/json nor application/x-www-form-urlencoded")]
    ContentType,
    /// No `code` field.
    #[error("the field `code` is missing")]
    NoCode,
    /// The code is none; WeChat was not asked.
    #[error("the code is not 1 to 128 letters, digits, `_` or `-`")]
    BadCode,
    /// Several apps are configured, and the request names none.
    #[error("the field `appid` is missing")]
    NoApp,
    /// The appid is not configured.
    #[error("the appid is not configured here")]
    UnknownApp,
    /// A parameter of the query stands there twice.
    #[error("a parameter of the query stands there more than once")]
    RepeatedParameter,
    /// Where to go after the login is not on this site.
    #[error(
        "return_to is not a path of this site: one `/`, then no `//`, `\\` or control character"
    )]
    ForeignReturn,
    /// The login did not begin in this browser.
    #[error("this login did not begin in this browser, or not lately; begin it again")]
    ForeignState,
    /// The login was completed before, with another code.
    #[error("this login is complete already; begin another one")]
    UsedState,
    /// No `encryptedData` or no `iv`.
    #[error("the fields `encryptedData` and `iv` must both be there")]
    NoEncryptedData,
    /// One of `rawData` and `signature` without the other.
    #[error("the fields `rawData` and `signature` come together or not at all")]
    HalfSigned,
}

/// What a refusal is on the wire, and what the operator is told of it.
struct Row {
    status: u16,
    error: &'static str,
    description: Cow<'static, str>,
    errcode: Option<i64>,
    header: Option<(&'static str, String)>,
    auth: Option<AuthResult>,
    closes: bool,
}

impl Refusal {
    /// The status that the client gets.
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// What became of the authentication, where that is why the request is refused.
    pub fn auth(&self) -> Option<AuthResult> {
        self.row().auth
    }

    /// The answer, with the request's id in it.
    pub fn into_answer(self, request_id: &str) -> Answer {
        let row = self.row();
        let mut answer = Answer::json(&Body {
            error: row.error,
            error_description: &row.description,
            errcode: row.errcode,
            request_id,
        });
        answer.status = row.status;
        answer.headers.extend(row.header);
        answer.closes = row.closes;
        answer.auth = row.auth;
        answer
    }

    /// The whole table of errors.
    fn row(&self) -> Row {
        const FORBIDDEN: AuthResult = AuthResult::Forbidden;
        match self {
            Self::Malformed(what) => {
                invalid_request(format!("malformed or ambiguous: {what}")).closing()
            }
            Self::Path(error) => invalid_request(error.to_string()),
            Self::TwoCredentials => invalid_request("there is more than one Authorization header"),
            Self::Input(error) => invalid_request(error.to_string()),
            Self::Wechat(error) => of_wechat(error),
            Self::Decrypt(error) => of_decryption(*error),
            Self::SignatureWrong => stale_session_key("the signature is wrong"),
            Self::SessionKeyLost => stale_session_key("the session_key is gone"),
            Self::Declined => row(403, "access_denied", "the user did not consent"),
            Self::ForeignOrigin => {
                row(403, "access_denied", "the request comes from a page of another site")
                    .because(FORBIDDEN)
            }
            Self::Unauthorized => row(401, "unauthorized", "a token is needed")
                .challenging(r#"Bearer realm="wxgate""#.to_owned())
                .because(AuthResult::Missing),
            Self::TokenInvalid => bad_token("the token is invalid", AuthResult::Invalid),
            Self::TokenExpired => bad_token("the token has expired", AuthResult::Expired),
            Self::TokenRevoked => bad_token("the token was revoked", AuthResult::Revoked),
            Self::AccessDenied => {
                row(403, "access_denied", "this caller is not let through here").because(FORBIDDEN)
            }
            Self::InsufficientScope(scope) => {
                row(403, "insufficient_scope", "the session lacks a scope that is needed here")
                    .challenging(challenge_for(scope))
                    .because(FORBIDDEN)
            }
            Self::NotFound => row(404, "not_found", "there is nothing at this path"),
            Self::MethodNotAllowed { allow } => {
                row(405, "method_not_allowed", "the method is not allowed here; see Allow")
                    .saying("Allow", allow.clone())
            }
            Self::RequestTimeout => {
                row(408, "request_timeout", "the request did not come in time").closing()
            }
            Self::ContentTooLarge => row(413, "content_too_large", "the body is too large"),
            Self::UriTooLong => row(414, "uri_too_long", "the request line is too long").closing(),
            Self::SlowDown { retry_after } => {
                row(429, "slow_down", "too many requests; wait for Retry-After").until(*retry_after)
            }
            Self::HeaderFieldsTooLarge => {
                row(431, "header_fields_too_large", "the headers are too many or too long")
                    .closing()
            }
            Self::Internal => row(500, "server_error", "the gateway failed; its log says why"),
            Self::BadGateway => row(502, "bad_gateway", "the upstream failed"),
            Self::StoreUnavailable => {
                row(503, "temporarily_unavailable", "the sessions cannot be read; try again later")
                    .until(Duration::from_secs(1))
            }
            Self::UpstreamUnavailable => {
                row(503, "upstream_unavailable", "no server of the upstream is up")
            }
            Self::GatewayTimeout => {
                row(504, "gateway_timeout", "the upstream did not answer in time")
            }
        }
    }
}

/// What WeChat's refusals and failures are to the client; WeChat's own number is passed on.
fn of_wechat(error: &WechatError) -> Row {
    const STALE: &str = "WeChat no longer takes the session_key; call wx.login, then try again";
    const UNKNOWN: &str = "WeChat's answer has no meaning here";
    let row = match error {
        WechatError::InvalidCode => invalid_request(InputError::BadCode.to_string()),
        WechatError::UnknownApp => invalid_request(InputError::UnknownApp.to_string()),
        WechatError::CodeRefused { .. } => {
            row(400, "invalid_grant", "WeChat refused the code; call wx.login again")
        }
        WechatError::UserRefused { .. } => {
            row(403, "access_denied", "WeChat does not let this user log in")
        }
        WechatError::SnapshotUser => {
            row(403, "access_denied", "a virtual user of a snapshot page cannot log in")
        }
        WechatError::Watermark(error) => invalid_request(error.to_string()),
        WechatError::SessionKeyInvalid { .. } => row(409, "session_key_invalid", STALE),
        WechatError::RateLimited { .. } => {
            row(429, "slow_down", "WeChat limits the rate; wait for Retry-After")
        }
        WechatError::Misconfigured { .. } => {
            row(500, "server_error", "WeChat refuses this app; its operator must act")
        }
        WechatError::QuotaExhausted { .. } => {
            row(500, "server_error", "this app's quota at WeChat is used up; its operator must act")
        }
        WechatError::Setup(_) => Refusal::Internal.row(),
        WechatError::Malformed(_) | WechatError::Unexpected { .. } => {
            row(502, "server_error", UNKNOWN)
        }
        WechatError::Busy { .. } | WechatError::Unavailable { .. } => {
            row(503, "temporarily_unavailable", "WeChat gives no answer; try again later")
        }
    };
    let row = Row { errcode: error.errcode(), ..row };
    match error.retry_after() {
        Some(wait) => row.until(wait),
        None => row,
    }
}

/// What does not fit the key looks as it would with a key that a later login replaced.
fn of_decryption(error: DecryptError) -> Row {
    match error {
        DecryptError::Base64
        | DecryptError::IvLength
        | DecryptError::DataLength
        | DecryptError::Watermark(_) => invalid_request(error.to_string()),
        DecryptError::KeyLength | DecryptError::Padding | DecryptError::Json => {
            stale_session_key(error)
        }
    }
}

fn stale_session_key(what: impl fmt::Display) -> Row {
    row(409, "session_key_invalid", format!("{what}; call wx.login, then try again"))
}

fn row(status: u16, error: &'static str, description: impl Into<Cow<'static, str>>) -> Row {
    Row {
        status,
        error,
        description: description.into(),
        errcode: None,
        header: None,
        auth: None,
        closes: false,
    }
}

fn invalid_request(description: impl Into<Cow<'static, str>>) -> Row {
    row(400, "invalid_request", description)
}

fn bad_token(description: &'static str, auth: AuthResult) -> Row {
    row(401, "invalid_token", description)
        .challenging(r#"Bearer realm="wxgate", error="invalid_token""#.to_owned())
        .because(auth)
}

impl Row {
    fn saying(self, name: &'static str, value: String) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    fn challenging(self, value: String) -> Self {
        self.saying("WWW-Authenticate", value)
    }

    fn until(self, wait: Duration) -> Self {
        self.saying("Retry-After", whole_seconds(wait).to_string())
    }

    fn because(self, auth: AuthResult) -> Self {
        Self { auth: Some(auth), ..self }
    }

    /// The connection cannot be used any more: nobody knows where the next request on it begins.
    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// RFC 6750 section 3.
fn challenge_for(scope: &str) -> String {
    let scope = scope.replace(|letter| !is_scope_letter(letter), "");
    format!(r#"Bearer realm="wxgate", error="insufficient_scope", scope="{scope}""#)
}

/// What may stand in `scope`, RFC 6749 section 3.3.
const fn is_scope_letter(letter: char) -> bool {
    matches!(letter, '!' | '#'..='[' | ']'..='~')
}

/// Rounded up, so that nobody comes back too early.
fn whole_seconds(wait: Duration) -> u64 {
    let started = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(started).max(1)
}

/// The body of a refusal: these four fields and no others.
#[derive(serde::Serialize)]
struct Body<'a> {
    error: &'a str,
    error_description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<i64>,
    request_id: &'a str,
}

impl From<InputError> for Refusal {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<DecryptError> for Refusal {
    fn from(error: DecryptError) -> Self {
        Self::Decrypt(error)
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Invalid => Self::TokenInvalid,
            TokenError::Expired => Self::TokenExpired,
            TokenError::Revoked => Self::TokenRevoked,
            TokenError::Unreadable => Self::StoreUnavailable,
        }
    }
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Token(error) => error.into(),
            SessionError::Store(_) => Self::StoreUnavailable,
            SessionError::Key(_)
            | SessionError::App(_)
            | SessionError::Random(_)
            | SessionError::Signing => Self::Internal,
        }
    }
}

impl From<WechatError> for Refusal {
    fn from(error: WechatError) -> Self {
        Self::Wechat(error)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::wechat::{Flaw, Outage, WatermarkError};

    const WAIT: Duration = Duration::from_millis(1500);

    /// One of each, in the order of the table.
    fn all() -> Vec<Refusal> {
        use InputError::{
            BadCode, ContentType, ForeignReturn, ForeignState, HalfSigned, NoApp, NoCode,
            NoEncryptedData, NotJson, RepeatedField, RepeatedParameter, UnknownApp, UsedState,
        };
        let inputs = [
            NotJson,
            RepeatedField,
            ContentType,
            NoCode,
            BadCode,
            NoApp,
            UnknownApp,
            NoEncryptedData,
            HalfSigned,
            RepeatedParameter,
            ForeignReturn,
            ForeignState,
            UsedState,
        ];
        let decryption = [
            DecryptError::Base64,
            DecryptError::IvLength,
            DecryptError::DataLength,
            DecryptError::Watermark(WatermarkError::Missing),
            DecryptError::Watermark(WatermarkError::Appid),
            DecryptError::KeyLength,
            DecryptError::Padding,
            DecryptError::Json,
        ];
        let mut all = vec![
            Refusal::Malformed("says what is malformed or ambiguous"),
            Refusal::Path(PathError::EncodedSlash),
            Refusal::TwoCredentials,
        ];
        all.extend(inputs.map(Refusal::Input));
        let wechat = [
            WechatError::InvalidCode,
            WechatError::UnknownApp,
            WechatError::CodeRefused { errcode: 40163 },
            WechatError::UserRefused { errcode: 50002 },
            WechatError::Watermark(WatermarkError::Appid),
            WechatError::SessionKeyInvalid { errcode: 87009 },
            WechatError::RateLimited { errcode: 45011, retry_after: WAIT },
            WechatError::Misconfigured { errcode: 40125 },
            WechatError::QuotaExhausted { errcode: 45009 },
            WechatError::Setup("no roots".to_owned()),
            WechatError::Malformed(Flaw::NotJson),
            WechatError::Unexpected { errcode: 48001 },
            WechatError::Busy { errcode: -1, retry_after: WAIT },
            WechatError::Unavailable { why: Outage::Timeout, retry_after: WAIT },
        ];
        all.extend(wechat.map(Refusal::Wechat));
        all.extend(decryption.map(Refusal::Decrypt));
        all.extend([Refusal::SignatureWrong, Refusal::SessionKeyLost]);
        all.extend([Refusal::Declined, Refusal::ForeignOrigin]);
        all.extend([
            Refusal::Unauthorized,
            Refusal::TokenInvalid,
            Refusal::TokenExpired,
            Refusal::TokenRevoked,
            Refusal::AccessDenied,
            Refusal::InsufficientScope("phone".to_owned()),
            Refusal::NotFound,
            Refusal::MethodNotAllowed { allow: "GET, HEAD".to_owned() },
            Refusal::RequestTimeout,
            Refusal::ContentTooLarge,
            Refusal::UriTooLong,
            Refusal::SlowDown { retry_after: WAIT },
            Refusal::HeaderFieldsTooLarge,
            Refusal::Internal,
            Refusal::BadGateway,
            Refusal::StoreUnavailable,
            Refusal::UpstreamUnavailable,
            Refusal::GatewayTimeout,
        ]);
        all.sort_by_key(Refusal::status);
        all
    }

    /// Numbers the variants, so that a new one is missed in `all`.
    const fn position(refusal: &Refusal) -> usize {
        match refusal {
            Refusal::Malformed(_) => 0,
            Refusal::Path(_) => 1,
            Refusal::TwoCredentials => 2,
            Refusal::Input(_) => 3,
            Refusal::Wechat(_) => 4,
            Refusal::Unauthorized => 5,
            Refusal::TokenInvalid => 6,
            Refusal::TokenExpired => 7,
            Refusal::TokenRevoked => 8,
            Refusal::AccessDenied => 9,
            Refusal::InsufficientScope(_) => 10,
            Refusal::NotFound => 11,
            Refusal::MethodNotAllowed { .. } => 12,
            Refusal::RequestTimeout => 13,
            Refusal::ContentTooLarge => 14,
            Refusal::UriTooLong => 15,
            Refusal::SlowDown { .. } => 16,
            Refusal::HeaderFieldsTooLarge => 17,
            Refusal::Internal => 18,
            Refusal::BadGateway => 19,
            Refusal::StoreUnavailable => 20,
            Refusal::UpstreamUnavailable => 21,
            Refusal::GatewayTimeout => 22,
            Refusal::Decrypt(_) => 23,
            Refusal::SignatureWrong => 24,
            Refusal::SessionKeyLost => 25,
            Refusal::Declined => 26,
            Refusal::ForeignOrigin => 27,
        }
    }

    fn body(answer: &Answer) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn text<'a>(body: &'a serde_json::Map<String, serde_json::Value>, field: &str) -> &'a str {
        body.get(field).unwrap().as_str().unwrap()
    }

    #[test]
    fn every_refusal_is_listed_and_answers_with_the_four_fields_alone() {
        let positions: std::collections::BTreeSet<usize> = all().iter().map(position).collect();
        assert_eq!(positions, (0..28).collect());
        for refusal in all() {
            let answer = refusal.clone().into_answer("r-1");
            let body = body(&answer);
            assert_eq!(answer.status, refusal.status());
            assert_eq!(text(&body, "request_id"), "r-1");
            assert!(!text(&body, "error_description").is_empty());
            let errcode = body.get("errcode").and_then(serde_json::Value::as_i64);
            assert_eq!(errcode, refusal.row().errcode);
            assert_eq!(body.len(), 3 + usize::from(errcode.is_some()), "{body:?}");
            assert_eq!(
                answer.headers.get(..2).unwrap(),
                [
                    ("Content-Type", "application/json; charset=utf-8".to_owned()),
                    ("Cache-Control", "no-store".to_owned())
                ]
            );
            assert_eq!(answer.headers.len(), 2 + usize::from(refusal.row().header.is_some()));
        }
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds_and_never_zero() {
        for (wait, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(wait)), seconds, "{wait} ms");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_scope_cannot_get_out_of_its_quotes() {
        let refusal = Refusal::InsufficientScope("a\"b\\c\r\nd\u{e9}e".to_owned());
        let (_, value) = refusal.row().header.unwrap();
        assert!(value.ends_with("scope=\"abcde\""), "{value}");
    }

    #[test]
    fn the_connection_ends_only_where_the_next_request_cannot_be_found() {
        let closing: Vec<u16> =
            all().iter().filter(|refusal| refusal.row().closes).map(Refusal::status).collect();
        assert_eq!(closing, [400, 408, 414, 431]);
    }

    #[test]
    fn every_wechat_error_has_its_row_number_and_wait() {
        let statuses = [400, 400, 400, 400, 403, 409, 429, 500, 500, 500, 502, 502, 503, 503];
        let of_wechat = all().into_iter().filter_map(|refusal| {
            if let Refusal::Wechat(error) = refusal { Some(error) } else { None }
        });
        assert_eq!(of_wechat.clone().count(), statuses.len());
        for (error, status) in of_wechat.zip(statuses) {
            let (errcode, wait) = (error.errcode(), error.retry_after());
            let answer = Refusal::from(error.clone()).into_answer("r-1");
            assert_eq!(answer.status, status, "{error}");
            let sent = body(&answer).get("errcode").map(|number| number.as_i64().unwrap());
            assert_eq!(sent, errcode, "{error}");
            let retry = answer.headers.iter().find(|(name, _)| *name == "Retry-After");
            assert_eq!(retry.map(|(_, value)| value.as_str()), wait.map(|_| "2"), "{error}");
        }
    }

    #[test]
    fn docs_errors_md_is_what_the_map_says() {
        let mut page = "# Errors\n\n\
            Every refusal of the gateway, on its own endpoints and on proxied routes, has this \
            body and no other field:\n\n\
            ```json\n\
            {\"error\": \"…\", \"error_description\": \"…\", \"errcode\": 40029, \"request_id\": \"…\"}\n\
            ```\n\n\
            `errcode` is WeChat's own number, in the rows marked for it, where WeChat sent one. All \
            of them carry `Cache-Control: no-store`.\n\n\
            | status | error | description | errcode | header |\n\
            | --- | --- | --- | --- | --- |\n"
            .to_owned();
        let mut rows: Vec<(String, String, bool)> = Vec::new();
        for refusal in all() {
            let row = refusal.row();
            let header = row.header.map_or(String::new(), |(name, value)| match name {
                "Retry-After" => "`Retry-After: SECONDS`".to_owned(),
                "Allow" => "`Allow: METHODS`".to_owned(),
                _ => format!("`{name}: {value}`"),
            });
            let description = if matches!(refusal, Refusal::Path(_)) {
                "says what is wrong with the path"
            } else if matches!(refusal, Refusal::Malformed(_)) {
                "malformed or ambiguous: says what; the connection is closed"
            } else {
                row.description.as_ref()
            };
            let begin = format!("| {} | `{}` | {description} |", row.status, row.error);
            let same = rows.iter_mut().find(|(other, ..)| *other == begin);
            match same {
                Some((_, _, numbered)) => *numbered |= row.errcode.is_some(),
                None => rows.push((begin, header, row.errcode.is_some())),
            }
        }
        for (begin, header, numbered) in rows {
            let errcode = if numbered { "if any" } else { "" };
            writeln!(page, "{begin} {errcode} | {header} |").unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::env::var_os("WXGATE_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, page, "run `WXGATE_WRITE_DOCS=1 cargo test docs_` to write it anew");
    }
}
