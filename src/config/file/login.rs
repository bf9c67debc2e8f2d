//! `[[apps]]`, `[login]`, `[session]` and `[identity]` as they are written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::source::SecretSource;
use super::super::value::{Period, Rate};
use super::super::{AppKind, OnStoreError};
use super::headers::Cors;

/// `[[apps]]`
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["appid", "secret"]))]
pub(crate) struct App {
    /// The app's id, as WeChat's console shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) appid: Option<String>,
    /// The app's secret.
    #[serde(skip_serializing)]
    pub(crate) secret: Option<SecretSource>,
    /// What kind of app it is.
    pub(crate) kind: AppKind,
}

/// `[login]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Login {
    /// Where the gateway's own endpoints live. Nothing under it is ever forwarded.
    pub(crate) prefix: String,
    /// One bucket per client address over the endpoints that make the gateway call WeChat. Past
    /// it: 429.
    pub(crate) rate_limit: LoginRate,
    /// Whether openid and unionid stand in answers to the client.
    pub(crate) expose_openid: bool,
    /// Whether /verify under `prefix` answers for nginx auth_request, Traefik and Caddy: whether the
    /// request that they are asked for may pass, by the routes here. Only `server.trusted_proxies`
    /// may ask.
    pub(crate) verify: bool,
    /// The same appid and code again within it get the same answer, refusals too: a phone that
    /// lost the reply, a double tap. "0s": off.
    pub(crate) replay_window: Period,
    /// Lets pages of other sites (H5) call these endpoints, as `cors` of a route does. A token in a
    /// cookie is taken from pages of this site alone all the same. Default: none may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cors: Option<Cors>,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            prefix: "/wx".to_owned(),
            rate_limit: LoginRate {
                per_ip: Some(Rate { count: 30, period: Duration::from_mins(1) }),
                burst: Some(30),
            },
            expose_openid: true,
            verify: false,
            replay_window: Period(Duration::from_secs(10)),
            cors: None,
        }
    }
}

/// A token bucket for callers who have no openid yet.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct LoginRate {
    /// So many from each client address, IPv6 by /64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_ip: Option<Rate>,
    /// So many at once. Default: the number of the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<u32>,
}

/// `session.max_sessions` where nothing is written.
pub(crate) const MAX_SESSIONS: usize = 1_000_000;

/// `[session]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Session {
    /// Life of one token, in whole seconds.
    pub(crate) ttl: Period,
    /// Life of a session over all refreshes; no token outlives it.
    pub(crate) max_age: Period,
    /// Where sessions live. `memory`: in this process, lost when it ends. `sqlite:PATH`: in that
    /// file. `redis://…`, `rediss://…` (TLS), a list of hosts with commas (a cluster) or
    /// `redis+sentinel://HOST,HOST/MASTER`: shared by all nodes; needs `signing_keys`.
    pub(crate) store: String,
    /// What becomes of a request whose session state cannot be read: `deny` (503) or `allow` (it
    /// is judged by its token and the revocations that are known).
    pub(crate) on_store_error: OnStoreError,
    /// Sessions that a user may have with one app; the oldest beyond it end. Default: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_per_user: Option<usize>,
    /// Sessions in all with `store = "memory"`; past it the one that would end first is dropped:
    /// its token stays good, but cannot be refreshed. Some 713 bytes each. Files and Redis have
    /// bounds of their own: the disk, `maxmemory`.
    pub(crate) max_sessions: usize,
    /// Where a request's token is looked for: `authorization`, `cookie:NAME`, `header:NAME` or
    /// `query:NAME`. The first place that holds something decides; the token is taken off before
    /// forwarding.
    pub(crate) token_from: Vec<String>,
    /// The first signs, all verify. Default: one is made; with a file as store it is kept
    /// beside it, else it lasts as long as the process.
    #[serde(skip_serializing)]
    pub(crate) signing_keys: Option<Vec<SigningKey>>,
}

impl Default for Session {
    fn default() -> Self {
        let token_from = ["authorization", "cookie:wxgate_session", "header:X-Session-Token"];
        Self {
            ttl: Period(Duration::from_hours(2)),
            max_age: Period(Duration::from_hours(24 * 30)),
            store: "sqlite:wxgate.db".to_owned(),
            on_store_error: OnStoreError::Deny,
            max_per_user: None,
            max_sessions: MAX_SESSIONS,
            token_from: token_from.map(str::to_owned).to_vec(),
            signing_keys: None,
        }
    }
}

/// One of `session.signing_keys`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["id", "secret"]))]
pub(crate) struct SigningKey {
    /// The key's id: `kid` in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// An HMAC key of at least 32 bytes, or an Ed25519 key as PKCS#8 PEM; `wxgate keygen` makes one.
    #[serde(skip_serializing)]
    pub(crate) secret: Option<SecretSource>,
}

/// `[identity]`
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Identity {
    /// Header that carries the openid.
    pub(crate) openid: String,
    /// Header that carries the appid.
    pub(crate) appid: String,
    /// Header that carries the unionid, where there is one.
    pub(crate) unionid: String,
    /// Header that carries the phone number, once /phone under `login.prefix` verified one.
    /// Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) phone: Option<String>,
    /// Header that carries the session's id. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// Header that carries a signed JWT about the caller, good for 60 s and for one upstream, for
    /// backends that want proof; public keys at /jwks.json under `login.prefix`. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assertion: Option<String>,
    /// What signs it: an Ed25519 key as PKCS#8 PEM. Default: the first such signing key.
    #[serde(skip_serializing)]
    pub(crate) assertion_key: Option<SecretSource>,
    /// Every client header whose name begins so is removed, whatever its case and with `_` or `.`
    /// read as `-`; the names above always are.
    pub(crate) reserved_prefixes: Vec<String>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            openid: "X-WX-OPENID".to_owned(),
            appid: "X-WX-APPID".to_owned(),
            unionid: "X-WX-UNIONID".to_owned(),
            phone: None,
            session: None,
            assertion: None,
            assertion_key: None,
            reserved_prefixes: vec!["X-WX-".to_owned()],
        }
    }
}
