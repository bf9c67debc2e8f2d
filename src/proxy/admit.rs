//! THE decision about a request: answer it ourselves, refuse it, or forward it, to whom and as
//! whom. It is made once per request, from its head alone, and knows nothing of the lane that
//! will carry it out.

use std::sync::Arc;

use super::bridge::Bridge;
use super::browser::{self, FromBrowser};
use super::client::{Client, Peer};
use super::cors;
use super::credential::{self, Credential};
use super::exchange::{Exchange, method_name};
use super::forward::{self, Forward, Told};
use super::head::{self, RequestHead};
use super::rules::Rules;
use super::verify;
use crate::config::{Auth, RateKey};
use crate::endpoints::{self, Answer, Endpoint, Refusal};
use crate::observe::AuthResult;
use crate::route::path::normalise;
use crate::route::policy::{Caller, Verdict};
use crate::route::rate::RateKeyValue;
use crate::route::table::{Found, Route};
use crate::session::Verified;

/// What is to be done with a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Answered with an error.
    Refuse(Refusal),
    /// Answered by a redirect to the same path with a slash behind it.
    AddSlash(String),
    /// Answered by sending the browser to the login.
    LogIn(String),
    /// Answered to a browser that asks whether a page may send a request.
    Preflight(Box<Answer>),
    /// Answered by one of the gateway's own endpoints.
    Own(Box<OwnRequest>),
    /// Answered to a proxy that asked: may pass, as this caller or as nobody.
    Vouch(Option<Arc<Verified>>),
    /// Forwarded.
    Forward(Box<Forward>),
}

impl Decision {
    /// What the gateway answers by itself where it needs no body for that; whoever asks forwards,
    /// or has the endpoint answer.
    pub(crate) async fn into_answer(self, rules: &Rules, exchange: &Exchange) -> Answer {
        match self {
            Self::Preflight(answer) => exchange.with_request_id(*answer),
            Self::AddSlash(location) => exchange.told(Answer::redirect(308, location)),
            Self::Vouch(caller) => {
                let answer = verify::vouch(rules, caller.as_deref(), &exchange.request_id).await;
                exchange.with_request_id(answer)
            }
            Self::LogIn(location) => exchange.told(Answer::redirect(302, location)),
            Self::Refuse(refusal) => exchange.refused(refusal),
            Self::Own(_) | Self::Forward(_) => exchange.refused(Refusal::Internal),
        }
    }
}

/// A request for one of the gateway's own endpoints, without its body.
#[derive(Debug)]
pub(crate) struct OwnRequest {
    /// Which one.
    pub(crate) endpoint: Endpoint,
    /// The token shown, if any.
    pub(crate) token: Option<String>,
    /// `Content-Type` as written.
    pub(crate) content_type: Option<String>,
    /// `Referer` as written: names the mini program.
    pub(crate) referer: Option<String>,
    /// What browsers say besides.
    pub(crate) browser: FromBrowser,
}

impl OwnRequest {
    /// Has the endpoint answer, now that the body was read.
    pub(crate) async fn answer(
        &self,
        rules: &Rules,
        exchange: &mut Exchange,
        body: &[u8],
    ) -> Answer {
        exchange.bytes_in = body.len() as u64;
        let request = endpoints::Request {
            content_type: self.content_type.as_deref(),
            referer: self.referer.as_deref(),
            token: self.token.as_deref(),
            client: exchange.client,
            body,
            request_id: &exchange.request_id,
            browser: self.browser.as_told(),
        };
        let answer = rules.endpoints.answer(self.endpoint, request).await;
        let answer = exchange.told(answer);
        if let Some(auth) = answer.auth {
            exchange.decided(auth);
        }
        if let Some(openid) = &answer.openid {
            exchange.is_by(openid.as_str());
        }
        answer
    }
}

/// Decides about a request that came from `peer`, and begins its account.
pub(crate) fn admit(
    rules: &Arc<Rules>,
    head: &RequestHead<'_>,
    peer: &Peer,
) -> (Box<Exchange>, Decision) {
    let client = Client::of(head, peer, rules.trusted_proxies());
    let mut exchange = Exchange::begin(rules, head, client.address);
    exchange.request_id = Arc::clone(&client.request_id);
    let decision = decide(rules, head, client, &mut exchange);
    if let Some(auth) = decision.as_ref().err().and_then(Refusal::auth) {
        exchange.decided(auth);
    }
    (exchange, decision.unwrap_or_else(Decision::Refuse))
}

/// The methods that a gateway can say are allowed where no route decides.
pub(super) const ALLOWED: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

fn decide(
    rules: &Arc<Rules>,
    head: &RequestHead<'_>,
    client: Client,
    exchange: &mut Exchange,
) -> Result<Decision, Refusal> {
    if matches!(head.method, "CONNECT" | "TRACE") {
        return Err(Refusal::MethodNotAllowed { allow: ALLOWED.to_owned() });
    }
    let (path, _) = head::split_target(head.target);
    let path = normalise(path)?;
    if let Some(answer) = cors::preflight(rules, head, &path.routed, exchange) {
        return Ok(Decision::Preflight(answer));
    }
    if rules.endpoints.owns(&path.routed) {
        exchange.is_own();
        exchange.may_be_read_by(cors::origin(head), rules.login_cors.as_ref());
        if rules.endpoints.find(head.method, &path.routed)? == Endpoint::Verify {
            return verify::judge(rules, head, &client, exchange).map(Decision::Vouch);
        }
        let credential = find_credential(rules, head)?;
        return own(rules, head, &client, &path.routed, credential);
    }
    let route = match rules.table.find(head.host, &path.routed, head.method) {
        Found::Route(route) => Arc::clone(route),
        Found::AddSlash => return Ok(Decision::AddSlash(with_slash(&path.forwarded, head.target))),
        Found::MethodNotAllowed { allow } => {
            return Err(Refusal::MethodNotAllowed { allow: allow.to_owned() });
        }
        Found::NotFound => return Err(Refusal::NotFound),
    };
    exchange.takes_route(&route);
    exchange.may_be_read_by(cors::origin(head), route.cors.as_ref());
    let credential = find_credential(rules, head)?;
    check_length(head, route.max_body_bytes)?;
    check_rate_of_address(&route, &client)?;
    let caller = match authenticate(rules, &route, &credential, exchange) {
        Ok(caller) => caller,
        Err(refusal) => {
            let login = browser::login(rules, head, &route, &path.forwarded, &refusal);
            if let (Some(_), Some(auth)) = (&login, refusal.auth()) {
                exchange.decided(auth);
            }
            return login.map(Decision::LogIn).ok_or(refusal);
        }
    };
    check_rate_of_caller(&route, &client, caller.as_deref())?;
    authorise(&route, caller.as_deref())?;
    let target = forward::target(head, &path.forwarded, rules, &route);
    Ok(Decision::Forward(Box::new(Forward {
        method: method_name(head.method),
        bridge: Bridge::of(&route, caller.as_deref(), head.host, &target),
        target,
        host: head.host.to_owned(),
        websocket: head.is_websocket(),
        takes_authorization: takes_authorization(rules, head, &credential, caller.as_deref()),
        nominated: forward::nominated(head.headers),
        max_body_bytes: route.max_body_bytes,
        rules: Arc::clone(rules),
        route,
        phone: Told::of(rules, caller.as_deref()),
        caller,
        client,
    })))
}

/// Whether `Authorization` holds a token of ours, whoever could read it there: most often the one
/// that the caller was known by.
fn takes_authorization(
    rules: &Rules,
    head: &RequestHead<'_>,
    credential: &Credential<'_>,
    caller: Option<&Verified>,
) -> bool {
    let is_the_one = caller.is_some() && matches!(credential, Credential::Bearer(_));
    is_the_one
        || credential::authorization_words(head.headers).any(|word| rules.sessions.is_ours(word))
}

pub(super) fn find_credential<'a>(
    rules: &Rules,
    head: &RequestHead<'a>,
) -> Result<Credential<'a>, Refusal> {
    credential::find(head, &rules.config.session.token_from).map_err(|_| Refusal::TwoCredentials)
}

fn own(
    rules: &Rules,
    head: &RequestHead<'_>,
    client: &Client,
    path: &str,
    credential: Credential<'_>,
) -> Result<Decision, Refusal> {
    let endpoint = rules.endpoints.find(head.method, path)?;
    check_length(head, Some(endpoint.body_limit()))?;
    Ok(Decision::Own(Box::new(OwnRequest {
        endpoint,
        token: credential.token().map(ToOwned::to_owned),
        content_type: head.headers.text("content-type").map(ToOwned::to_owned),
        referer: head.headers.text("referer").map(ToOwned::to_owned),
        browser: FromBrowser::of(head, client, &rules.config.session.token_from),
    })))
}

/// A body that says itself that it is too large is refused before it is sent.
fn check_length(head: &RequestHead<'_>, limit: Option<u64>) -> Result<(), Refusal> {
    let length = head.headers.get_all("content-length").next();
    match (length.map(head::content_length).transpose()?, limit) {
        (Some(length), Some(limit)) if length > limit => Err(Refusal::ContentTooLarge),
        _ => Ok(()),
    }
}

fn with_slash(path: &str, target: &str) -> String {
    match target.split_once('?') {
        Some((_, query)) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    }
}

fn check_rate_of_address(route: &Route, client: &Client) -> Result<(), Refusal> {
    match route.rate() {
        Some(rate) if rate.counts_by() == RateKey::Ip => rate
            .check(RateKeyValue::Ip(client.address))
            .map_err(|retry_after| Refusal::SlowDown { retry_after }),
        _ => Ok(()),
    }
}

fn check_rate_of_caller(
    route: &Route,
    client: &Client,
    caller: Option<&Verified>,
) -> Result<(), Refusal> {
    let key = match caller {
        Some(caller) => RateKeyValue::OpenId(caller.identity.openid.as_str()),
        None => RateKeyValue::Ip(client.address),
    };
    match route.rate() {
        Some(rate) if rate.counts_by() == RateKey::OpenId => {
            rate.check(key).map_err(|retry_after| Refusal::SlowDown { retry_after })
        }
        _ => Ok(()),
    }
}

/// Who is calling. Only the route decides whether anybody has to be.
pub(super) fn authenticate(
    rules: &Rules,
    route: &Route,
    credential: &Credential<'_>,
    exchange: &mut Exchange,
) -> Result<Option<Arc<Verified>>, Refusal> {
    let (caller, auth) = match (route.auth, credential.token()) {
        (Auth::Public, _) => (None, AuthResult::Public),
        (Auth::Optional, None) => (None, AuthResult::Guest),
        (Auth::Required, None) => return Err(Refusal::Unauthorized),
        (Auth::Required | Auth::Optional, Some(token)) => {
            (Some(rules.sessions.verify(token)?), AuthResult::Ok)
        }
    };
    exchange.decided(auth);
    if let Some(caller) = &caller {
        exchange.has_caller(caller);
    }
    Ok(caller)
}

pub(super) fn authorise(route: &Route, caller: Option<&Verified>) -> Result<(), Refusal> {
    let Some(caller) = caller else {
        return Ok(());
    };
    let verdict = route.allows(Caller {
        openid: caller.identity.openid.as_str(),
        appid: caller.identity.appid.as_str(),
        scope: &caller.scope,
    });
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::AccessDenied => Err(Refusal::AccessDenied),
        Verdict::InsufficientScope(scope) => Err(Refusal::InsufficientScope(scope.to_owned())),
    }
}
