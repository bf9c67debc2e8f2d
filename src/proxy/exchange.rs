//! The account of one request: what is counted and written down when it has been answered.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::answering::SESSION_EXPIRES_IN;
use super::head::RequestHead;
use super::kept::Kept;
use super::rules::Rules;
use crate::endpoints::{Answer, Refusal};
use crate::observe::{AccessLine, AuthResult, HashedUser, RouteMetrics};
use crate::route::cors::{Cors, Line};
use crate::route::table::Route;
use crate::session::Verified;
use crate::upstream::Server;

/// One request on its way. Dropped when it has been answered, whatever happened: that is when it
/// is counted and logged, once.
#[derive(Debug)]
pub(crate) struct Exchange {
    rules: Arc<Rules>,
    started: Instant,
    method: Cow<'static, str>,
    protocol: &'static str,
    told: Kept,
    counts: Arc<RouteMetrics>,
    /// The client, once known.
    pub(crate) client: IpAddr,
    /// Names this request.
    pub(crate) request_id: Arc<str>,
    /// Once found.
    route: Option<Arc<Route>>,
    auth: Option<AuthResult>,
    /// Whose token was verified.
    caller: Option<Arc<Verified>>,
    /// Who logged in or out by this request.
    user: Option<HashedUser>,
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

/// A method that outlives its head, without a copy of those that everybody uses.
pub(crate) fn method_name(method: &str) -> Cow<'static, str> {
    const USUAL: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    let usual = USUAL.into_iter().find(|usual| *usual == method);
    usual.map_or_else(|| Cow::Owned(method.to_owned()), Cow::Borrowed)
}

impl Exchange {
    /// Begins the account of a request.
    pub(crate) fn begin(rules: &Arc<Rules>, head: &RequestHead<'_>, client: IpAddr) -> Box<Self> {
        let mut exchange = Self::unread(rules, client, "HTTP/1.1");
        exchange.method = method_name(head.method);
        if rules.access_log.is_on() {
            exchange.told = Kept::of(head);
            exchange.protocol = match head.version {
                http::Version::HTTP_10 => "HTTP/1.0",
                http::Version::HTTP_2 => "HTTP/2.0",
                _ => "HTTP/1.1",
            };
        }
        exchange
    }

    /// Begins the account of a request whose head could not be read.
    pub(crate) fn unread(rules: &Arc<Rules>, client: IpAddr, protocol: &'static str) -> Box<Self> {
        rules.metrics.http_requests_in_flight.inc();
        Box::new(Self {
            rules: Arc::clone(rules),
            started: Instant::now(),
            method: Cow::Borrowed(""),
            protocol,
            told: Kept::default(),
            counts: Arc::clone(&rules.counts.unrouted),
            client,
            request_id: Arc::default(),
            route: None,
            auth: None,
            caller: None,
            user: None,
            cors: Vec::new(),
            server: None,
            status: 499,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// The request falls under this route.
    pub(crate) fn takes_route(&mut self, route: &Arc<Route>) {
        self.counts = Arc::clone(self.rules.counts.of(route));
        self.route = Some(Arc::clone(route));
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
    pub(crate) fn has_caller(&mut self, caller: &Arc<Verified>) {
        self.caller = Some(Arc::clone(caller));
    }

    /// A refusal as this request's client gets it.
    pub(crate) fn refused(&self, refusal: Refusal) -> Answer {
        let mut answer = refusal.into_answer(&self.request_id);
        let hint = |caller: &Arc<Verified>| self.rules.sessions.expiry_hint(caller);
        if let Some(seconds) = self.caller.as_ref().and_then(hint) {
            answer.headers.push((SESSION_EXPIRES_IN, seconds.to_string()));
        }
        self.told(answer)
    }

    /// An answer of the gateway's own as this request's client gets it.
    pub(crate) fn told(&self, mut answer: Answer) -> Answer {
        answer.headers.extend(self.cors.iter().cloned());
        self.with_request_id(answer)
    }

    /// An answer with the name of its request, as proxied ones have it.
    pub(crate) fn with_request_id(&self, mut answer: Answer) -> Answer {
        answer.headers.push(("X-Request-Id", self.request_id.to_string()));
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
        self.route.as_ref().map_or("none", |route| &*route.name)
    }

    /// The user as the access log names them.
    fn user(&self) -> Option<HashedUser> {
        let hash = &self.rules.user_hash;
        self.user.or_else(|| self.caller.as_ref().map(|caller| caller.hashed(hash)))
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
        if !self.rules.access_log.is_on() {
            return;
        }
        self.rules.access_log.write(&AccessLine {
            unix_millis: self.rules.clock.unix_millis(),
            request_id: &self.request_id,
            client: self.client,
            method: self.method.as_bytes(),
            host: self.told.host(),
            path: self.told.path(),
            protocol: self.protocol,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration: elapsed,
            route: self.route.as_ref().map(|route| &*route.name),
            upstream: self.server.as_deref().map(Server::upstream),
            server: self.server.as_deref().map(Server::name),
            auth: self.auth,
            user: self.user(),
            user_agent: self.told.user_agent(),
            referer: self.told.referer(),
        });
    }
}
