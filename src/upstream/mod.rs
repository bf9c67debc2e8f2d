//! Where a request is sent: which server of an upstream, at which address.

mod balance;
mod budget;
mod health;
mod resolve;
mod server;
mod tls;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balance::{Balancer, Member};
use budget::Budget;
use pingora::upstreams::peer::HttpPeer;
use resolve::{Name, Resolver};
pub use server::Server;
use server::{Millis, Taken};
use tls::Tls;
pub use tls::{BadFile, Spoken};

use crate::config;
use crate::observe::Metrics;

/// No server of the upstream has an address (its names are unknown to the name server) that is
/// well by its health check.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("no server of the upstream has an address that is well")]
pub struct NoServer;

/// What a server is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct PickKey<'a> {
    /// The caller's openid; `None`: a guest.
    pub openid: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
}

/// All upstreams of one configuration.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    names: Vec<Name>,
    resolver: Resolver,
}

impl Upstreams {
    /// Builds the upstreams in the order of [`config::Config::upstreams`]. Servers that
    /// `previous` had under the same upstream and address are kept, with their addresses, their
    /// rests and their requests under way.
    ///
    /// Names are not looked up yet: [`Upstreams::resolve`] does that once,
    /// [`Upstreams::watch`] from then on.
    ///
    /// # Errors
    /// [`BadFile`], if a file of an upstream's `tls` cannot be used.
    pub fn build(
        config: &config::Config,
        previous: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, BadFile> {
        let build = |upstream: &config::Upstream| {
            Upstream::build(upstream.clone(), previous, metrics).map(Arc::new)
        };
        let list: Vec<Arc<Upstream>> =
            config.upstreams.iter().map(build).collect::<Result<_, _>>()?;
        let servers = list.iter().flat_map(|upstream| &upstream.members);
        let names = servers.filter_map(|member| Name::of(&member.server)).collect();
        Ok(Self { list, names, resolver: Resolver::of_the_system() })
    }

    /// The upstream at this position of [`config::Config::upstreams`].
    pub fn get(&self, index: usize) -> Option<&Arc<Upstream>> {
        self.list.get(index)
    }

    /// All upstreams, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.list.iter()
    }

    /// Looks up every host name that has no address yet. Takes 5 s at most; a name that was not
    /// found leaves its server down and a line in the log, and is tried again by
    /// [`Upstreams::watch`].
    pub async fn resolve(&self) {
        let new = self.names.iter().filter(|name| !name.is_known());
        let lookups = new.map(|name| name.look_up(&self.resolver));
        futures_util::future::join_all(lookups).await;
    }

    /// Looks every host name up again as its records expire, and at once when the system's
    /// `hosts` or `resolv.conf` changes; and asks every server that has a health check. The future
    /// is to be spawned; it ends by itself when these upstreams are dropped, so that each reload
    /// spawns its own.
    pub fn watch(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let names = resolve::watch(Arc::downgrade(self), self.names.len());
        let health = health::watch(self);
        async {
            futures_util::future::join(names, health).await;
        }
    }

    fn server(&self, upstream: &str, address: &str) -> Option<&Arc<Server>> {
        let upstream = self.list.iter().find(|known| known.config.name == upstream)?;
        let mut servers = upstream.members.iter().map(|member| &member.server);
        servers.find(|server| server.name() == address)
    }
}

/// The servers of one `[[upstreams]]` and how one is chosen.
#[derive(Debug)]
pub struct Upstream {
    /// Its name, time-outs, retries and keepalive.
    pub config: config::Upstream,
    members: Vec<Member>,
    balancer: Balancer,
    tls: Option<Tls>,
    budget: Arc<Budget>,
}

impl Upstream {
    fn build(
        config: config::Upstream,
        previous: Option<&Upstreams>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, BadFile> {
        let tls = config.tls.as_ref().map(|tls| Tls::load(&config.name, tls)).transpose()?;
        let member = |server: &config::UpstreamServer| {
            let known = previous.and_then(|old| old.server(&config.name, &server.address));
            let server_of_today = known.cloned().unwrap_or_else(|| {
                let fixed: Option<SocketAddr> = server.address.parse().ok();
                let addresses = fixed.as_slice();
                Arc::new(Server::new(&config.name, &server.address, addresses, metrics))
            });
            if config.health_check.is_none() {
                server_of_today.is_not_checked();
            }
            Member::new(server_of_today, server.weight)
        };
        let members: Vec<Member> = config.servers.iter().map(member).collect();
        let balancer = Balancer::new(config.balance, &members);
        let mut known = previous.into_iter().flat_map(|old| &old.list);
        let known = known.find(|old| old.config.name == config.name);
        let budget = known.map(|old| Arc::clone(&old.budget)).unwrap_or_default();
        Ok(Self { config, members, balancer, tls, budget })
    }

    /// How Pingora connects to `address` of a server of this upstream; without its time-outs of a
    /// request.
    pub fn peer(&self, server: &str, address: SocketAddr, spoken: Spoken) -> HttpPeer {
        let mut peer = match &self.tls {
            None => HttpPeer::new(address, false, String::new()),
            Some(tls) => tls.peer(server, address, spoken),
        };
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer
    }

    /// Picks a server and one of its addresses. `tried` holds the [`Picked::index`] of the
    /// earlier attempts of the same request: those are passed over while another server takes
    /// connections.
    ///
    /// When no server takes connections the one of the well ones that failed the longest time ago is tried all
    /// the same: it may be back, and the first request after that must not wait for a rest to
    /// end.
    ///
    /// # Errors
    /// [`NoServer`] if no server has an address, or none is well.
    pub fn pick(
        &self,
        key: PickKey<'_>,
        tried: &[usize],
        now: Instant,
    ) -> Result<Picked, NoServer> {
        if tried.is_empty() {
            self.budget.earn();
        }
        self.pick_at(&key, tried, server::since_start(now))
    }

    /// Whether a request that failed at so many servers may be sent to another: as often as
    /// `retries` says, and as long as not too many of this upstream's requests are retries. To be
    /// asked once for each retry, after everything else was found to allow it.
    pub fn grants_retry(&self, tried: usize) -> bool {
        tried <= self.config.retries as usize && self.budget.spend()
    }

    fn pick_at(&self, key: &PickKey<'_>, tried: &[usize], now: Millis) -> Result<Picked, NoServer> {
        let untried = |index: usize| !tried.contains(&index);
        self.pick_available(key, now, untried)
            .or_else(|| self.pick_available(key, now, |_| true))
            .or_else(|| self.pick_least_recently_failed(untried))
            .or_else(|| self.pick_least_recently_failed(|_| true))
            .ok_or(NoServer)
    }

    fn pick_available(
        &self,
        key: &PickKey<'_>,
        now: Millis,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Picked> {
        // Another request may take the trial of a rested server away between the two steps; the
        // server then rests, so that each further round has one candidate less.
        for _ in 0..=self.members.len() {
            let index = self.balancer.choose(&self.members, key, |index, member| {
                fits(index) && member.server.is_available(now)
            })?;
            let member = self.members.get(index)?;
            if let Some(taken) = member.server.take(now) {
                return Some(Picked::new(&member.server, index, taken));
            }
        }
        None
    }

    fn pick_least_recently_failed(&self, fits: impl Fn(usize) -> bool) -> Option<Picked> {
        let fitting = self.members.iter().enumerate().filter(|(index, _)| fits(*index));
        let (index, member, _) = fitting
            .filter_map(|(index, member)| {
                member.server.least_recent_failure().map(|failed_at| (index, member, failed_at))
            })
            .min_by_key(|(.., failed_at)| *failed_at)?;
        let taken = member.server.take_least_recently_failed()?;
        Some(Picked::new(&member.server, index, taken))
    }

    /// Its servers, in the order of the configuration.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.members.iter().map(|member| &*member.server)
    }

    /// Whether a request can be sent anywhere at all: `false` only while no server has an
    /// address that is well. Refused connections do not count; only a health check may call a
    /// server down.
    pub fn is_up(&self) -> bool {
        self.members.iter().any(|member| member.server.may_be_asked())
    }
}

/// A server that was picked for one attempt. Counts as a request under way until it is dropped.
#[derive(Debug)]
pub struct Picked {
    /// The server, for metrics and logs.
    pub server: Arc<Server>,
    /// Its position, for `tried` of the next [`Upstream::pick`].
    pub index: usize,
    /// Where to connect to.
    pub address: SocketAddr,
    taken: Taken,
}

impl Picked {
    fn new(server: &Arc<Server>, index: usize, taken: Taken) -> Self {
        server.begin();
        Self { server: Arc::clone(server), index, address: taken.socket(), taken }
    }

    /// To be called when a connection could not be made: refused, unreachable or too slow.
    pub fn failed_to_connect(&self) {
        self.server.failed_to_connect(&self.taken, server::now());
    }

    /// To be called when there is a connection, new or kept.
    pub fn connected(&self) {
        self.server.connected(&self.taken);
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.server.end();
    }
}

#[cfg(test)]
mod tests;
