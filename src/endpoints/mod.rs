//! What the gateway answers itself, under `login.prefix`: one file per endpoint, `refusal.rs` for
//! every error, `answer.rs` for what an answer is.
//!
//! This room knows no lane. Whoever carries a request asks `owns`, then `find` before the body is
//! read, then `answer`; refusals of forwarded requests are made by the same map.

pub mod answer;
pub mod auth;
mod body;
pub mod check;
pub mod decrypt;
mod browser;
pub mod logout;
mod oauth;
pub mod phone;
pub mod refresh;
pub mod refusal;
pub mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{AppKind, Config, RateLimit};
use crate::identity::AppId;
use crate::observe::{AuthResult, Metrics};
use crate::route::rate::{RateKeyValue, RateLimiter};
use crate::secret::Secret;
use crate::session::{SessionError, Sessions, Verified};
use crate::wechat::Wechat;

pub use answer::Answer;
pub use browser::{Browser, Shown};
pub(crate) use oauth::check_return_to;
pub use refusal::{InputError, Refusal};

/// Bodies of more bytes are refused with 413.
const BODY_LIMIT: u64 = 16 * 1024;
/// The same for what WeChat encrypted: a user's profile with its emoji and links is long.
const ENCRYPTED_BODY_LIMIT: u64 = 256 * 1024;

/// The endpoints of one configuration.
pub struct Endpoints {
    prefix: String,
    /// The apps whose users log in by `POST auth`.
    apps: Vec<AppId>,
    web: oauth::Web,
    login_limit: Option<LoginLimit>,
    reveals: Reveals,
    /// `login.verify`
    verifies: bool,
    /// The public keys of assertions, where upstreams get them.
    key_set: Option<String>,
    sessions: Arc<Sessions>,
    wechat: Wechat,
    metrics: Arc<Metrics>,
}

/// `login.rate_limit` and its buckets, which a reload keeps unless it changes the limit.
struct LoginLimit {
    written: RateLimit,
    limiter: Arc<RateLimiter>,
}

/// `login.expose_openid`: whether openid and unionid stand in answers to the client.
#[derive(Clone, Copy)]
enum Reveals {
    Identity,
    Nothing,
}

/// One of the gateway's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST auth`: a code for a token.
    Auth,
    /// `POST refresh`: a token for a later one.
    Refresh,
    /// `POST logout`: the end of a session.
    Logout,
    /// `GET session`: what a token says.
    Session,
    /// `POST decrypt`: what WeChat encrypted for the user's mini program.
    Decrypt,
    /// `POST phone`: the code of the getPhoneNumber button for the number.
    Phone,
    /// `GET oauth/login`: a browser's way to WeChat's login page.
    OauthLogin,
    /// `GET oauth/callback`: its way back.
    OauthCallback,
    /// `GET verify`: whether a request that a proxy in front serves may pass; where it is on.
    Verify,
    /// `GET jwks.json`: the public keys of assertions; where upstreams get them.
    Jwks,
    /// `POST check`: whether WeChat still takes the session_key.
    Check,
}

impl Endpoint {
    /// The most bytes that its request's body may have; more are 413.
    pub const fn body_limit(self) -> u64 {
        match self {
            Self::Decrypt => ENCRYPTED_BODY_LIMIT,
            Self::Auth
            | Self::Refresh
            | Self::Logout
            | Self::Session
            | Self::Check
            | Self::Phone
            | Self::OauthLogin
            | Self::OauthCallback
            | Self::Verify
            | Self::Jwks => BODY_LIMIT,
        }
    }

    /// Whether a request for it, sent by a page of another site with the user's cookie, would do
    /// the user harm.
    const fn changes_state(self) -> bool {
        match self {
            Self::Auth
            | Self::Refresh
            | Self::Logout
            | Self::Decrypt
            | Self::Phone
            | Self::Check => true,
            Self::Session | Self::OauthLogin | Self::OauthCallback | Self::Verify | Self::Jwks => {
                false
            }
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "auth" => Some(Self::Auth),
            "refresh" => Some(Self::Refresh),
            "logout" => Some(Self::Logout),
            "session" => Some(Self::Session),
            "decrypt" => Some(Self::Decrypt),
            "check" => Some(Self::Check),
            "phone" => Some(Self::Phone),
            "verify" => Some(Self::Verify),
            "jwks.json" => Some(Self::Jwks),
            "oauth/login" => Some(Self::OauthLogin),
            "oauth/callback" => Some(Self::OauthCallback),
            _ => None,
        }
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Auth
            | Self::Refresh
            | Self::Logout
            | Self::Decrypt
            | Self::Check
            | Self::Phone => "POST",
            Self::Session | Self::Verify | Self::Jwks => "GET, HEAD",
            // A look at it by HEAD would use up the code.
            Self::OauthLogin | Self::OauthCallback => "GET",
        }
    }
}

/// A request for one of the endpoints, whole.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The Content-Type header.
    pub content_type: Option<&'a str>,
    /// The Referer header, by which WeChat names the mini program.
    pub referer: Option<&'a str>,
    /// The token that the request shows, from the first place of `session.token_from` that
    /// holds something.
    pub token: Option<&'a str>,
    /// Who really called, behind any trusted proxy.
    pub client: IpAddr,
    /// The body, at most [`Endpoint::body_limit`] bytes.
    pub body: &'a [u8],
    /// The request's id.
    pub request_id: &'a str,
    /// What browsers say besides.
    pub browser: Browser<'a>,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Body and token are secret.
        formatter.debug_struct("Request").field("id", &self.request_id).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// The endpoints of a configuration. Of the `previous` ones, if any, the buckets of an
    /// unchanged rate limit are kept, so that a reload gives nobody a fresh one.
    pub fn new(
        config: &Config,
        key_set: Option<String>,
        sessions: Arc<Sessions>,
        wechat: Wechat,
        metrics: Arc<Metrics>,
        previous: Option<&Self>,
    ) -> Self {
        auth::announce(config, &metrics);
        let kept = previous.and_then(|previous| previous.login_limit.as_ref());
        let login_limit = config.login.rate_limit.map(|written| {
            let kept = kept.filter(|kept| kept.written == written);
            let limiter = kept.map(|kept| Arc::clone(&kept.limiter));
            LoginLimit {
                written,
                limiter: limiter.unwrap_or_else(|| Arc::new(RateLimiter::new(written))),
            }
        });
        Self {
            prefix: config.login.prefix.clone(),
            apps: of_kind(config, AppKind::MiniProgram),
            web: oauth::Web::new(config),
            login_limit,
            reveals: match config.login.expose_openid {
                true => Reveals::Identity,
                false => Reveals::Nothing,
            },
            verifies: config.login.verify,
            key_set,
            sessions,
            wechat,
            metrics,
        }
    }

    /// Whether a path, as routed, is the prefix or below it. Such a request is never forwarded.
    pub fn owns(&self, path: &str) -> bool {
        self.below(path).is_some()
    }

    /// The endpoint for a path that [`Endpoints::owns`] and a method.
    ///
    /// # Errors
    /// 404 where there is none, 405 where it has another method.
    pub fn find(&self, method: &str, path: &str) -> Result<Endpoint, Refusal> {
        let name = self.below(path).and_then(|rest| rest.strip_prefix('/'));
        let endpoint = name.and_then(Endpoint::named);
        let is_on = |endpoint: &Endpoint| {
            (*endpoint != Endpoint::Verify || self.verifies)
                && (*endpoint != Endpoint::Jwks || self.key_set.is_some())
        };
        let endpoint = endpoint.filter(is_on).ok_or(Refusal::NotFound)?;
        let allow = endpoint.methods();
        if allow.split(", ").any(|allowed| allowed == method) {
            Ok(endpoint)
        } else {
            Err(Refusal::MethodNotAllowed { allow: allow.to_owned() })
        }
    }

    /// Takes one request out of the bucket of the client's address.
    fn check_login_limit(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let Some(limit) = &self.login_limit else { return Ok(()) };
        let outcome = limit.limiter.check(RateKeyValue::Ip(request.client));
        outcome.map_err(|retry_after| Refusal::SlowDown { retry_after })
    }

    /// Answers a request; every failure is an answer too.
    pub async fn answer(&self, endpoint: Endpoint, request: Request<'_>) -> Answer {
        if endpoint.changes_state() && request.browser.is_led_by_another_site() {
            return Refusal::ForeignOrigin.into_answer(request.request_id);
        }
        match endpoint {
            Endpoint::Auth => auth::answer(self, request).await,
            Endpoint::Refresh => refresh::answer(self, request).await,
            Endpoint::Logout => logout::answer(self, request).await,
            Endpoint::Session => session::answer(self, request),
            Endpoint::Decrypt => decrypt::answer(self, request).await,
            Endpoint::Check => check::answer(self, request).await,
            Endpoint::Phone => phone::answer(self, request).await,
            Endpoint::Jwks => {
                let keys = self.key_set.clone().unwrap_or_default();
                Answer::with_json(keys.into_bytes()).for_caller(AuthResult::Public, None)
            }
            // It is judged from its head alone, and so not here.
            Endpoint::Verify => Refusal::Internal.into_answer(request.request_id),
            Endpoint::OauthLogin => oauth::login(self, request),
            Endpoint::OauthCallback => oauth::callback(self, request).await,
        }
    }

    /// What is left of a path below the prefix: empty, or from the slash on.
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.prefix.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Who shows the token of a request that needs one; else the answer that says why not.
    fn caller(&self, request: &Request<'_>) -> Result<Arc<Verified>, Answer> {
        let token = request.token.ok_or(Refusal::Unauthorized);
        let verified = token.and_then(|token| Ok(self.sessions.verify(token)?));
        verified.map_err(|refusal| refusal.into_answer(request.request_id))
    }

    /// Answers a request that needs a good token with what `act` makes of its caller.
    async fn for_caller(
        &self,
        request: &Request<'_>,
        act: impl AsyncFnOnce(&Verified) -> Result<Answer, Refusal>,
    ) -> Answer {
        let caller = match self.caller(request) {
            Ok(caller) => caller,
            Err(answer) => return answer,
        };
        let answer = act(&caller).await;
        let answer = answer.unwrap_or_else(|refusal| refusal.into_answer(request.request_id));
        self.to_caller(answer, &caller)
    }

    /// An answer, be it a refusal, to whoever showed a good token.
    fn to_caller(&self, answer: Answer, caller: &Verified) -> Answer {
        let hint = self.sessions.expiry_hint(caller).map(|seconds| seconds.to_string());
        let answer = match hint {
            Some(seconds) => answer.saying("X-Session-Expires-In", seconds),
            None => answer,
        };
        answer.for_caller(AuthResult::Ok, Some(caller.identity.openid.clone()))
    }

    /// WeChat's key for the caller's login.
    async fn session_key(&self, caller: &Verified) -> Result<Secret<String>, Refusal> {
        let key = self.sessions.session_key(caller).await.inspect_err(log_session_error)?;
        key.ok_or(Refusal::SessionKeyLost)
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoints").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn of_kind(config: &Config, kind: AppKind) -> Vec<AppId> {
    let apps = config.apps.iter().filter(|app| app.kind == kind);
    apps.filter_map(|app| AppId::parse(&app.appid).ok()).collect()
}

/// Writes down what no client caused; a token that is not good any more is told to its owner only.
fn log_session_error(error: &SessionError) {
    match error {
        SessionError::Token(_) => {}
        SessionError::Key(_)
        | SessionError::App(_)
        | SessionError::Random(_)
        | SessionError::Signing
        | SessionError::Store(_) => {
            log::error!("a session could not be opened or refreshed: {error}");
        }
    }
}
