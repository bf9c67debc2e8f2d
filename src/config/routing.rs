//! `[[routes]]` as the program uses it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RateLimit, redact};

/// `[[routes]]`
#[derive(Clone, Debug, Serialize)]
pub struct Route {
    /// Its name in metrics and logs.
    pub name: String,
    /// Which hosts it is for.
    pub host: HostPattern,
    /// Which paths it is for; normalised. Ends in `/`: the tree, else exactly that path.
    pub path: String,
    /// Which methods it is for, upper case; empty: all. `GET` stands with `HEAD`.
    pub methods: Vec<String>,
    /// Position in [`Config::upstreams`].
    pub upstream: usize,
    /// Who gets through.
    pub auth: Auth,
    /// All conditions must hold.
    pub allow: Option<Allow>,
    /// Openids in this file are refused.
    pub deny_openids_file: Option<PathBuf>,
    /// Taken off the path before forwarding; begins with `/`, does not end in one.
    pub strip_prefix: Option<String>,
    /// Largest request body; `None`: unlimited.
    pub max_body_bytes: Option<u64>,
    /// A bucket per caller or address.
    pub rate_limit: Option<RateLimit>,
    /// Whether the upstream's cookies are kept in the caller's session.
    pub cookie_bridge: bool,
    /// To open a connection; `None`: as the upstream says.
    #[serde(serialize_with = "redact::periods")]
    pub connect_timeout: Option<Duration>,
    /// Between two reads of an answer; `None`: as the upstream says.
    #[serde(serialize_with = "redact::periods")]
    pub read_timeout: Option<Duration>,
    /// Between two writes of a request; `None`: as the upstream says.
    #[serde(serialize_with = "redact::periods")]
    pub write_timeout: Option<Duration>,
    /// Which pages of other sites may read its answers; `None`: what the backend says.
    pub cors: Option<Cors>,
    /// What is changed on requests for the backend.
    pub request_headers: HeaderChanges,
    /// What is changed on the backend's answers.
    pub response_headers: HeaderChanges,
}

/// What is changed on a message's headers: those named in `remove` go, those of `set` stand there
/// once, with that value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// Names, as they are sent, and values.
    pub set: BTreeMap<String, String>,
    /// Names.
    pub remove: Vec<String>,
}

/// Which pages of other sites a browser lets read an answer (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Whose pages; never empty. [`Origin::Any`] stands alone.
    #[serde(serialize_with = "redact::texts")]
    pub origins: Vec<Origin>,
    /// With which methods; never empty.
    pub methods: Vec<String>,
    /// With which request headers besides the harmless ones.
    pub headers: Vec<String>,
    /// Which response headers they may read besides the harmless ones.
    pub expose: Vec<String>,
    /// Whether with the user's cookies.
    pub credentials: bool,
    /// How long a browser may keep a preflight's answer.
    #[serde(serialize_with = "redact::period")]
    pub max_age: Duration,
}

/// Whose pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Everybody's.
    Any,
    /// Those of this origin, as a browser writes it.
    Exact(String),
    /// Those of all hosts below one.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com`, with the port if there is one.
        suffix: String,
    },
}

/// Which hosts a route is for; lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPattern {
    /// Exactly this host.
    Exact(String),
    /// Any host that ends in this suffix, which begins with a dot (`*.example.com` is
    /// `.example.com`).
    Wildcard(String),
    /// Every host.
    Any,
}

/// Who gets through a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Auth {
    /// Only a good token.
    Required,
    /// No token: a guest. A bad one: refused.
    Optional,
    /// Tokens are neither read nor needed.
    Public,
}

/// `allow` of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allow {
    /// The caller's app must be one of these; empty: any.
    pub appids: Vec<String>,
    /// The caller's openid must stand in this file.
    pub openids_file: Option<PathBuf>,
    /// The caller's session must hold all of these.
    pub scope: Vec<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*"),
            Self::Exact(origin) => formatter.write_str(origin),
            Self::Below { scheme, suffix } => write!(formatter, "{scheme}*{suffix}"),
        }
    }
}
