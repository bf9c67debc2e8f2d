//! The one HTTP client for WeChat: pooled, bounded, and never sending anything twice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::answer::{self, Answer};
use super::circuit::{Circuit, Reached, Turn};
use super::errcode::{Labels, Outage, WechatError};
use crate::config;
use crate::observe::Metrics;

/// Calls that may wait for a place, for each that may be under way. A burst of logins is
/// smoothed, an avalanche is refused at once.
const WAITING_PER_PLACE: usize = 4;

/// The longest that a call waits for a place. At the tenth of a second that an exchange takes, the
/// whole queue passes within it; when it does not, WeChat is slow, and a user is better told to
/// come back than kept waiting.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Idle connections are closed before WeChat closes them, so that a request does not meet a
/// connection that is just going away.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// One API of WeChat: where it is, and whether it answers lately.
#[derive(Debug)]
pub(super) struct Line {
    path: &'static str,
    circuit: Circuit,
}

impl Line {
    pub(super) fn to(path: &'static str) -> Self {
        Self { path, circuit: Circuit::default() }
    }

    /// The last part of the path: the `api` label of metrics.
    pub(super) fn api(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// What is sent: the query, and for a POST the body.
pub(super) struct Parcel<'a> {
    /// For which app; only for the log.
    pub(super) appid: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a Value>,
}

/// Calls WeChat within the limits of `[wechat]`.
pub(super) struct Client {
    http: reqwest::Client,
    hosts: Vec<Url>,
    timeout: Duration,
    /// Fair: first come, first served.
    places: Semaphore,
    queue: Semaphore,
    labels: Labels,
    metrics: Arc<Metrics>,
}

impl Client {
    /// Makes the client; nothing is sent.
    ///
    /// # Errors
    /// `Setup` where HTTPS is wanted and the machine has no root certificates.
    pub(super) fn new(config: &config::Wechat, metrics: Arc<Metrics>) -> Result<Self, WechatError> {
        // The first provider of a process stays; another room may have installed it before.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            log::debug!("a TLS provider was installed before");
        }
        let hosts = config.api_base.clone();
        let in_turn = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wxgate/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // Every host gets its turn to connect, and a quarter of the time is left to answer.
            .connect_timeout(config.timeout * 3 / 4 / in_turn)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(config.max_concurrent);
        if hosts.iter().all(|host| host.scheme() == "http") {
            // A sandbox on plain HTTP needs no root certificates, and a small container has none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| WechatError::Setup(error.to_string()))?;
        let places = config.max_concurrent.min(Semaphore::MAX_PERMITS / (WAITING_PER_PLACE + 1));
        Ok(Self {
            http,
            hosts,
            timeout: config.timeout,
            places: Semaphore::new(places),
            queue: Semaphore::new(places * (WAITING_PER_PLACE + 1)),
            labels: Labels::default(),
            metrics,
        })
    }

    /// Reports the calls of an API from now on, before there is any.
    pub(super) fn announce(&self, line: &Line) {
        for errcode in ["0", "timeout", "transport", "malformed"] {
            self.metrics.wechat_requests.with_label_values(&[line.api(), errcode]);
        }
        self.metrics.wechat_request_duration.with_label_values(&[line.api()]);
    }

    /// Makes one call, at most once, and reads a good answer by `read`. Waits at most
    /// [`LONGEST_WAIT`] for a place, and `wechat.timeout` for the whole answer. What fails is logged
    /// and counted here, so that it is known once however many callers share it.
    ///
    /// # Errors
    /// `Unavailable` without an answer, `Malformed` for one that cannot be read, else what its
    /// errcode stands for.
    pub(super) async fn call<T>(
        &self,
        line: &Line,
        parcel: Parcel<'_>,
        read: impl FnOnce(&Answer) -> Result<T, WechatError>,
    ) -> Result<T, WechatError> {
        let busy = |_| WechatError::unavailable(Outage::Overloaded);
        let _queued = self.queue.try_acquire().map_err(busy)?;
        let place = tokio::time::timeout(LONGEST_WAIT, self.places.acquire()).await;
        let _place = place
            .map_err(|_| WechatError::unavailable(Outage::Overloaded))?
            .map_err(|_| WechatError::unavailable(Outage::Stopping))?;
        // Asked for after the wait: what is queued when the circuit opens is let go at once.
        line.circuit.admit().map_err(|pause| WechatError::Unavailable {
            why: Outage::CircuitOpen,
            retry_after: pause,
        })?;
        let timer = self.metrics.wechat_request_duration.with_label_values(&[line.api()]);
        let timer = timer.start_timer();
        let attempt = tokio::time::timeout(self.timeout, self.attempt(line, &parcel)).await;
        timer.observe_duration();
        let answer = attempt.unwrap_or(Err(WechatError::unavailable(Outage::Timeout)));
        let rid = answer.as_ref().ok().and_then(Answer::rid).unwrap_or("none");
        let result = match &answer {
            Ok(answer) => answer.good().and_then(read),
            Err(error) => Err(error.clone()),
        };
        self.record(line, result.as_ref().err());
        if let Err(error) = &result {
            log::log!(
                level(error),
                "wechat {} for {}: {error}; rid {rid}",
                line.api(),
                parcel.appid
            );
        }
        result
    }

    /// Tries the hosts in turn. The next one only where no connection could be made: once
    /// bytes went out, a code may be used up.
    async fn attempt(&self, line: &Line, parcel: &Parcel<'_>) -> Result<Answer, WechatError> {
        for host in &self.hosts {
            let url = address(host, line, parcel.query);
            let request = match parcel.body {
                None => self.http.get(url),
                Some(body) => self.http.post(url).json(body),
            };
            match request.send().await {
                Ok(response) => return answer::read(response).await,
                // Not the error's own text anywhere: its URL holds the secret.
                Err(error) if error.is_connect() => {
                    let name = host.host_str().unwrap_or_default();
                    log::warn!("wechat {}: no connection to {name}", line.api());
                }
                Err(error) if error.is_timeout() => {
                    return Err(WechatError::unavailable(Outage::Timeout));
                }
                Err(_) => return Err(WechatError::unavailable(Outage::Broken)),
            }
        }
        Err(WechatError::unavailable(Outage::Unreachable))
    }

    fn record(&self, line: &Line, error: Option<&WechatError>) {
        let reached = match error {
            Some(WechatError::Unavailable { .. }) => Reached::No,
            Some(_) | None => Reached::Yes,
        };
        if line.circuit.settle(reached) == Turn::Opened {
            log::error!("wechat {}: no answer for several calls; pausing", line.api());
        }
        let label = match error {
            None => self.labels.of(0),
            Some(WechatError::Unavailable { why: Outage::Timeout, .. }) => "timeout".to_owned(),
            Some(WechatError::Unavailable { .. }) => "transport".to_owned(),
            Some(error) => error
                .errcode()
                .map_or_else(|| "malformed".to_owned(), |errcode| self.labels.of(errcode)),
        };
        self.metrics.wechat_requests.with_label_values(&[line.api(), label.as_str()]).inc();
    }
}

/// Loud where only the operator can mend it, quiet where the client did it.
const fn level(error: &WechatError) -> log::Level {
    match error {
        WechatError::Misconfigured { .. }
        | WechatError::QuotaExhausted { .. }
        | WechatError::Setup(_) => log::Level::Error,
        WechatError::Unavailable { .. }
        | WechatError::Malformed(_)
        | WechatError::Unexpected { .. }
        | WechatError::RateLimited { .. }
        | WechatError::Busy { .. } => log::Level::Warn,
        WechatError::InvalidCode
        | WechatError::UnknownApp
        | WechatError::CodeRefused { .. }
        | WechatError::UserRefused { .. }
        | WechatError::SnapshotUser
        | WechatError::Watermark(_)
        | WechatError::SessionKeyInvalid { .. } => log::Level::Info,
    }
}

/// The URL of a call. The encoder of the query keeps a value from becoming a parameter.
fn address(host: &Url, line: &Line, query: &[(&str, &str)]) -> Url {
    let mut url = host.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(line.path.split('/').skip(1));
    }
    url.set_query(None);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn https_needs_no_tls_provider_from_elsewhere() {
        let config = config::Wechat {
            api_base: vec![Url::parse("https://api.weixin.qq.com").unwrap()],
            open_base: Url::parse("https://open.weixin.qq.com").unwrap(),
            timeout: Duration::from_secs(3),
            max_concurrent: 256,
        };
        let client = Client::new(&config, Arc::new(Metrics::new().unwrap()));
        // A machine without root certificates is told so; a missing provider would panic.
        assert!(matches!(client, Ok(_) | Err(WechatError::Setup(_))));
    }

    #[test]
    fn a_value_cannot_become_a_parameter_and_a_path_of_the_base_is_kept() {
        let line = Line::to("/sns/jscode2session");
        let query = [("appid", "wx1"), ("js_code", "x&appid=wx2#f")];
        for (base, path) in [
            ("http://127.0.0.1:1", "/sns/jscode2session"),
            ("http://127.0.0.1:1/relay/", "/relay/sns/jscode2session"),
            ("http://127.0.0.1:1/relay", "/relay/sns/jscode2session"),
        ] {
            let url = address(&Url::parse(base).unwrap(), &line, &query);
            assert_eq!(url.path(), path);
            let pairs: Vec<_> = url.query_pairs().into_owned().collect();
            let sent = query.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(pairs, sent);
            assert_eq!(url.fragment(), None);
        }
        assert_eq!(line.api(), "jscode2session");
    }
}
