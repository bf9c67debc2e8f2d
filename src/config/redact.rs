//! The configuration as operators may see it: with every default, without the secrets.

use std::fmt::Display;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use zeroize::Zeroize;

use super::Config;
use super::value::Period;
use crate::secret::Secret;

/// The configuration in use as JSON: durations as they are written, routes with the name of their
/// upstream, `"[secret]"` in place of every secret.
pub fn redacted(config: &Config) -> Value {
    let mut shown = json!(config);
    let routes = shown.get_mut("routes").and_then(Value::as_array_mut);
    for (shown, route) in routes.into_iter().flatten().zip(&config.routes) {
        if let (Some(shown), Some(upstream)) =
            (shown.get_mut("upstream"), config.upstreams.get(route.upstream))
        {
            *shown = Value::from(upstream.name.as_str());
        }
    }
    shown
}

/// A duration as it is written in gateway.toml.
pub fn written(duration: Duration) -> String {
    Period(duration).to_string()
}

/// A duration as it is written in gateway.toml.
pub(super) fn period<S: Serializer>(period: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Period(*period))
}

/// A duration that may be missing.
pub(super) fn periods<S: Serializer>(
    period: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    period.map(|period| Period(period).to_string()).serialize(serializer)
}

/// What prints itself.
pub(super) fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A list of what prints itself.
pub(super) fn texts<T: Display, S: Serializer>(
    list: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(ToString::to_string))
}

/// A secret, by the word for one.
pub(super) fn secret<T: Zeroize, S: Serializer>(
    secret: &Secret<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{secret:?}"))
}

/// A secret that may be missing.
pub(super) fn secrets<T: Zeroize, S: Serializer>(
    secret: &Option<Secret<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|secret| format!("{secret:?}")).serialize(serializer)
}
