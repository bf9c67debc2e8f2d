//! The metrics of one server of an upstream, prepared so that an attempt counts without hashing
//! labels.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

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

/// The servers that are reported, by upstream and name, and how many hold each: a reload may make
/// a server anew while requests to the one before it are still under way.
#[derive(Debug, Default)]
pub(super) struct Reported(Mutex<HashMap<(String, String), usize>>);

/// Everything that is told of servers.
#[derive(Clone)]
struct Tables {
    requests: IntCounterVec,
    duration: HistogramVec,
    retries: IntCounterVec,
    up: IntGaugeVec,
}

impl Tables {
    /// Takes a server out of all of them. The rows are there, so that no error can happen.
    fn forget(&self, upstream: &str, server: &str) {
        for family in self.requests.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    let pair = metric.get_label().iter().find(|pair| pair.name() == name);
                    pair.map_or("", |pair| pair.value())
                };
                if (label("upstream"), label("server")) == (upstream, server) {
                    let row = [upstream, server, label("code")];
                    drop(self.requests.remove_label_values(&row));
                }
            }
        }
        drop(self.retries.remove_label_values(&[upstream, server]));
        drop(self.up.remove_label_values(&[upstream, server]));
    }
}

/// Counts the attempts at one server. What it is the last to count is no longer reported once it
/// is dropped: a server that the configuration no longer names is forgotten. Cheap to count with: no lock once a status has been seen.
pub struct ServerMetrics {
    tables: Tables,
    reported: Arc<Reported>,
    upstream: String,
    server: String,
    codes: CodeTable,
    duration: Histogram,
    retries: IntCounter,
}

impl ServerMetrics {
    pub(super) fn new(metrics: &Metrics, upstream: &str, server: &str) -> Self {
        let reported = Arc::clone(&metrics.reported);
        let pair = (upstream.to_owned(), server.to_owned());
        *reported.0.lock().unwrap_or_else(PoisonError::into_inner).entry(pair).or_default() += 1;
        let tables = Tables {
            requests: metrics.upstream_requests.clone(),
            duration: metrics.upstream_request_duration.clone(),
            retries: metrics.upstream_retries.clone(),
            up: metrics.upstream_up.clone(),
        };
        // Of many codes the usual one, so that the server is reported from the start.
        metrics.upstream_requests.with_label_values(&[upstream, server, "200"]);
        Self {
            tables,
            reported,
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
        self.tables.requests.with_label_values(&[
            self.upstream.as_str(),
            self.server.as_str(),
            code,
        ])
    }
}

impl Drop for ServerMetrics {
    fn drop(&mut self) {
        // Held until all is done, so that a server of the same name is counted before or after.
        let mut reported = self.reported.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (std::mem::take(&mut self.upstream), std::mem::take(&mut self.server));
        let held = reported.get(&pair).copied().unwrap_or_default();
        if held > 1 {
            reported.insert(pair, held - 1);
            return;
        }
        reported.remove(&pair);
        let (upstream, server) = &pair;
        self.tables.forget(upstream, server);
        if !reported.keys().any(|(other, _)| other == upstream) {
            drop(self.tables.duration.remove_label_values(&[upstream]));
        }
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

    #[test]
    fn a_server_is_forgotten_when_the_last_that_counts_at_it_is_gone() {
        let metrics = Metrics::new().unwrap();
        let old = metrics.server("php", "a:1");
        let other = metrics.server("php", "b:1");
        old.attempted(Attempted::Status(200), Duration::ZERO);
        old.attempted(Attempted::Status(799), Duration::ZERO);
        let new = metrics.server("php", "a:1");
        drop(old);
        new.attempted(Attempted::Connect, Duration::ZERO);
        assert_eq!(metrics.render().matches("server=\"a:1\"").count(), 4, "one for each code");
        drop(new);
        let report = metrics.render();
        assert!(!report.contains("a:1") && report.contains("b:1"), "{report}");
        assert!(report.contains("wxgate_upstream_request_duration_seconds_count"));
        drop(other);
        let report = metrics.render();
        assert!(!report.contains("upstream=\"php\""), "{report}");
    }
}
