//! Every metric in one table.
//!
//! Labels hold only values from closed sets (configured names, status codes, results): never a
//! path, an openid or anything else that a client chooses.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::route_metrics::RouteMetrics;
use super::server_metrics::{Reported, ServerMetrics};

/// All metrics of one gateway. Made once per process; a reload keeps it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Beside the table, since its names carry no `wxgate_`.
    process: Registry,
    pub(super) reported: Arc<Reported>,
    /// `route`, `method`, `code`
    pub http_requests: IntCounterVec,
    /// `route`
    pub http_request_duration: HistogramVec,
    /// Requests being answered now.
    pub http_requests_in_flight: IntGauge,
    /// `route`, `result`: ok, guest, public, missing, invalid, expired, revoked, forbidden
    pub auth_decisions: IntCounterVec,
    /// `result`: hit, miss
    pub token_cache: IntCounterVec,
    /// `appid` (configured or `unknown`), `result`: ok, invalid_grant, denied, rate_limited,
    /// unavailable, error
    pub logins: IntCounterVec,
    /// `api` (last part of its path), `errcode` (`0`, WeChat's number, `timeout`, `transport`,
    /// `malformed`)
    pub wechat_requests: IntCounterVec,
    /// `api`
    pub wechat_request_duration: HistogramVec,
    /// `appid` (configured): when its access_token was fetched, in Unix seconds
    pub wechat_access_token_timestamp: IntGaugeVec,
    /// Sessions that are open.
    pub sessions_active: IntGauge,
    /// 1: logins are served and other nodes are heard; as of the last scrape.
    pub store_up: IntGauge,
    /// `store`, `operation`
    pub store_errors: IntCounterVec,
    /// `store`, `operation`
    pub store_request_duration: HistogramVec,
    /// `upstream`, `server`, `code` (a status, or `connect`, `timeout`, `reset`)
    pub upstream_requests: IntCounterVec,
    /// `upstream`
    pub upstream_request_duration: HistogramVec,
    /// `upstream`, `server`: 1 up, 0 down
    pub upstream_up: IntGaugeVec,
    /// `upstream`, `server`
    pub upstream_retries: IntCounterVec,
    /// `result`: ok, error
    pub config_reloads: IntCounterVec,
    /// 1 if the last reload was taken, else 0.
    pub config_last_reload_success: IntGauge,
    /// Connections of clients that are open.
    pub connections_open: IntGauge,
    /// `limit`: total, address
    pub connections_refused: IntCounterVec,
    /// `certificate` (its configured file): when it runs out, in seconds since 1970. Not reported
    /// without TLS.
    pub tls_certificate_expiry: IntGaugeVec,
    /// Access-log lines that were dropped: the queue was full or the disk refused.
    pub access_log_dropped: IntCounter,
}

const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Only if two rows of the table have one name, which a test rules out.
    #[expect(clippy::too_many_lines, reason = "a table: one row for each metric")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let table = Table(Registry::new_custom(Some("wxgate".to_owned()), None)?);
        table.build_info()?;
        let metrics = Self {
            http_requests: table.counters(
                "http_requests_total",
                "Requests answered.",
                &["route", "method", "code"],
            )?,
            http_request_duration: table.seconds(
                "http_request_duration_seconds",
                "From the first byte of a request to the last of its answer.",
                &["route"],
            )?,
            http_requests_in_flight: table
                .gauge("http_requests_in_flight", "Requests being answered now.")?,
            auth_decisions: table.counters(
                "auth_decisions_total",
                "What became of a request's authentication.",
                &["route", "result"],
            )?,
            token_cache: table.counters(
                "token_cache_total",
                "Look-ups in the cache of verified tokens.",
                &["result"],
            )?,
            logins: table.counters("logins_total", "Logins by result.", &["appid", "result"])?,
            wechat_requests: table.counters(
                "wechat_requests_total",
                "Calls to WeChat by errcode.",
                &["api", "errcode"],
            )?,
            wechat_request_duration: table.seconds(
                "wechat_request_duration_seconds",
                "How long WeChat took to answer.",
                &["api"],
            )?,
            wechat_access_token_timestamp: table.gauges(
                "wechat_access_token_timestamp_seconds",
                "When the access_token was fetched; its age is time() minus this.",
                &["appid"],
            )?,
            sessions_active: table.gauge("sessions_active", "Sessions that are open.")?,
            store_up: table.gauge(
                "store_up",
                "1: the session store serves logins and tells what other nodes end; 0: it does not.",
            )?,
            store_errors: table.counters(
                "store_errors_total",
                "Calls to the session store that failed.",
                &["store", "operation"],
            )?,
            store_request_duration: table.seconds(
                "store_request_duration_seconds",
                "How long the session store took.",
                &["store", "operation"],
            )?,
            upstream_requests: table.counters(
                "upstream_requests_total",
                "Attempts to forward a request.",
                &["upstream", "server", "code"],
            )?,
            upstream_request_duration: table.seconds(
                "upstream_request_duration_seconds",
                "From the choice of a server to the head of its answer.",
                &["upstream"],
            )?,
            upstream_up: table.gauges(
                "upstream_up",
                "Whether a server is used: 1 yes, 0 no.",
                &["upstream", "server"],
            )?,
            upstream_retries: table.counters(
                "upstream_retries_total",
                "Attempts after the first.",
                &["upstream", "server"],
            )?,
            config_reloads: table.counters(
                "config_reloads_total",
                "Reloads by result.",
                &["result"],
            )?,
            config_last_reload_success: table
                .gauge("config_last_reload_success", "1 if the last reload was taken, else 0.")?,
            connections_open: table.gauge("connections_open", "Clients' open connections.")?,
            connections_refused: table.counters(
                "connections_refused_total",
                "Connections closed at once: too many in all or from one address.",
                &["limit"],
            )?,
            tls_certificate_expiry: table.gauges(
                "tls_certificate_expiry_seconds",
                "When the certificate expires, in seconds since 1970.",
                &["certificate"],
            )?,
            access_log_dropped: table.counter(
                "access_log_dropped_total",
                "Lines dropped: queue full or disk refused.",
            )?,
            process: process()?,
            reported: Arc::default(),
            registry: table.0,
        };
        metrics.config_last_reload_success.set(1);
        // Reported before anything happens, so that the first of each is an increase. The rows of
        // routes, servers, stores and apps are made where these are.
        for result in ["ok", "error"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        for result in ["hit", "miss"] {
            metrics.token_cache.with_label_values(&[result]);
        }
        for limit in ["total", "address"] {
            metrics.connections_refused.with_label_values(&[limit]);
        }
        Ok(metrics)
    }

    /// The metrics of one route, ready to count without looking labels up.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        RouteMetrics::new(self, name)
    }

    /// The metrics of one server of an upstream, ready to count without looking labels up.
    pub fn server(&self, upstream: &str, server: &str) -> ServerMetrics {
        ServerMetrics::new(self, upstream, server)
    }

    /// All metrics in Prometheus' text format, `process_*` among them.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        for registry in [&self.registry, &self.process] {
            if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
                log::error!("metrics could not be written: {error}");
            }
        }
        text
    }
}

fn process() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Registers what it makes, so that a row of the table cannot be forgotten.
struct Table(Registry);

impl Table {
    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let build_info = self.gauges("build_info", "Always 1.", &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(())
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn seconds(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fmt::Write as _;

    use prometheus::proto::MetricType;

    use super::*;

    #[test]
    fn a_scrape_holds_our_metrics_and_those_of_the_process_each_under_its_name() {
        let metrics = Metrics::new().unwrap();
        metrics.token_cache.with_label_values(&["hit"]).inc();
        let text = metrics.render();
        assert!(text.contains("\nwxgate_token_cache_total{result=\"hit\"} 1\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert!(!text.contains("wxgate_process_"), "{text}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.contains(&format!("wxgate_build_info{{version=\"{version}\"}} 1\n")));
    }

    /// What the `Metrics` of this version hold. No `..`: a new field must be listed.
    fn collectors(metrics: Metrics) -> Vec<Box<dyn Collector>> {
        let Metrics {
            registry: _,
            process: _,
            reported: _,
            http_requests,
            http_request_duration,
            http_requests_in_flight,
            auth_decisions,
            token_cache,
            logins,
            wechat_requests,
            wechat_request_duration,
            sessions_active,
            store_up,
            store_errors,
            store_request_duration,
            upstream_requests,
            upstream_request_duration,
            upstream_up,
            upstream_retries,
            config_reloads,
            config_last_reload_success,
            connections_open,
            connections_refused,
            tls_certificate_expiry,
            access_log_dropped,
            wechat_access_token_timestamp,
        } = metrics;
        vec![
            Box::new(http_requests),
            Box::new(http_request_duration),
            Box::new(http_requests_in_flight),
            Box::new(auth_decisions),
            Box::new(token_cache),
            Box::new(logins),
            Box::new(wechat_requests),
            Box::new(wechat_request_duration),
            Box::new(sessions_active),
            Box::new(store_up),
            Box::new(store_errors),
            Box::new(store_request_duration),
            Box::new(upstream_requests),
            Box::new(upstream_request_duration),
            Box::new(upstream_up),
            Box::new(upstream_retries),
            Box::new(config_reloads),
            Box::new(config_last_reload_success),
            Box::new(connections_open),
            Box::new(connections_refused),
            Box::new(tls_certificate_expiry),
            Box::new(access_log_dropped),
            Box::new(wechat_access_token_timestamp),
        ]
    }

    #[test]
    fn docs_metrics_md_is_what_the_table_says() {
        let mut page = "# Metrics\n\n\
            `GET /metrics` on the admin listener, in Prometheus' text format. Labels hold values \
            from closed sets only: configured names, status codes, results. What a client chooses \
            becomes `other` (methods) or `unknown` (appids).\n\n\
            | name | type | labels | meaning |\n\
            | --- | --- | --- | --- |\n\
            | `wxgate_build_info` | gauge | `version` | Always 1. |\n"
            .to_owned();
        for collector in collectors(Metrics::new().unwrap()) {
            let desc = collector.desc().into_iter().next().unwrap().clone();
            let kind = match collector.collect().first().unwrap().get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY | MetricType::UNTYPED => "other",
            };
            let labels: Vec<String> =
                desc.variable_labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, help, labels) = (&desc.fq_name, &desc.help, labels.join(", "));
            writeln!(page, "| `wxgate_{name}` | {kind} | {labels} | {help} |").unwrap();
        }
        page.push_str(
            "\nBesides these, `process_*` as every Prometheus client has them: CPU seconds, \
             resident and virtual memory, open files, start time, threads.\n",
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("WXGATE_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, page, "run `WXGATE_WRITE_DOCS=1 cargo test docs_` to write it anew");
    }
}
