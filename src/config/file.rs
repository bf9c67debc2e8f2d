//! gateway.toml as it is written. The comments on the keys are the configuration reference:
//! `wxgate schema` and docs/configuration.md are made from them.
//!
//! What a key's value means together with others is decided in `check.rs`; where it stands is
//! found again by its key in the parsed document, see `document.rs`.
//!
//! A new key is a field here with its comment and default, a field of the configuration as used,
//! and a line of `check/` between them.

mod headers;
mod login;
mod routing;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use headers::{Cors, HeaderChanges};
pub(super) use login::{App, Identity, Login, MAX_SESSIONS, Session, SigningKey};
pub(super) use routing::{
    Allow, HealthCheck, RateLimit, Route, Upstream, UpstreamServer, UpstreamTls,
};

use super::source::SecretSource;
use super::value::{OneOrMore, Period, Size};
use super::{AccessFormat, ClientAuth};

/// The whole file.
#[derive(Deserialize, Serialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "gateway.toml", extend("required" = ["apps", "upstreams", "routes"]))]
pub(super) struct File {
    /// The listener for clients and its limits.
    pub(super) server: Server,
    /// The listener for operators: metrics and health.
    pub(super) admin: Admin,
    /// What is written to standard error and to the access log.
    pub(super) log: Log,
    /// How WeChat is reached.
    pub(super) wechat: Wechat,
    /// The apps whose users may log in; at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) apps: Vec<App>,
    /// The gateway's own endpoints.
    pub(super) login: Login,
    /// Sessions and their tokens.
    pub(super) session: Session,
    /// The headers that tell the upstream who is calling.
    pub(super) identity: Identity,
    /// Where requests are forwarded to; at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) upstreams: Vec<Upstream>,
    /// Which request is forwarded where, and for whom; at least one. The most specific route wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) routes: Vec<Route>,
}

/// `[server]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(super) struct Server {
    /// Addresses to listen on, `IP:PORT`. Port 0 lets the system choose.
    pub(super) listen: Vec<String>,
    /// Addresses, mostly port 80, where plain HTTP is answered by 308 to the same address by https
    /// and nothing is ever forwarded.
    pub(super) redirect_listen: Vec<String>,
    /// The port that they send to, as clients reach it.
    pub(super) redirect_port: u16,
    /// Worker threads. Default: one per core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threads: Option<usize>,
    /// Addresses or networks of the proxies in front. Only their X-Forwarded-For, -Proto, -Host
    /// and X-Request-Id are believed.
    pub(super) trusted_proxies: Vec<String>,
    /// Largest header section, from 1 KiB to 1 MiB. More: 431.
    pub(super) max_header_bytes: Size,
    /// Largest request body, 0 = unlimited. More: 413. Routes may override it.
    pub(super) max_body_bytes: Size,
    /// From the first byte of a request head to its last. Slower: 408, and the connection is closed.
    pub(super) header_timeout: Period,
    /// How long a connection may stand idle.
    pub(super) idle_timeout: Period,
    /// Connections that may be open at once, 0 = unlimited. One more is closed at once, without an
    /// answer.
    pub(super) max_connections: usize,
    /// Connections that may be open at once from one address, IPv6 by /64, 0 = unlimited. Those of
    /// `trusted_proxies` are not counted.
    pub(super) max_connections_per_address: usize,
    /// What a client must send of a body for each second that it is waited for, after the first
    /// 30, 0 = anything. Slower: 408, and the connection is closed.
    pub(super) min_body_rate: Size,
    /// How long a drain may take before what is left is cut off.
    pub(super) shutdown_grace: Period,
    /// Whether plain requests take the fast lane. Off: every request takes the full one, with the
    /// same behaviour and more work.
    pub(super) fast_lane: bool,
    /// Speaks TLS 1.2 and 1.3 on every address of `listen`, HTTP/2 where the client offers it. The
    /// files are watched, and a new pair is taken within 2 s without a reload. Default: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<ServerTls>,
}

/// `[server.tls]`
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["cert", "key"]))]
pub(super) struct ServerTls {
    /// PEM file of the certificate and its chain, the certificate itself first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert: Option<PathBuf>,
    /// PEM file of the private key: RSA, ECDSA or Ed25519.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<PathBuf>,
    /// Further pairs, each for the host names that stand in its certificate, exactly or by `*.`;
    /// every other name, and whoever asks for none, is shown `cert`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) certificates: Vec<ServerCertificate>,
    /// PEM file of the authorities that clients' certificates must be signed by. Backends are not
    /// told whose they are. Default: clients are not asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_ca: Option<PathBuf>,
    /// Whether a client may come without a certificate of `client_ca`: `required` or `optional`.
    /// Default: `required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_auth: Option<ClientAuth>,
}

/// One of `certificates`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["cert", "key"]))]
pub(super) struct ServerCertificate {
    /// PEM file of the certificate and its chain, the certificate itself first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert: Option<PathBuf>,
    /// PEM file of the private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:8080".to_owned()],
            redirect_listen: Vec::new(),
            redirect_port: 443,
            threads: None,
            trusted_proxies: Vec::new(),
            max_header_bytes: Size(32 << 10),
            max_body_bytes: Size(100 << 20),
            header_timeout: Period(Duration::from_secs(10)),
            idle_timeout: Period(Duration::from_secs(75)),
            max_connections: 16384,
            max_connections_per_address: 0,
            min_body_rate: Size(256),
            shutdown_grace: Period(Duration::from_secs(30)),
            fast_lane: true,
            tls: None,
        }
    }
}

/// `[admin]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(super) struct Admin {
    /// Address of the operators' listener. Off loopback without a token: an error.
    pub(super) listen: String,
    /// What `Authorization: Bearer` must hold, on all but /livez and /readyz. Default: nothing is asked.
    #[serde(skip_serializing)]
    pub(super) token: Option<SecretSource>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned(), token: None }
    }
}

/// `[log]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(super) struct Log {
    /// What is written to standard error.
    pub(super) level: Level,
    /// The form of access-log lines.
    pub(super) access: AccessFormat,
    /// Where access-log lines go. Default: standard output. Lines are written in batches off the
    /// request path; if the queue is full they are dropped and counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, access: AccessFormat::Json, access_file: None }
    }
}

/// How much is written to standard error.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Level {
    /// What needs somebody to act.
    Error,
    /// What may need somebody to act.
    Warn,
    /// What happened to the process.
    Info,
    /// What happened to a request.
    Debug,
    /// Every step.
    Trace,
}

/// `[wechat]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(super) struct Wechat {
    /// Base URL of WeChat's API, or a list of them: the next is tried where a connection could not
    /// be made, never after bytes were sent.
    pub(super) api_base: OneOrMore<String>,
    /// Base URL of WeChat's login pages, to which browsers are sent.
    pub(super) open_base: String,
    /// Total time of one call.
    pub(super) timeout: Period,
    /// Calls under way at once. Past it logins get 503 with Retry-After.
    pub(super) max_concurrent: usize,
}

impl Default for Wechat {
    fn default() -> Self {
        Self {
            api_base: OneOrMore(vec!["https://api.weixin.qq.com".to_owned()]),
            open_base: "https://open.weixin.qq.com".to_owned(),
            timeout: Period(Duration::from_secs(3)),
            max_concurrent: 256,
        }
    }
}
