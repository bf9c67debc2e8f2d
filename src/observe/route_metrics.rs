//! The metrics of one route, prepared so that a request counts without hashing labels.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::metrics::Metrics;

/// What became of a request's authentication: the `result` of `wxgate_auth_decisions_total` and
/// the `auth` of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// A good token.
    Ok,
    /// An optional route, no token.
    Guest,
    /// Tokens are not read here.
    Public,
    /// No token where one is required.
    Missing,
    /// A token that is none of ours, or damaged.
    Invalid,
    /// A token past its time.
    Expired,
    /// A token of a session that was ended.
    Revoked,
    /// A good token, but the route's policy forbids.
    Forbidden,
}

impl AuthResult {
    /// Every result.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Guest,
        Self::Public,
        Self::Missing,
        Self::Invalid,
        Self::Expired,
        Self::Revoked,
        Self::Forbidden,
    ];

    /// As it stands in metrics and in the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Guest => "guest",
            Self::Public => "public",
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Forbidden => "forbidden",
        }
    }
}

/// The methods that have a label of their own; every other one is `other`, since a client may
/// make up any number of them.
const METHODS: [&str; 9] =
    ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
const OTHER: &str = "other";

/// Counts what one route answers. Cheap to hold, made once per route and reload; two of one name
/// count into the same series. No call takes a lock once a status has been seen.
pub struct RouteMetrics {
    requests: IntCounterVec,
    route: String,
    methods: [CodeTable; METHODS.len() + 1],
    decisions: [IntCounter; AuthResult::ALL.len()],
    duration: Histogram,
}

impl RouteMetrics {
    pub(super) fn new(metrics: &Metrics, route: &str) -> Arc<Self> {
        let decision = |result: AuthResult| {
            metrics.auth_decisions.with_label_values(&[route, result.as_str()])
        };
        // Of many methods and statuses the usual one, so that the route is reported from the start.
        metrics.http_requests.with_label_values(&[route, "GET", "200"]);
        Arc::new(Self {
            requests: metrics.http_requests.clone(),
            route: route.to_owned(),
            methods: std::array::from_fn(|_| CodeTable::default()),
            decisions: AuthResult::ALL.map(decision),
            duration: metrics.http_request_duration.with_label_values(&[route]),
        })
    }

    /// Counts one answered request.
    pub fn answered(&self, method: &str, status: u16, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
        let known = METHODS.iter().position(|known| *known == method);
        let position = known.unwrap_or(METHODS.len());
        let count = || {
            let label = METHODS.get(position).copied().unwrap_or(OTHER);
            self.requests.with_label_values(&[self.route.as_str(), label, &status.to_string()])
        };
        match self.methods.get(position).and_then(|table| table.counter(status, count)) {
            Some(counter) => counter.inc(),
            None => count().inc(),
        }
    }

    /// Counts one decision about authentication.
    pub fn decided(&self, result: AuthResult) {
        if let Some(counter) = self.decisions.get(result as usize) {
            counter.inc();
        }
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RouteMetrics").field("route", &self.route).finish_non_exhaustive()
    }
}

/// A counter per status, filled as they occur: first by hundreds, so that a method that is never
/// used costs next to nothing.
#[derive(Default)]
pub(super) struct CodeTable([OnceLock<Box<[OnceLock<IntCounter>; 100]>>; 6]);

impl CodeTable {
    /// `None` for a status of 600 and more, which some backends make up.
    pub(super) fn counter(
        &self,
        status: u16,
        make: impl FnOnce() -> IntCounter,
    ) -> Option<&IntCounter> {
        let hundred = self.0.get(usize::from(status / 100))?;
        let codes = hundred.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        Some(codes.get(usize::from(status % 100))?.get_or_init(make))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn requests(metrics: &Metrics, labels: [&str; 3]) -> u64 {
        metrics.http_requests.with_label_values(&labels).get()
    }

    #[test]
    fn a_request_counts_under_its_route_method_and_code() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("api");
        let again = metrics.route("api");
        for counter in [&route, &route, &again] {
            counter.answered("GET", 200, Duration::from_millis(2));
        }
        route.answered("POST", 502, Duration::ZERO);
        assert_eq!(requests(&metrics, ["api", "GET", "200"]), 3);
        assert_eq!(requests(&metrics, ["api", "POST", "502"]), 1);
        let duration = metrics.http_request_duration.with_label_values(&["api"]);
        assert_eq!(duration.get_sample_count(), 4);
    }

    #[test]
    fn a_made_up_method_is_other_and_a_made_up_status_still_counts() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("api");
        for method in ["BREW", "get", "", "other"] {
            route.answered(method, 418, Duration::ZERO);
        }
        route.answered("GET", 999, Duration::ZERO);
        route.answered("GET", 999, Duration::ZERO);
        assert_eq!(requests(&metrics, ["api", "other", "418"]), 4);
        assert_eq!(requests(&metrics, ["api", "GET", "999"]), 2);
    }

    #[test]
    fn every_decision_counts_under_its_own_name() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("api");
        for (index, result) in AuthResult::ALL.into_iter().enumerate() {
            for _ in 0..=index {
                route.decided(result);
            }
        }
        for (index, result) in AuthResult::ALL.into_iter().enumerate() {
            let counter = metrics.auth_decisions.with_label_values(&["api", result.as_str()]);
            assert_eq!(counter.get(), u64::try_from(index).unwrap() + 1, "{result:?}");
        }
    }
}
