//! `[[upstreams]]` and `[[routes]]` as they are written.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::super::value::{FromText, Period, Rate, Size, text_or_table};
use super::super::{Auth, Balance};
use super::headers::{Cors, HeaderChanges};

/// `[[upstreams]]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["name", "servers"]))]
pub(crate) struct Upstream {
    /// Its name in routes, metrics and logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// `HOST:PORT`, or `{ address = "HOST:PORT", weight = 2 }`. Host names are resolved again as
    /// their records change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<UpstreamServer>,
    /// How a server is chosen.
    pub(crate) balance: Balance,
    /// To open a connection.
    pub(crate) connect_timeout: Period,
    /// Between two reads of an answer.
    pub(crate) read_timeout: Period,
    /// Between two writes of a request.
    pub(crate) write_timeout: Period,
    /// Further attempts, on another server: where nothing was sent, or where nothing was answered,
    /// the method is idempotent and the request has no body. Retries are at most a fifth of the
    /// upstream's requests, but for ten that are granted to begin with.
    pub(crate) retries: u32,
    /// Idle connections kept.
    pub(crate) keepalive: usize,
    /// Asks every server in turn whether it is well; one that is not gets no requests, and while
    /// none is the answer is 503 at once. Default: every server counts as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthCheck>,
    /// Speaks TLS to the servers. Default: plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<UpstreamTls>,
}

/// `health_check` of an upstream.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["path"]))]
pub(crate) struct HealthCheck {
    /// Path and query of the GET request; a status from 200 to 399 is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// From one request to the next.
    pub(crate) interval: Period,
    /// For the connection and the whole head of the answer.
    pub(crate) timeout: Period,
    /// Good answers in a row that bring a server back.
    pub(crate) healthy: u32,
    /// Bad answers in a row that take a server out.
    pub(crate) unhealthy: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: Period(Duration::from_secs(5)),
            timeout: Period(Duration::from_secs(1)),
            healthy: 1,
            unhealthy: 3,
        }
    }
}

/// `tls` of an upstream.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct UpstreamTls {
    /// The name that is asked for and that the certificate must hold. Default: the host of the
    /// server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sni: Option<String>,
    /// PEM file of the authorities that may have signed the certificate. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of the certificate that the gateway shows, with `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// Whether the certificate is checked. `false` lets anybody between read and change
    /// everything: a warning.
    pub(crate) verify: bool,
    /// Whether HTTP/2 is spoken to servers that offer it. WebSockets and health checks stay with
    /// HTTP/1.1.
    pub(crate) http2: bool,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { sni: None, ca: None, cert: None, key: None, verify: true, http2: false }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            name: None,
            servers: Vec::new(),
            balance: Balance::RoundRobin,
            connect_timeout: Period(Duration::from_secs(1)),
            read_timeout: Period(Duration::from_secs(30)),
            write_timeout: Period(Duration::from_secs(30)),
            retries: 1,
            keepalive: 128,
            health_check: None,
            tls: None,
        }
    }
}

/// One of `servers`.
#[derive(Serialize, JsonSchema)]
#[schemars(inline, untagged)]
#[serde(untagged)]
pub(crate) enum UpstreamServer {
    /// `HOST:PORT`, of weight 1.
    Address(String),
    /// With more than its address.
    Table(ServerTable),
}

/// A server with more than its address.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ServerTable {
    /// `HOST:PORT`.
    #[schemars(required)]
    pub(crate) address: Option<String>,
    /// Its share of the requests, from 1.
    #[serde(default = "one")]
    pub(crate) weight: u32,
}

const fn one() -> u32 {
    1
}

impl FromText for UpstreamServer {
    const EXPECTED: &'static str = "\"HOST:PORT\" or { address = \"HOST:PORT\", weight = 2 }";

    fn from_text(text: &str) -> Self {
        Self::Address(text.to_owned())
    }
}

impl From<ServerTable> for UpstreamServer {
    fn from(table: ServerTable) -> Self {
        Self::Table(table)
    }
}

impl<'de> Deserialize<'de> for UpstreamServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_table::<D, Self, ServerTable>(deserializer)
    }
}

/// `[[routes]]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["path", "upstream"]))]
pub(crate) struct Route {
    /// Its name in metrics and logs. Default: host and path as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Exactly this host, or `*.example.com` for all below it. Default: any. Case and a trailing
    /// dot do not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// Ends in `/`: that tree; else exactly that path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// Methods it is for; GET includes HEAD. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Vec<String>>,
    /// Name of the upstream that it forwards to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    /// Who gets through.
    pub(crate) auth: Auth,
    /// Who of those with a token gets through; all conditions must hold. Not on a public route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow: Option<Allow>,
    /// Who does not get through. Not on a public route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny: Option<Deny>,
    /// Taken off the path before forwarding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strip_prefix: Option<String>,
    /// Largest request body, 0 = unlimited. Default: `server.max_body_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_body_bytes: Option<Size>,
    /// One bucket per address (`per_ip`) or per user (`per_openid`), and `burst`. Past it: 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limit: Option<RateLimit>,
    /// Keeps the backend's cookies in the caller's session and sends them back with its next
    /// requests, for mini programs, which keep none: PHPSESSID, JSESSIONID. A guest has none.
    pub(crate) cookie_bridge: bool,
    /// To open a connection. Default: the upstream's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_timeout: Option<Period>,
    /// Between two reads of an answer. Default: the upstream's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read_timeout: Option<Period>,
    /// Between two writes of a request. Default: the upstream's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) write_timeout: Option<Period>,
    /// Lets pages of other sites (H5) call it: preflights are answered by the gateway, without a
    /// token, and what the backend says of CORS is replaced. Default: CORS is left to the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cors: Option<Cors>,
    /// Changes headers of requests for the backend. Names count with `_` and `.` read as `-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_headers: Option<HeaderChanges>,
    /// Changes headers of the backend's answers; the gateway's own answers stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_headers: Option<HeaderChanges>,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            name: None,
            host: None,
            path: None,
            methods: None,
            upstream: None,
            auth: Auth::Required,
            allow: None,
            deny: None,
            strip_prefix: None,
            max_body_bytes: None,
            rate_limit: None,
            cookie_bridge: false,
            connect_timeout: None,
            read_timeout: None,
            write_timeout: None,
            cors: None,
            request_headers: None,
            response_headers: None,
        }
    }
}

/// `allow` of a route.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Allow {
    /// The caller's app is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) appids: Option<Vec<String>>,
    /// The caller's openid stands in this file, one a line, `#` for comments. The file is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) openids_file: Option<PathBuf>,
    /// The caller's session holds all of these scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Vec<String>>,
}

/// `deny` of a route.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["openids_file"]))]
pub(crate) struct Deny {
    /// The caller's openid stands in this file, one a line, `#` for comments. The file is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) openids_file: Option<PathBuf>,
}

/// A token bucket: one of `per_ip` and `per_openid`.
#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct RateLimit {
    /// So many from each client address, IPv6 by /64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_ip: Option<Rate>,
    /// So many from each user; from each client address for guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_openid: Option<Rate>,
    /// So many at once. Default: the number of the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<u32>,
}
