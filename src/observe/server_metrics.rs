//! The metrics of one server of an upstream, prepared so that an attempt counts without hashing
//! labels.

use std::fmt;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::metrics::Metrics;
use super::route_metrics::CodeTable;

/// How an attempt to forward a request ended: the `code` of `wxgate_upstream_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The server answered with this status.
    Status(u16),
    /// No connection could be made.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke, or what came was no answer.
    Reset,
    /// The client went away, or the gateway ended the request itself.
    Aborted,
}

/// Counts the attempts at one server. Cheap to count with: no lock once a status has been seen.
pub struct ServerMetrics {
    requests: IntCounterVec,
    upstream: String,
    server: String,
    codes: CodeTable,
    duration: Histogram,
    retries: IntCounter,
}

impl ServerMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str, server: &str) -> Self {
        Self {
            requests: metrics.upstream_requests.clone(),
            upstream: upstream.to_owned(),
            server: server.to_owned(),
            codes: CodeTable::default(),
            duration: metrics.upstream_request_duration.with_label_values(&[upstream]),
            retries: metrics.upstream_retries.with_label_values(&[upstream, server]),
        }
    }

    /// Counts one attempt, and how long it took from the choice of the server.
    pub fn attempted(&self, how: Attempted, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
        match how {
            Attempted::Status(status) => {
                let make = || self.requests(&status.to_string());
                match self.codes.counter(status, make) {
                    Some(counter) => counter.inc(),
                    None => make().inc(),
                }
            }
            Attempted::Connect => self.requests("connect").inc(),
            Attempted::Timeout => self.requests("timeout").inc(),
            Attempted::Reset => self.requests("reset").inc(),
            Attempted::Aborted => self.requests("aborted").inc(),
        }
    }

    /// Counts that a request was tried again, at this server.
    pub fn retried(&self) {
        self.retries.inc();
    }

    fn requests(&self, code: &str) -> IntCounter {
        self.requests.with_label_values(&[self.upstream.as_str(), self.server.as_str(), code])
    }
}

impl fmt::Debug for ServerMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerMetrics")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_an_attempt_has_a_code() {
        let metrics = Metrics::new().unwrap();
        let server = metrics.server("php", "a:1");
        for (how, code) in [
            (Attempted::Status(200), "200"),
            (Attempted::Status(799), "799"),
            (Attempted::Connect, "connect"),
            (Attempted::Timeout, "timeout"),
            (Attempted::Reset, "reset"),
            (Attempted::Aborted, "aborted"),
        ] {
            server.attempted(how, Duration::from_millis(1));
            let counter = metrics.upstream_requests.with_label_values(&["php", "a:1", code]);
            assert_eq!(counter.get(), 1, "{code}");
        }
        server.retried();
        assert_eq!(metrics.upstream_retries.with_label_values(&["php", "a:1"]).get(), 1);
        let durations = metrics.upstream_request_duration.with_label_values(&["php"]);
        assert_eq!(durations.get_sample_count(), 6);
    }
}
