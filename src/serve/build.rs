//! The composition root: a configuration becomes rooms that know each other.

use std::fmt::Display;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::ServeError;
use super::tls::{self, Shown};
use crate::admin::View;
use crate::clock::Clock;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::identity::assertion::Assertions;
use crate::identity::headers::HeaderRules;
use crate::observe::{AccessLog, Metrics, UserHash};
use crate::proxy::{Counts, FullLane, Gateway, Rules};
use crate::route::cors::Cors;
use crate::route::list::Lists;
use crate::route::table::Table;
use crate::session::Sessions;
use crate::upstream::Upstreams;
use crate::wechat::Wechat;

/// What lives as long as the process.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Arc<AccessLog>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) clock: Clock,
    user_hash: UserHash,
    lists: Arc<Lists>,
    /// What clients are shown; `None`: no TLS.
    pub(crate) certificates: Option<Arc<Shown>>,
}

/// The rooms of one configuration.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) rules: Arc<Rules>,
    wechat: Wechat,
    /// Looks for new addresses of the upstreams; ends with these rules.
    _resolving: Background,
}

/// Work that ends when this is dropped.
#[derive(Debug)]
struct Background(AbortHandle);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refused<E: Display>(room: &'static str) -> impl FnOnce(E) -> ServeError {
    move |error| ServeError::Build(format!("{room}: {error}"))
}

impl Lasting {
    pub(crate) fn build(config: &Config) -> Result<Self, ServeError> {
        let metrics = Arc::new(Metrics::new().map_err(refused("metrics"))?);
        let clock = Clock::system();
        let access_log = AccessLog::open(&config.log, &metrics).map_err(refused("access log"))?;
        let sessions =
            Sessions::new(&config.session, &config.apps, clock.clone(), Arc::clone(&metrics))
                .map_err(refused("sessions"))?;
        let tls = config.server.tls.as_ref();
        let certificates = tls.map(|tls| Shown::load(tls, &metrics)).transpose()?;
        let key: [u8; 32] = rand::random();
        Ok(Self {
            metrics,
            access_log: Arc::new(access_log),
            sessions: Arc::new(sessions),
            clock,
            user_hash: UserHash::new(&key),
            lists: Arc::new(Lists::new()),
            certificates,
        })
    }

    /// Begins what goes on in the background for as long as the process lives.
    pub(crate) fn watch(&self) {
        tokio::spawn(Arc::clone(&self.lists).watch());
        if let Some(certificates) = &self.certificates {
            tokio::spawn(Arc::clone(certificates).watch());
        }
        let sessions = Arc::clone(&self.sessions);
        tokio::spawn(async move { sessions.run().await });
    }
}

impl Built {
    /// Builds the rooms of a configuration. `previous` hands over what a reload must not lose:
    /// codes in flight, full buckets, known addresses.
    pub(crate) async fn from(
        config: Config,
        lasting: &Lasting,
        previous: Option<&Self>,
    ) -> Result<Self, ServeError> {
        let (rules, wechat) = Self::assemble(config, lasting, previous)?;
        // Names are looked up before the first request is, so that a start is a start.
        rules.upstreams.resolve().await;
        let resolving = Background(tokio::spawn(rules.upstreams.watch()).abort_handle());
        Ok(Self { rules, wechat, _resolving: resolving })
    }

    /// Puts the rooms together; nobody is asked for anything.
    pub(crate) fn assemble(
        config: Config,
        lasting: &Lasting,
        previous: Option<&Self>,
    ) -> Result<(Arc<Rules>, Wechat), ServeError> {
        let config = Arc::new(config);
        let metrics = &lasting.metrics;
        let old = previous.map(|previous| &*previous.rules);
        let table = Table::build(&config, &lasting.lists, old.map(|old| &old.table))
            .map_err(refused("routes"))?;
        let wechat = match previous {
            None => Wechat::new(&config, lasting.clock.clone(), Arc::clone(metrics)),
            Some(previous) => previous.wechat.renewed(&config),
        };
        let wechat = wechat.map_err(refused("wechat"))?;
        let upstreams = Upstreams::build(&config, old.map(|old| &*old.upstreams), metrics)
            .map(Arc::new)
            .map_err(refused("tls"))?;
        let assertions = Assertions::new(&config).map_err(refused("identity"))?;
        let key_set = assertions.as_ref().map(|assertions| assertions.key_set().to_owned());
        let endpoints = Endpoints::new(
            &config,
            key_set,
            Arc::clone(&lasting.sessions),
            wechat.clone(),
            Arc::clone(metrics),
            old.map(|old| &old.endpoints),
        );
        let rules = Arc::new(Rules {
            counts: Counts::new(metrics, &table),
            headers: HeaderRules::new(&config.identity),
            login_cors: config.login.cors.as_ref().map(Cors::new),
            assertions,
            config,
            table,
            endpoints,
            upstreams,
            sessions: Arc::clone(&lasting.sessions),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(&lasting.access_log),
            user_hash: lasting.user_hash.clone(),
            clock: lasting.clock.clone(),
        });
        Ok((rules, wechat))
    }

    /// What the operator's listener tells of.
    pub(crate) fn view(&self) -> View {
        View {
            config: Arc::clone(&self.rules.config),
            upstreams: Arc::clone(&self.rules.upstreams),
            wechat: self.wechat.clone(),
        }
    }

    /// What connections share.
    pub(crate) fn gateway(
        &self,
        lasting: &Lasting,
        draining: watch::Receiver<bool>,
    ) -> Result<Gateway, ServeError> {
        let tls = self.rules.config.server.tls.as_ref().zip(lasting.certificates.as_ref());
        let tls = tls.map(|(tls, shown)| tls::accepting(tls, shown)).transpose();
        Ok(Gateway {
            rules: ArcSwap::from(Arc::clone(&self.rules)),
            full: Arc::new(full_lane(&self.rules.config)),
            tls: ArcSwapOption::from(tls.map_err(ServeError::Build)?),
            draining,
        })
    }
}

fn full_lane(config: &Config) -> HttpProxy<FullLane> {
    // A pool as large as all upstreams' together; each request is bounded by its own retries.
    let keepalive: usize = config.upstreams.iter().map(|upstream| upstream.keepalive).sum();
    let retries = config.upstreams.iter().map(|upstream| upstream.retries).max().unwrap_or(0);
    let conf = ServerConf {
        threads: config.server.threads,
        upstream_keepalive_pool_size: keepalive.max(1),
        max_retries: retries as usize + 1,
        ..ServerConf::default()
    };
    http_proxy(&Arc::new(conf), FullLane)
}
