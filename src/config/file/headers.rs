//! `cors` and the header changes of a route as they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::Period;

/// `cors` of a route and of `[login]`.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline, extend("required" = ["origins"]))]
pub(crate) struct Cors {
    /// Whose pages: `https://h5.example.com`, `https://*.example.com` for all hosts below it, or
    /// `*` for everybody's, which goes without `credentials`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<String>,
    /// With which methods. Default: those of the route; where it takes all, GET, HEAD, POST, PUT,
    /// PATCH and DELETE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Vec<String>>,
    /// With which request headers. Default: Authorization, Content-Type and the headers of
    /// `session.token_from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) headers: Option<Vec<String>>,
    /// Which response headers a page may read besides the harmless ones, X-Session-Expires-In,
    /// X-Request-Id and Retry-After.
    pub(crate) expose: Vec<String>,
    /// Whether with the user's cookies.
    pub(crate) credentials: bool,
    /// How long a browser may keep the answer to a preflight, in whole seconds.
    pub(crate) max_age: Period,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: None,
            headers: None,
            expose: Vec::new(),
            credentials: false,
            max_age: Period(Duration::from_mins(10)),
        }
    }
}

/// `request_headers` and `response_headers` of a route.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct HeaderChanges {
    /// `{ "X-Env" = "prod" }`: stands there once, with this value. No place for a secret: values
    /// are shown by `wxgate explain` and the admin listener.
    pub(crate) set: BTreeMap<String, String>,
    /// Names that do not pass.
    pub(crate) remove: Vec<String>,
}
