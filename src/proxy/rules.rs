//! Everything of the configuration that a request meets. A reload builds it anew and swaps it
//! whole; a request keeps the rules that it began with.

use std::sync::Arc;

use ipnet::IpNet;

use super::head::HeadLimits;
use crate::clock::Clock;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::identity::assertion::Assertions;
use crate::identity::headers::HeaderRules;
use crate::observe::{AccessLog, Metrics, RouteMetrics, UserHash};
use crate::route::cors::Cors;
use crate::route::table::{Route, Table};
use crate::session::Sessions;
use crate::upstream::Upstreams;

/// One configuration, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    /// The configuration that this was built from.
    pub config: Arc<Config>,
    /// Which rule a request falls under.
    pub table: Table,
    /// What the gateway answers itself.
    pub endpoints: Endpoints,
    /// Which pages of other sites may read what the gateway answers itself.
    pub login_cors: Option<Cors>,
    /// How identity headers are scrubbed and written.
    pub headers: HeaderRules,
    /// What signs statements about callers, where upstreams get them.
    pub assertions: Option<Assertions>,
    /// Where requests are forwarded to.
    pub upstreams: Arc<Upstreams>,
    /// Who is logged in. Lives as long as the process.
    pub sessions: Arc<Sessions>,
    /// Lives as long as the process.
    pub metrics: Arc<Metrics>,
    /// Where access lines go.
    pub access_log: Arc<AccessLog>,
    /// Makes `user` of an access line.
    pub user_hash: UserHash,
    /// Where requests are counted.
    pub counts: Counts,
    /// The wall time.
    pub clock: Clock,
}

/// The counters of each route, made once so that a request need not look for them by label.
#[derive(Debug)]
pub struct Counts {
    /// By the routes' positions in their table.
    by_route: Vec<Arc<RouteMetrics>>,
    /// Requests for the gateway's own endpoints.
    pub(crate) own: Arc<RouteMetrics>,
    /// Requests that no route is for, or that could not be read.
    pub(crate) unrouted: Arc<RouteMetrics>,
}

impl Counts {
    /// Counters for every route of a table.
    pub fn new(metrics: &Metrics, table: &Table) -> Self {
        let routes = table.routes().iter();
        Self {
            by_route: routes.map(|route| metrics.route(&route.name)).collect(),
            own: metrics.route("wxgate"),
            unrouted: metrics.route("none"),
        }
    }

    /// Those of a route of the table that they were made for.
    pub(crate) fn of(&self, route: &Route) -> &Arc<RouteMetrics> {
        self.by_route.get(route.position).unwrap_or(&self.unrouted)
    }
}

impl Rules {
    /// Peers whose forwarded headers are believed.
    pub(crate) fn trusted_proxies(&self) -> &[IpNet] {
        &self.config.server.trusted_proxies
    }

    /// Bounds on a request head.
    pub(crate) fn head_limits(&self) -> HeadLimits {
        let server = &self.config.server;
        HeadLimits {
            max_bytes: server.max_header_bytes,
            timeout: server.header_timeout,
            idle: server.idle_timeout,
        }
    }
}
