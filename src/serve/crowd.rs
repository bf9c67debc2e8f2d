//! Who is let in: how many connections of clients may be open, in all and from one address.
//!
//! What is too much is closed at once, without an answer: whoever opens connections by the
//! thousand is not worth more work than that, and whoever does not hears of it from a metric and
//! from the log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::config::Server;
use crate::observe::Metrics;
use crate::route::rate::network;

/// How often the log tells of connections that are not let in.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Open files that the gateway itself needs: the store, logs, listeners, connections to WeChat.
const OWN_FILES: u64 = 1024;

/// Takes as many open files as the system allows the process, and says so where those are too few
/// for `limits`. Each connection is one, and one more while a backend is asked.
pub(crate) fn make_room(limits: &Server) {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: allowed.maximum, maximum: allowed.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit on open files stays as it is: {error}");
    }
    let most = limits.max_connections.and_then(|most| u64::try_from(most).ok()).unwrap_or(0);
    if let Some(files) = allowed.maximum.filter(|files| *files < most.saturating_add(OWN_FILES)) {
        log::warn!(
            "server.max_connections is {most}, but the system allows {files} open files; raise \
             LimitNOFILE (systemd) or ulimit -Hn, or lower server.max_connections"
        );
    }
}

/// What of the connections that are open is known: how many, and whose.
#[derive(Debug)]
pub(crate) struct Crowd {
    open: AtomicUsize,
    emptied: Notify,
    /// Only addresses with an open connection stand here. Met when a connection begins and ends,
    /// never by a request.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    refused: Mutex<Refused>,
    metrics: Arc<Metrics>,
}

/// What was not told yet of connections that were not let in.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

/// Which limit a connection was too much for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// `server.max_connections`
    Total,
    /// `server.max_connections_per_address`
    Address,
}

/// A connection that was let in. However it ends, its place is free then.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    address: Option<IpAddr>,
}

impl Crowd {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            emptied: Notify::new(),
            by_address: Mutex::default(),
            refused: Mutex::default(),
            metrics: Arc::clone(metrics),
        })
    }

    /// Lets a connection in, unless there are as many as `limits` allow.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr, limits: &Server) -> Result<Place, Full> {
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        self.metrics.connections_open.inc();
        // From here on its end gives the place back.
        let mut place = Place { crowd: Arc::clone(self), address: None };
        if limits.max_connections.is_some_and(|most| open >= most) {
            return Err(Full::Total);
        }
        let Some(most) = limits.max_connections_per_address else { return Ok(place) };
        // Behind a proxy are many clients, and who they are is not known yet.
        let peer = peer.to_canonical();
        if limits.trusted_proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Ok(place);
        }
        let address = network(peer);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= most {
            drop(by_address);
            return Err(Full::Address);
        }
        *count += 1;
        drop(by_address);
        place.address = Some(address);
        Ok(place)
    }

    /// Counts a connection that was not let in; the log hears of it now and then.
    pub(crate) fn refuse(&self, peer: IpAddr, full: Full) {
        let (label, key) = match full {
            Full::Total => ("total", "max_connections"),
            Full::Address => ("address", "max_connections_per_address"),
        };
        self.metrics.connections_refused.with_label_values(&[label]).inc();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.count += 1;
        if refused.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        let count = std::mem::take(&mut refused.count);
        refused.told = Some(Instant::now());
        drop(refused);
        log::warn!("connections closed at once: {count}, the last from {peer} by server.{key}");
    }

    /// Until no connection is open.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let crowd = &self.crowd;
        if let Some(address) = self.address {
            let mut by_address = crowd.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if let Entry::Occupied(mut entry) = by_address.entry(address) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
        crowd.metrics.connections_open.dec();
        if crowd.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            crowd.emptied.notify_waiters();
        }
    }
}
