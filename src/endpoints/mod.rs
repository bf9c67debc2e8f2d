//! What the gateway answers itself, under `login.prefix`: one file per endpoint.

pub mod answer;
mod auth;
mod failure;
mod logout;
mod parameters;
mod refresh;
mod session;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, Login};
use crate::observe::Metrics;
use crate::route::rate::{RateKeyValue, RateLimiter};
use crate::session::{Sessions, TokenError, Verified};
use crate::wechat::Wechat;
use answer::{Answer, Kind, Refusal};

/// The gateway's own endpoints, for one configuration.
#[derive(Debug)]
pub struct Endpoints {
    login: Login,
    appids: Vec<String>,
    sessions: Arc<Sessions>,
    wechat: Wechat,
    metrics: Arc<Metrics>,
    /// One bucket per address for everything that costs a call to WeChat or a decryption.
    rate: Option<Arc<RateLimiter>>,
}

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST {prefix}/auth`
    Auth,
    /// `POST {prefix}/refresh`
    Refresh,
    /// `POST {prefix}/logout`
    Logout,
    /// `GET {prefix}/session`
    Session,
}

impl Endpoint {
    const ALL: [Self; 4] = [Self::Auth, Self::Refresh, Self::Logout, Self::Session];

    /// Its name under the prefix, and the methods it takes.
    const fn place(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::Auth => ("auth", &["POST"], "POST"),
            Self::Refresh => ("refresh", &["POST"], "POST"),
            Self::Logout => ("logout", &["POST"], "POST"),
            Self::Session => ("session", &["GET", "HEAD"], "GET, HEAD"),
        }
    }

    /// Largest body that it takes, in bytes.
    pub const fn body_limit(self) -> u64 {
        match self {
            Self::Auth | Self::Refresh | Self::Logout | Self::Session => 16 * 1024,
        }
    }
}

/// The token that a request shows.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// None.
    None,
    /// One, not yet verified.
    Token(&'a str),
}

/// A request for an endpoint, read whole.
#[derive(Debug)]
pub struct Request<'a> {
    /// `Content-Type` as written.
    pub content_type: Option<&'a str>,
    /// `Referer` as written.
    pub referer: Option<&'a str>,
    /// The token shown.
    pub token: Presented<'a>,
    /// The client's address.
    pub client: IpAddr,
    /// The body, within the endpoint's limit.
    pub body: &'a [u8],
    /// Names this request.
    pub request_id: &'a str,
}

impl Endpoints {
    /// The endpoints of a configuration.
    pub fn new(
        config: &Config,
        sessions: Arc<Sessions>,
        wechat: Wechat,
        metrics: Arc<Metrics>,
        previous: Option<&Self>,
    ) -> Self {
        let limit = config.login.rate_limit;
        // A reload that leaves the limit alone leaves the buckets as full as they are.
        let kept = previous
            .filter(|previous| previous.login.rate_limit == limit)
            .and_then(|previous| previous.rate.clone());
        Self {
            login: config.login.clone(),
            appids: config.apps.iter().map(|app| app.appid.clone()).collect(),
            sessions,
            wechat,
            metrics,
            rate: kept.or_else(|| limit.map(RateLimiter::new).map(Arc::new)),
        }
    }

    /// Whether a path is the gateway's: the prefix itself and everything below it. Such a path is
    /// never forwarded.
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(self.login.prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Which endpoint a request is for. `path` is one that [`Endpoints::owns`].
    ///
    /// # Errors
    /// 404 for what is not there, 405 for a wrong method.
    pub fn find(&self, method: &str, path: &str) -> Result<Endpoint, Refusal> {
        let name = path
            .strip_prefix(self.login.prefix.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .unwrap_or_default();
        let endpoint = Endpoint::ALL
            .into_iter()
            .find(|endpoint| endpoint.place().0 == name)
            .ok_or_else(Refusal::not_found)?;
        let (_, methods, allow) = endpoint.place();
        if methods.contains(&method) {
            Ok(endpoint)
        } else {
            Err(Refusal::method_not_allowed(allow))
        }
    }

    /// Answers. Never fails: a refusal is an answer too.
    pub async fn answer(&self, endpoint: Endpoint, request: Request<'_>) -> Answer {
        let answered = match endpoint {
            Endpoint::Auth => self.auth(&request).await,
            Endpoint::Refresh => self.refresh(&request).await,
            Endpoint::Logout => self.logout(&request).await,
            Endpoint::Session => self.session(&request),
        };
        answered.unwrap_or_else(|refusal| refusal.into_answer(request.request_id))
    }

    /// Who is asking, by a good token.
    fn caller(&self, request: &Request<'_>) -> Result<Arc<Verified>, Refusal> {
        match request.token {
            Presented::None => Err(Refusal::unauthorized()),
            Presented::Token(token) => {
                self.sessions.verify(token).map_err(|error: TokenError| error.into())
            }
        }
    }

    /// Takes one from the address' bucket.
    fn check_rate(&self, request: &Request<'_>) -> Result<(), Refusal> {
        match &self.rate {
            None => Ok(()),
            Some(rate) => rate.check(RateKeyValue::Ip(request.client)).map_err(Refusal::slow_down),
        }
    }
}

fn invalid(what: impl Into<String>) -> Refusal {
    Refusal::new(Kind::InvalidRequest, what)
}
