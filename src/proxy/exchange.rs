//! The account of one request: what is counted and written down when it has been answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::answering::SESSION_EXPIRES_IN;
use super::head::RequestHead;
use super::rules::Rules;
use crate::endpoints::{Answer, Refusal};
use crate::observe::{AccessLine, AuthResult, HashedUser, RouteMetrics};
use crate::route::cors::{Cors, Line};
use crate::session::Verified;
use crate::upstream::Server;

/// One request on its way. Dropped when it has been answered, whatever happened: that is when it
/// is counted and logged, once.
#[derive(Debug)]
pub(crate) struct Exchange {
    rules: Arc<Rules>,
    started: Instant,
    method: String,
    host: String,
    path: String,
    protocol: &'static str,
    user_agent: Option<Vec<u8>>,
    referer: Option<Vec<u8>>,
    counts: Arc<RouteMetrics>,
    /// The client, once known.
    pub(crate) client: IpAddr,
    /// Names this request.
    pub(crate) request_id: String,
    /// The route's name, once found.
    route: Option<Arc<str>>,
    auth: Option<AuthResult>,
    user: Option<HashedUser>,
    /// Seconds left of the caller's token, within the last tenth of its life.
    session_expires_in: Option<u64>,
    /// What a page of another site is told beside the answer; empty where there is no `cors`.
    cors: Vec<Line>,
    /// The server that was asked last.
    pub(crate) server: Option<Arc<Server>>,
    /// Status that the client got; 499 where it went away before one was sent.
    pub(crate) status: u16,
    /// Bytes of the request's body.
    pub(crate) bytes_in: u64,
    /// Bytes of the answer's body.
    pub(crate) bytes_out: u64,
}

impl Exchange {
    /// Begins the account of a request.
    pub(crate) fn begin(rules: &Arc<Rules>, head: &RequestHead<'_>, client: IpAddr) -> Self {
        let mut exchange = Self::unread(rules, client);
        head.method.clone_into(&mut exchange.method);
        if rules.access_log.is_on() {
            let value = |name: &str| head.headers.get_all(name).next().map(ToOwned::to_owned);
            head.host.clone_into(&mut exchange.host);
            head.target.split('?').next().unwrap_or_default().clone_into(&mut exchange.path);
            exchange.user_agent = value("user-agent");
            exchange.referer = value("referer");
            exchange.protocol = match head.version {
                http::Version::HTTP_10 => "HTTP/1.0",
                http::Version::HTTP_2 => "HTTP/2.0",
                _ => "HTTP/1.1",
            };
        }
        exchange
    }

    /// Begins the account of a request whose head could not be read.
    pub(crate) fn unread(rules: &Arc<Rules>, client: IpAddr) -> Self {
        rules.metrics.http_requests_in_flight.inc();
        Self {
            rules: Arc::clone(rules),
            started: Instant::now(),
            method: String::new(),
            host: String::new(),
            path: String::new(),
            protocol: "HTTP/1.1",
            user_agent: None,
            referer: None,
            counts: Arc::clone(&rules.counts.unrouted),
            client,
            request_id: String::new(),
            route: None,
            auth: None,
            user: None,
            session_expires_in: None,
            cors: Vec::new(),
            server: None,
            status: 499,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The request falls under this route.
    pub(crate) fn takes_route(&mut self, name: &Arc<str>) {
        self.counts = Arc::clone(self.rules.counts.of(name));
        self.route = Some(Arc::clone(name));
    }

    /// The request is for one of the gateway's own endpoints.
    pub(crate) fn is_own(&mut self) {
        self.counts = Arc::clone(&self.rules.counts.own);
    }

    /// What became of the authentication; the last word counts.
    pub(crate) fn decided(&mut self, auth: AuthResult) {
        self.auth = Some(auth);
    }

    /// Whose token was verified.
    pub(crate) fn has_caller(&mut self, caller: &Verified) {
        self.is_by(caller.identity.openid.as_str());
        self.session_expires_in = self.rules.sessions.expiry_hint(caller);
    }

    /// A refusal as this request's client gets it.
    pub(crate) fn refused(&self, refusal: Refusal) -> Answer {
        let mut answer = refusal.into_answer(&self.request_id);
        if let Some(seconds) = self.session_expires_in {
            answer.headers.push((SESSION_EXPIRES_IN, seconds.to_string()));
        }
        self.told(answer)
    }

    /// An answer of the gateway's own as this request's client gets it.
    pub(crate) fn told(&self, mut answer: Answer) -> Answer {
        answer.headers.extend(self.cors.iter().cloned());
        answer
    }

    /// Notes which pages of other sites may read the answer, now that it is known what answers.
    pub(crate) fn may_be_read_by(&mut self, origin: Option<&str>, cors: Option<&Cors>) {
        if let Some(cors) = cors {
            self.cors = cors.lines(origin);
        }
    }

    /// What a page of another site is told beside the answer.
    pub(crate) fn cors(&self) -> &[Line] {
        &self.cors
    }

    /// Who is logged in.
    pub(crate) fn is_by(&mut self, openid: &str) {
        if self.rules.access_log.is_on() {
            self.user = Some(self.rules.user_hash.hash(openid));
        }
    }

    /// The route's name for messages.
    pub(crate) fn route_name(&self) -> &str {
        self.route.as_deref().unwrap_or("none")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.rules.metrics.http_requests_in_flight.dec();
        self.counts.answered(&self.method, self.status, elapsed);
        if let Some(auth) = self.auth {
            self.counts.decided(auth);
        }
        self.rules.access_log.write(&AccessLine {
            unix_millis: self.rules.clock.unix_millis(),
            request_id: &self.request_id,
            client: self.client,
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            protocol: self.protocol,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration: elapsed,
            route: self.route.as_deref(),
            upstream: self.server.as_deref().map(Server::upstream),
            server: self.server.as_deref().map(Server::name),
            auth: self.auth,
            user: self.user,
            user_agent: self.user_agent.as_deref(),
            referer: self.referer.as_deref(),
        });
    }
}
