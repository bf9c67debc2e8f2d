//! The admin listener as its client sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

/// For a whole answer; a page takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most sessions that one answer holds.
const MOST_PER_PAGE: usize = 1000;

/// Why the gateway did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// No URL of a listener.
    #[error("`{0}` is not the URL of an admin listener; write it as http://127.0.0.1:9090")]
    Url(String),
    /// The HTTP client cannot be made.
    #[error("no request can be made: {0}")]
    Setup(reqwest::Error),
    /// Nobody answers.
    #[error(
        "no gateway answers at {place}: {cause}; is it running? Another one is named by --admin \
         URL or -c FILE"
    )]
    Unreachable {
        /// Where.
        place: String,
        /// Why.
        cause: String,
    },
    /// It wants another token.
    #[error(
        "the gateway at {place} refuses {shown}; set WXGATE_ADMIN_TOKEN to what its admin.token is"
    )]
    Token {
        /// Where.
        place: String,
        /// What it refuses.
        shown: &'static str,
    },
    /// There is no such session.
    #[error("the gateway at {place} has no open session {sid}; `wxgate sessions list` shows them")]
    NotFound {
        /// Where.
        place: String,
        /// Which was meant.
        sid: String,
    },
    /// It says why it does not.
    #[error("the gateway at {place} refuses: {description} ({status})")]
    Refused {
        /// Where.
        place: String,
        /// What it says.
        description: String,
        /// Its status.
        status: StatusCode,
    },
    /// Something else answers.
    #[error(
        "what answers at {place} is no admin listener of wxgate ({status}); name it with --admin \
         URL or -c FILE"
    )]
    Foreign {
        /// Where.
        place: String,
        /// Its status.
        status: StatusCode,
    },
}

/// Which sessions to list.
pub(super) struct Filter<'a> {
    pub(super) openid: Option<&'a str>,
    pub(super) appid: Option<&'a str>,
    /// How many at most.
    pub(super) limit: usize,
}

/// The API of one admin listener.
pub(super) struct AdminApi {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    sessions: Vec<Value>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error_description: String,
}

/// Where a client of this machine finds what listens on `address`.
pub(super) fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

impl AdminApi {
    /// `url` may lack its scheme, which is http then.
    pub(super) fn new(url: &str, token: Option<String>) -> Result<Self, AdminError> {
        // Where the process has a TLS provider already, that one serves.
        drop(rustls::crypto::ring::default_provider().install_default());
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = Url::parse(&whole).ok().filter(|base| {
            matches!(base.scheme(), "http" | "https") && base.has_host() && base.port() != Some(0)
        });
        let mut base = base.ok_or_else(|| AdminError::Url(url.to_owned()))?;
        base.set_query(None);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wxgate/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            // The token is for the gateway alone.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(AdminError::Setup)?;
        Ok(Self { http, base, token })
    }

    /// The first sessions that fit, page by page, and whether there are more.
    pub(super) async fn list(&self, filter: Filter<'_>) -> Result<(Vec<Value>, bool), AdminError> {
        let mut sessions = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut url = self.at(&["sessions"]);
            let limit = filter.limit.saturating_sub(sessions.len()).min(MOST_PER_PAGE);
            url.query_pairs_mut()
                .append_pair("limit", &limit.to_string())
                .extend_pairs(filter.openid.map(|openid| ("openid", openid)))
                .extend_pairs(filter.appid.map(|appid| ("appid", appid)))
                .extend_pairs(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: Page = self.ask(Method::GET, url, "").await?;
            sessions.extend(page.sessions);
            let more = page.next_cursor.is_some();
            if !more || sessions.len() >= filter.limit {
                return Ok((sessions, more));
            }
            cursor = page.next_cursor;
        }
    }

    /// One open session.
    pub(super) async fn show(&self, sid: &str) -> Result<Value, AdminError> {
        self.ask(Method::GET, self.at(&["sessions", sid]), sid).await
    }

    /// Ends one session.
    pub(super) async fn kick(&self, sid: &str) -> Result<(), AdminError> {
        self.send(Method::DELETE, self.at(&["sessions", sid]), sid).await.map(drop)
    }

    /// Ends every session of a user.
    pub(super) async fn kick_user(&self, openid: &str) -> Result<(), AdminError> {
        self.send(Method::DELETE, self.at(&["users", openid, "sessions"]), "").await.map(drop)
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // A base with a host takes segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        url
    }

    fn place(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        sid: &str,
    ) -> Result<T, AdminError> {
        let (status, body) = self.send(method, url, sid).await?;
        let foreign = |_| AdminError::Foreign { place: self.place(), status };
        serde_json::from_slice(&body).map_err(foreign)
    }

    /// Sends a request and gives its good answer.
    async fn send(
        &self,
        method: Method,
        url: Url,
        sid: &str,
    ) -> Result<(StatusCode, Vec<u8>), AdminError> {
        let place = self.place();
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let unreachable = |error: reqwest::Error| AdminError::Unreachable {
            place: place.clone(),
            cause: innermost(&error),
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?.to_vec();
        if status.is_success() {
            return Ok((status, body));
        }
        let Ok(Refusal { error_description }) = serde_json::from_slice(&body) else {
            return Err(AdminError::Foreign { place, status });
        };
        Err(match status {
            StatusCode::UNAUTHORIZED => {
                let shown = if self.token.is_some() { "the token" } else { "whoever has no token" };
                AdminError::Token { place, shown }
            }
            StatusCode::NOT_FOUND if !sid.is_empty() => {
                AdminError::NotFound { place, sid: sid.to_owned() }
            }
            status => AdminError::Refused { place, description: error_description, status },
        })
    }
}

/// What the system said; the URL before it is told already.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
