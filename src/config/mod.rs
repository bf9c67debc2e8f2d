//! What the operator wrote in gateway.toml, as the program uses it.
//!
//! `file.rs` holds the shape as written, `check.rs` the rules across keys; this page holds the
//! result: typed, with every default filled in.

mod certificate;
mod check;
mod document;
mod file;
mod known_keys;
mod load;
mod problem;
mod redact;
mod routing;
mod schema;
mod server;
mod source;
mod value;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

pub use certificate::{
    Certificate, CertificateError, CertificateFile, CertificateFiles, load_certificate, load_chain,
    load_key,
};
pub use known_keys::PUBLISHED_KEYS;
pub use load::{Loaded, load, parse};
pub use problem::Problems;
pub use redact::{redacted, written};
pub use routing::{Allow, Auth, Cors, HeaderChanges, HostPattern, Origin, Route};
pub use schema::schema;
pub use server::{ClientAuth, ClientCertificates, Server, ServerTls};

use crate::secret::Secret;

/// The whole configuration, valid.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The listener for clients and its limits.
    pub server: Server,
    /// The listener for operators.
    pub admin: Admin,
    /// What is written to standard error and to the access log.
    pub log: Log,
    /// How WeChat is reached.
    pub wechat: Wechat,
    /// The apps that may log in; never empty.
    pub apps: Vec<App>,
    /// The gateway's own endpoints.
    pub login: Login,
    /// Sessions and tokens.
    pub session: Session,
    /// The names of the headers that tell the upstream who is calling.
    pub identity: Identity,
    /// Where requests are forwarded to.
    pub upstreams: Vec<Upstream>,
    /// Which request is forwarded where, and for whom; in the order written.
    pub routes: Vec<Route>,
}

/// `[admin]`
#[derive(Clone, Debug, Serialize)]
pub struct Admin {
    /// Address of the operator's listener.
    pub listen: SocketAddr,
    /// The bearer token it asks for, if any; always there off loopback.
    #[serde(serialize_with = "redact::secrets")]
    pub token: Option<Secret<String>>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// What is written to standard error.
    #[serde(serialize_with = "redact::text")]
    pub level: log::LevelFilter,
    /// The form of access-log lines.
    pub access: AccessFormat,
    /// Where access-log lines go; `None`: standard output.
    pub access_file: Option<PathBuf>,
}

/// The form of access-log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// The NCSA combined format.
    Combined,
    /// No access log.
    Off,
}

/// `[wechat]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wechat {
    /// Base URLs in the order in which they are tried; never empty.
    #[serde(serialize_with = "redact::texts")]
    pub api_base: Vec<Url>,
    /// Where the OAuth pages are.
    #[serde(serialize_with = "redact::text")]
    pub open_base: Url,
    /// Total time of one call.
    #[serde(serialize_with = "redact::period")]
    pub timeout: Duration,
    /// Calls under way at once.
    pub max_concurrent: usize,
}

/// `[[apps]]`
#[derive(Clone, Debug, Serialize)]
pub struct App {
    /// WeChat's name for the app, `[A-Za-z0-9_-]{6,64}`.
    pub appid: String,
    /// The app's secret.
    #[serde(serialize_with = "redact::secret")]
    pub secret: Secret<String>,
    /// What kind of app it is.
    pub kind: AppKind,
}

/// What kind of app logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, Default)]
#[schemars(inline)]
pub enum AppKind {
    /// A mini program: `wx.login` and jscode2session.
    #[default]
    #[serde(rename = "miniprogram")]
    MiniProgram,
    /// An official account: web pages inside WeChat, which log in by OAuth.
    #[serde(rename = "official_account")]
    OfficialAccount,
    /// A website in any browser, which logs in by a QR code.
    #[serde(rename = "website")]
    Website,
}

/// `[login]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Where the gateway's own endpoints live: begins with `/`, does not end in one, normalised.
    pub prefix: String,
    /// One bucket per client address for logins.
    pub rate_limit: Option<RateLimit>,
    /// Whether openid and unionid stand in answers to the client.
    pub expose_openid: bool,
    /// Whether proxies in front may ask `verify` about requests that they serve.
    pub verify: bool,
    /// How long the answer to a code is kept for a repeat; zero: not at all.
    #[serde(serialize_with = "redact::period")]
    pub replay_window: Duration,
    /// Which pages of other sites may read the endpoints' answers; `None`: none.
    pub cors: Option<Cors>,
}

/// What a rate limit counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateKey {
    /// The client's address.
    Ip,
    /// The caller's openid; a guest falls back to the address.
    OpenId,
}

/// A token bucket: `count` per `period` on average, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// What has a bucket of its own.
    pub key: RateKey,
    /// Requests per period, at least 1.
    pub count: u32,
    /// The period, e.g. one minute for `30/m`.
    #[serde(serialize_with = "redact::period")]
    pub period: Duration,
    /// Size of the bucket, at least 1.
    pub burst: u32,
}

/// `[session]`
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Life of one token.
    #[serde(serialize_with = "redact::period")]
    pub ttl: Duration,
    /// Life of a session over all refreshes, at least `ttl`.
    #[serde(serialize_with = "redact::period")]
    pub max_age: Duration,
    /// Where sessions live.
    pub store: Store,
    /// What becomes of a request whose session state cannot be read.
    pub on_store_error: OnStoreError,
    /// Sessions that a user may have with one app; the oldest beyond it end. `None`: any number.
    pub max_per_user: Option<NonZeroUsize>,
    /// Sessions in all, in memory; the one that would end first makes room for another.
    pub max_sessions: NonZeroUsize,
    /// Where a request's token is looked for, in this order; never empty.
    pub token_from: Vec<TokenSource>,
    /// The first signs, all verify; empty: one key is made at start.
    pub signing_keys: Vec<SigningKey>,
}

/// Where sessions live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// In this process; lost at restart.
    Memory,
    /// In this file; made if it is not there.
    Sqlite(PathBuf),
    /// In a Redis or Valkey that all nodes share.
    Redis(Redis),
}

/// How a Redis or Valkey is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redis {
    /// Host and port of each server, of sentinels, or of some nodes of a cluster; never empty.
    pub servers: Vec<(String, u16)>,
    /// What the servers are.
    pub layout: RedisLayout,
    /// Plain or TLS.
    pub transport: RedisTransport,
    /// The ACL user; `None`: the default one.
    pub username: Option<String>,
    /// The password of the servers that hold data; sentinels are asked without one.
    #[serde(serialize_with = "redact::secrets")]
    pub password: Option<Secret<String>>,
    /// The number of the database; 0 in a cluster.
    pub database: i64,
}

/// What the servers of a Redis URL are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisLayout {
    /// One server.
    Single,
    /// Sentinels that know where the master of this name is.
    Sentinel {
        /// The master's name.
        master: String,
    },
    /// Nodes of a cluster, which name the others.
    Cluster,
}

/// How a connection to Redis is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisTransport {
    /// Plain TCP.
    Plain,
    /// TLS; the certificate must be of the host's name and of an authority the system trusts.
    Tls,
}

/// What becomes of a request whose session state cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnStoreError {
    /// It is refused with 503.
    Deny,
    /// It is judged by its token and the revocations that are known.
    Allow,
}

/// Where a request's token is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// `Authorization: Bearer`.
    Authorization,
    /// A cookie of this name.
    Cookie(String),
    /// A header of this name, lower case.
    Header(String),
    /// A query parameter of this name.
    Query(String),
}

/// One key of `session.signing_keys`.
#[derive(Clone, Debug, Serialize)]
pub struct SigningKey {
    /// The token's `kid`.
    pub id: String,
    /// An HMAC key of at least 32 bytes, or a PKCS#8 PEM of Ed25519; see `session::keys`.
    #[serde(serialize_with = "redact::secret")]
    pub secret: Secret<String>,
}

/// `[identity]`: header names as they are sent.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// Carries the openid.
    pub openid: String,
    /// Carries the appid.
    pub appid: String,
    /// Carries the unionid, where there is one.
    pub unionid: String,
    /// Carries the phone number that WeChat verified; off unless named.
    pub phone: Option<String>,
    /// Carries the session's id; off unless named.
    pub session: Option<String>,
    /// Carries a signed JWT about the caller; off unless named.
    pub assertion: Option<String>,
    /// What signs it: Ed25519, PKCS#8 as PEM. `None`: the first such signing key, which there
    /// then is.
    #[serde(serialize_with = "redact::secrets")]
    pub assertion_key: Option<Secret<String>>,
    /// Every client header whose folded name begins with one of these is removed.
    pub reserved_prefixes: Vec<String>,
}

/// `[[upstreams]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Its name in routes, metrics and logs.
    pub name: String,
    /// Never empty.
    pub servers: Vec<UpstreamServer>,
    /// How a server is chosen.
    pub balance: Balance,
    /// To open a connection.
    #[serde(serialize_with = "redact::period")]
    pub connect_timeout: Duration,
    /// Between two reads of an answer.
    #[serde(serialize_with = "redact::period")]
    pub read_timeout: Duration,
    /// Between two writes of a request.
    #[serde(serialize_with = "redact::period")]
    pub write_timeout: Duration,
    /// Further attempts after the first.
    pub retries: u32,
    /// Idle connections kept.
    pub keepalive: usize,
    /// How its servers are asked whether they are well; `None`: they count as well.
    pub health_check: Option<HealthCheck>,
    /// How TLS is spoken to its servers; `None`: plain HTTP.
    pub tls: Option<UpstreamTls>,
}

/// `health_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Path and query of the GET request; begins with `/`.
    pub path: String,
    /// From one request to the next.
    #[serde(serialize_with = "redact::period")]
    pub interval: Duration,
    /// For the connection and the whole head of the answer.
    #[serde(serialize_with = "redact::period")]
    pub timeout: Duration,
    /// Good answers in a row that bring a server back; at least 1.
    pub healthy: u32,
    /// Bad answers in a row that take a server out; at least 1.
    pub unhealthy: u32,
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// The name that is asked for and checked; `None`: the host of the server's address.
    pub sni: Option<String>,
    /// PEM file of the authorities that are believed; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that the gateway shows, if any.
    pub client: Option<CertificateFiles>,
    /// Whether the server's certificate is checked.
    pub verify: bool,
    /// Whether HTTP/2 is spoken to servers that offer it.
    pub http2: bool,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamServer {
    /// `host:port` as written.
    pub address: String,
    /// Its share, at least 1.
    pub weight: u32,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastConn,
    /// The same openid to the same server; guests by address.
    HashOpenid,
    /// The same client address to the same server.
    HashIp,
}
