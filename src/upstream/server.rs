//! One server of an upstream: its addresses, which of them take connections, and how many
//! requests are under way to it.
//!
//! An address that refused connections twice in a row rests for a second, then for longer and
//! longer up to half a minute. When the rest is over one request tries it, and the others go on
//! elsewhere until that one has connected.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::observe::IntGauge;
use arc_swap::ArcSwap;

use super::health::Ill;
use super::verdict::{Health, Turn};
use crate::config::HealthCheck;
use crate::observe::{Metrics, ServerMetrics};

/// Failed connections in a row after which an address rests. One alone may be a lost packet or
/// a server that is just being restarted, and would move a hashed client for nothing.
const FAILURES_BEFORE_REST: u32 = 2;

/// The first rest; each failed try after it doubles the next.
const FIRST_REST: Duration = Duration::from_secs(1);

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Addresses kept of one name: what does not fit is left out, so that a name server cannot fill
/// the memory.
const MOST_ADDRESSES: usize = 64;

/// A point on the monotonic clock, in milliseconds; never 0.
pub(super) type Millis = u64;

/// Now, on the monotonic clock.
pub(super) fn now() -> Millis {
    since_start(Instant::now())
}

/// This instant, on the monotonic clock.
pub(super) fn since_start(now: Instant) -> Millis {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(now.saturating_duration_since(*START)).saturating_add(1)
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// One server of an upstream. Lives over reloads as long as its upstream names its address.
#[derive(Debug)]
pub struct Server {
    name: Arc<str>,
    upstream: Arc<str>,
    addresses: ArcSwap<Vec<Arc<Address>>>,
    turn: AtomicUsize,
    in_flight: AtomicUsize,
    up: IntGauge,
    counts: ServerMetrics,
}

impl Server {
    pub(super) fn new(
        upstream: &str,
        name: &str,
        addresses: &[SocketAddr],
        metrics: &Metrics,
    ) -> Self {
        let server = Self {
            name: name.into(),
            upstream: upstream.into(),
            addresses: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            // First: from now on nobody takes its rows away.
            counts: metrics.server(upstream, name),
            up: metrics.upstream_up.with_label_values(&[upstream, name]),
        };
        server.set_addresses(addresses);
        server
    }

    /// The address as the operator wrote it: the label `server` of metrics and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `wxgate_upstream_up` says of it.
    pub fn is_up(&self) -> bool {
        self.up.get() == 1
    }

    /// The name of its upstream.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Where attempts at it are counted.
    pub fn counts(&self) -> &ServerMetrics {
        &self.counts
    }

    /// Requests that were picked for it and have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether its name has been found, if it is a name, and one of its addresses is well.
    pub(super) fn may_be_asked(&self) -> bool {
        self.addresses.load().iter().any(|address| !address.is_ill())
    }

    /// Takes the answer of a health check down; `check` says how many in a row make a verdict. The
    /// very first makes one alone.
    pub(super) fn judge(&self, socket: SocketAddr, answer: Result<(), Ill>, check: &HealthCheck) {
        let addresses = self.addresses.load();
        let Some(address) = addresses.iter().find(|address| address.socket == socket) else {
            return;
        };
        let (upstream, name) = (&self.upstream, &self.name);
        match answer {
            Ok(()) => {
                if address.health.good(check.healthy) == Turn::Turned {
                    log::info!("upstream {upstream}: {name} ({socket}) is well");
                }
                // It takes connections, so whatever rest it had is over.
                address.connected();
            }
            Err(ill) => {
                if address.health.bad(check.unhealthy) == Turn::Turned {
                    log::warn!(
                        "upstream {upstream}: {name} ({socket}) is not well: {ill}; it gets no \
                         requests until it is"
                    );
                }
            }
        }
        self.tell_metrics();
    }

    /// No health check tells of it any more, so that it counts as well.
    pub(super) fn is_not_checked(&self) {
        for address in self.addresses.load().iter() {
            address.health.forget();
        }
        self.tell_metrics();
    }

    /// Whether one of its addresses takes connections, or may be tried again.
    pub(super) fn is_available(&self, now: Millis) -> bool {
        let takes =
            |address: &Arc<Address>| !address.is_ill() && address.state(now) != State::Resting;
        self.addresses.load().iter().any(takes)
    }

    /// The next address in turn that is available.
    pub(super) fn take(&self, now: Millis) -> Option<Taken> {
        let addresses = self.addresses.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len())?;
        let in_turn = addresses.iter().cycle().skip(turn).take(addresses.len());
        in_turn.into_iter().find_map(|address| Address::take(address, now))
    }

    /// When its least recently failed address failed; `None` without any that is well.
    pub(super) fn least_recent_failure(&self) -> Option<Millis> {
        let addresses = self.addresses.load();
        let well = addresses.iter().filter(|address| !address.is_ill());
        well.map(|address| address.failed_at()).min()
    }

    /// The address that failed the longest time ago, resting or not.
    pub(super) fn take_least_recently_failed(&self) -> Option<Taken> {
        let addresses = self.addresses.load();
        let well = addresses.iter().filter(|address| !address.is_ill());
        let address = well.min_by_key(|address| address.failed_at())?;
        Some(Taken { address: Arc::clone(address), trial: Trial::No })
    }

    /// Replaces the addresses; one that stays keeps what is known of it. None keeps the old:
    /// the last good ones are better than nothing.
    pub(super) fn set_addresses(&self, found: &[SocketAddr]) {
        let old = self.addresses.load();
        let mut new: Vec<Arc<Address>> = Vec::with_capacity(found.len().min(MOST_ADDRESSES));
        for socket in found {
            if new.len() < MOST_ADDRESSES && new.iter().all(|known| known.socket != *socket) {
                let known = old.iter().find(|known| known.socket == *socket).cloned();
                new.push(known.unwrap_or_else(|| Arc::new(Address::new(*socket))));
            }
        }
        if !new.is_empty() {
            self.addresses.store(Arc::new(new));
        }
        self.tell_metrics();
    }

    /// What its name was found to be, at the last time that anything was found.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.load().iter().map(|address| address.socket).collect()
    }

    pub(super) fn failed_to_connect(&self, taken: &Taken, now: Millis) {
        if let Some(rest) = taken.address.failed(&taken.trial, now) {
            log::warn!(
                "upstream {}: {} ({}) takes no connections; it is tried again in {} s",
                self.upstream,
                self.name,
                taken.address.socket,
                rest.as_secs()
            );
            self.tell_metrics();
        }
    }

    pub(super) fn connected(&self, taken: &Taken) {
        if taken.address.connected() {
            log::info!(
                "upstream {}: {} ({}) takes connections again",
                self.upstream,
                self.name,
                taken.address.socket
            );
            self.tell_metrics();
        }
    }

    fn tell_metrics(&self) {
        let up =
            self.addresses.load().iter().any(|address| !address.has_rest() && !address.is_ill());
        self.up.set(up.into());
    }
}

/// An address that a request was given.
#[derive(Debug)]
pub(super) struct Taken {
    address: Arc<Address>,
    trial: Trial,
}

impl Taken {
    pub(super) fn socket(&self) -> SocketAddr {
        self.address.socket
    }
}

/// Whether a request is the one that tries a rested address again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InUse,
    /// Its rest is over, one request may try it.
    Rested,
    Resting,
}

#[derive(Debug)]
struct Address {
    socket: SocketAddr,
    /// Failed connections since the last good one, stragglers of a rest left out.
    failures: AtomicU32,
    /// When it failed last; 0: never.
    failed_at: AtomicU64,
    /// When its rest is over; 0: it has none.
    rests_until: AtomicU64,
    /// What the health check says of it.
    health: Health,
}

impl Address {
    fn new(socket: SocketAddr) -> Self {
        Self {
            socket,
            failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            health: Health::default(),
        }
    }

    fn is_ill(&self) -> bool {
        self.health.is_ill()
    }

    fn failed_at(&self) -> Millis {
        self.failed_at.load(Ordering::Relaxed)
    }

    fn has_rest(&self) -> bool {
        self.rests_until.load(Ordering::Relaxed) != 0
    }

    fn state(&self, now: Millis) -> State {
        match self.rests_until.load(Ordering::Relaxed) {
            0 => State::InUse,
            until if now >= until => State::Rested,
            _ => State::Resting,
        }
    }

    fn take(this: &Arc<Self>, now: Millis) -> Option<Taken> {
        if this.is_ill() {
            return None;
        }
        let trial = match this.state(now) {
            State::InUse => Trial::No,
            State::Rested if this.claim_trial(now) => Trial::Yes,
            State::Rested | State::Resting => return None,
        };
        Some(Taken { address: Arc::clone(this), trial })
    }

    /// Rests again for as long, so that one request finds out and not all of them; if that
    /// request never tells, the next one may try after the rest.
    fn claim_trial(&self, now: Millis) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        let again = now.saturating_add(millis(rest_after(self.failures.load(Ordering::Relaxed))));
        until != 0
            && now >= until
            && self
                .rests_until
                .compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Notes a failed connection. Tells how long the rest is that begins with it, if one does.
    fn failed(&self, trial: &Trial, now: Millis) -> Option<Duration> {
        self.failed_at.store(now, Ordering::Relaxed);
        // Many requests may fail at once; those that began before the rest say nothing new.
        if self.has_rest() && *trial == Trial::No {
            return None;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < FAILURES_BEFORE_REST {
            return None;
        }
        let rest = rest_after(failures);
        self.rests_until.store(now.saturating_add(millis(rest)), Ordering::Relaxed);
        Some(rest)
    }

    /// Notes a good connection. Tells whether it ends a rest.
    fn connected(&self) -> bool {
        // The common case writes nothing, so that cores do not fight over the line.
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.rests_until.swap(0, Ordering::Relaxed) != 0
    }
}

fn rest_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(FAILURES_BEFORE_REST).min(16);
    FIRST_REST.saturating_mul(1 << doublings).min(LONGEST_REST)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::observe::Attempted;

    const FIRST: &str = "127.0.0.1:8081";
    const SECOND: &str = "127.0.0.2:8081";

    fn server(addresses: &[&str]) -> (Server, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        (Server::new("php", "php.test:8081", &addresses, &metrics), metrics)
    }

    fn fail(server: &Server, now: Millis) {
        let taken = server.take(now).unwrap();
        server.failed_to_connect(&taken, now);
    }

    fn up(metrics: &Metrics) -> i64 {
        metrics.upstream_up.with_label_values(&["php", "php.test:8081"]).get()
    }

    #[test]
    fn one_failed_connection_changes_nothing() {
        let (server, metrics) = server(&[FIRST]);
        fail(&server, 10);
        assert!(server.is_available(10));
        assert_eq!(up(&metrics), 1);
    }

    #[test]
    fn two_failed_connections_in_a_row_make_a_rest_of_a_second() {
        let (server, metrics) = server(&[FIRST]);
        fail(&server, 10);
        fail(&server, 20);
        assert!(!server.is_available(20));
        assert!(!server.is_available(1_019));
        assert!(server.take(1_019).is_none());
        assert!(server.is_available(1_020));
        assert_eq!(up(&metrics), 0);
    }

    #[test]
    fn a_good_connection_between_two_failed_ones_prevents_the_rest() {
        let (server, _) = server(&[FIRST]);
        fail(&server, 10);
        server.connected(&server.take(11).unwrap());
        fail(&server, 12);
        assert!(server.is_available(12));
    }

    #[test]
    fn after_a_rest_one_request_alone_tries_the_address() {
        let (server, metrics) = server(&[FIRST]);
        fail(&server, 10);
        fail(&server, 10);
        let trial = server.take(1_010).unwrap();
        assert!(server.take(1_010).is_none(), "the second request goes elsewhere");
        server.connected(&trial);
        assert_eq!(up(&metrics), 1);
        assert!(server.take(1_011).is_some());
    }

    #[test]
    fn a_trial_that_never_reports_is_followed_by_another() {
        let (server, _) = server(&[FIRST]);
        fail(&server, 10);
        fail(&server, 10);
        drop(server.take(1_010).unwrap());
        assert!(server.take(2_009).is_none());
        assert!(server.take(2_010).is_some());
    }

    #[test]
    fn rests_double_up_to_half_a_minute() {
        let (server, _) = server(&[FIRST]);
        let mut now = 10;
        fail(&server, now);
        fail(&server, now);
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert!(!server.is_available(now + seconds * 1_000 - 1), "{seconds} s");
            now += seconds * 1_000;
            fail(&server, now);
        }
    }

    #[test]
    fn a_hundred_requests_that_fail_at_once_make_one_short_rest() {
        let (server, _) = server(&[FIRST]);
        let all: Vec<Taken> = (0..100).map(|_| server.take(10).unwrap()).collect();
        for taken in &all {
            server.failed_to_connect(taken, 20);
        }
        assert!(server.is_available(1_020));
    }

    #[test]
    fn the_addresses_of_a_name_take_turns_and_a_resting_one_is_passed_over() {
        let (server, metrics) = server(&[FIRST, SECOND]);
        let first = server.take(1).unwrap();
        let second = server.take(1).unwrap();
        assert_ne!(first.socket(), second.socket());
        server.failed_to_connect(&first, 1);
        server.failed_to_connect(&first, 1);
        for _ in 0..4 {
            assert_eq!(server.take(2).unwrap().socket(), second.socket());
        }
        assert_eq!(up(&metrics), 1, "one address is enough");
    }

    #[test]
    fn new_addresses_keep_what_is_known_of_those_that_stay_and_none_changes_nothing() {
        let (server, _) = server(&[FIRST]);
        fail(&server, 10);
        fail(&server, 10);
        server.set_addresses(&[FIRST.parse().unwrap(), SECOND.parse().unwrap()]);
        assert_eq!(server.take(20).unwrap().socket(), SECOND.parse().unwrap());
        server.set_addresses(&[]);
        assert_eq!(server.addresses().len(), 2);
    }

    #[test]
    fn a_server_that_is_gone_is_no_longer_reported() {
        let (server, metrics) = server(&[FIRST]);
        server.counts().attempted(Attempted::Status(200), Duration::ZERO);
        assert!(metrics.render().contains("php.test:8081"));
        drop(server);
        assert!(!metrics.render().contains("php.test:8081"));
    }
}
