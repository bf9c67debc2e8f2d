//! THE decision about a request: answer it ourselves, refuse it, or forward it, to whom and as
//! whom. It is made once per request, from its head alone, and knows nothing of the lane that
//! will carry it out.

use std::sync::Arc;

use super::client::{Client, Peer};
use super::credential::{self, Credential};
use super::exchange::Exchange;
use super::forward::{self, Forward};
use super::head::{self, RequestHead};
use super::rules::Rules;
use crate::config::{Auth, RateKey};
use crate::endpoints::Endpoint;
use crate::endpoints::answer::Refusal;
use crate::observe::AuthResult;
use crate::route::path::normalise;
use crate::route::policy::{Caller, Verdict};
use crate::route::rate::RateKeyValue;
use crate::route::table::{Found, Route};
use crate::session::{TokenError, Verified};

/// What is to be done with a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Answered with an error.
    Refuse(Refusal),
    /// Answered by a redirect to the same path with a slash behind it.
    AddSlash(String),
    /// Answered by one of the gateway's own endpoints.
    Own(Box<OwnRequest>),
    /// Forwarded.
    Forward(Box<Forward>),
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
}

/// Decides about a request that came from `peer`, and begins its account.
pub(crate) fn admit(
    rules: &Arc<Rules>,
    head: &RequestHead<'_>,
    peer: Peer,
) -> (Exchange, Decision) {
    let client = Client::of(head, peer, rules.trusted_proxies());
    let mut exchange = Exchange::begin(rules, head, client.address);
    exchange.request_id.clone_from(&client.request_id);
    let decision = decide(rules, head, client, &mut exchange).unwrap_or_else(Decision::Refuse);
    (exchange, decision)
}

/// The methods that a gateway can say are allowed where no route decides.
const ALLOWED: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

fn decide(
    rules: &Arc<Rules>,
    head: &RequestHead<'_>,
    client: Client,
    exchange: &mut Exchange,
) -> Result<Decision, Refusal> {
    if matches!(head.method, "CONNECT" | "TRACE") {
        return Err(Refusal::method_not_allowed(ALLOWED));
    }
    let (path, _) = head.target.split_once('?').unwrap_or((head.target, ""));
    let path = normalise(path).map_err(|error| Refusal::invalid_path(error.to_string()))?;
    if rules.endpoints.owns(&path.routed) {
        exchange.is_own();
        let credential = find_credential(rules, head)?;
        return own(rules, head, &path.routed, credential);
    }
    let route = match rules.table.find(head.host, &path.routed, head.method) {
        Found::Route(route) => Arc::clone(route),
        Found::AddSlash => return Ok(Decision::AddSlash(with_slash(&path.routed, head.target))),
        Found::MethodNotAllowed { allow } => return Err(Refusal::method_not_allowed(allow)),
        Found::NotFound => return Err(Refusal::not_found()),
    };
    exchange.takes_route(&route.name);
    let credential = find_credential(rules, head)?;
    check_length(head, route.max_body_bytes)?;
    check_rate_of_address(&route, &client)?;
    let caller = authenticate(rules, &route, &credential, exchange)?;
    check_rate_of_caller(&route, &client, caller.as_deref())?;
    authorise(&route, caller.as_deref(), exchange)?;
    Ok(Decision::Forward(Box::new(Forward {
        target: forward::target(head, &path.forwarded, rules, &route),
        host: head.host.to_owned(),
        websocket: head.is_websocket(),
        takes_authorization: credential::bearer(head.headers)
            .is_some_and(|token| rules.sessions.is_ours(token)),
        nominated: forward::nominated(head.headers),
        max_body_bytes: route.max_body_bytes,
        rules: Arc::clone(rules),
        route,
        caller,
        client,
    })))
}

fn find_credential<'a>(rules: &Rules, head: &RequestHead<'a>) -> Result<Credential<'a>, Refusal> {
    credential::find(head, &rules.config.session.token_from)
        .map_err(|error| Refusal::ambiguous(error.to_string()))
}

fn own(
    rules: &Rules,
    head: &RequestHead<'_>,
    path: &str,
    credential: Credential<'_>,
) -> Result<Decision, Refusal> {
    let endpoint = rules.endpoints.find(head.method, path)?;
    check_length(head, Some(endpoint.body_limit()))?;
    Ok(Decision::Own(Box::new(OwnRequest {
        endpoint,
        token: match credential {
            Credential::None => None,
            Credential::Token(token) => Some(token.into_owned()),
        },
        content_type: head.headers.text("content-type").map(ToOwned::to_owned),
        referer: head.headers.text("referer").map(ToOwned::to_owned),
    })))
}

/// A body that says itself that it is too large is refused before it is sent.
fn check_length(head: &RequestHead<'_>, limit: Option<u64>) -> Result<(), Refusal> {
    let length = head.headers.get_all("content-length").next();
    match (length.map(head::content_length).transpose()?, limit) {
        (Some(length), Some(limit)) if length > limit => Err(Refusal::content_too_large()),
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
        Some(rate) if rate.counts_by() == RateKey::Ip => {
            rate.check(RateKeyValue::Ip(client.address)).map_err(Refusal::slow_down)
        }
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
            rate.check(key).map_err(Refusal::slow_down)
        }
        _ => Ok(()),
    }
}

/// Who is calling. Only the route decides whether anybody has to be.
fn authenticate(
    rules: &Rules,
    route: &Route,
    credential: &Credential<'_>,
    exchange: &mut Exchange,
) -> Result<Option<Arc<Verified>>, Refusal> {
    let result = match (route.auth, credential) {
        (Auth::Public, _) => Ok((None, AuthResult::Public)),
        (Auth::Optional, Credential::None) => Ok((None, AuthResult::Guest)),
        (Auth::Required, Credential::None) => Err((Refusal::unauthorized(), AuthResult::Missing)),
        (Auth::Required | Auth::Optional, Credential::Token(token)) => {
            match rules.sessions.verify(token) {
                Ok(caller) => Ok((Some(caller), AuthResult::Ok)),
                Err(error) => Err((Refusal::from(error), of_token_error(error))),
            }
        }
    };
    match result {
        Ok((caller, auth)) => {
            exchange.decided(auth);
            if let Some(caller) = &caller {
                exchange.is_by(caller.identity.openid.as_str());
            }
            Ok(caller)
        }
        Err((refusal, auth)) => {
            exchange.decided(auth);
            Err(refusal)
        }
    }
}

fn of_token_error(error: TokenError) -> AuthResult {
    match error {
        TokenError::Invalid => AuthResult::Invalid,
        TokenError::Expired => AuthResult::Expired,
        TokenError::Revoked => AuthResult::Revoked,
    }
}

fn authorise(
    route: &Route,
    caller: Option<&Verified>,
    exchange: &mut Exchange,
) -> Result<(), Refusal> {
    let Some(caller) = caller else {
        return Ok(());
    };
    let verdict = route.allows(Caller {
        openid: caller.identity.openid.as_str(),
        appid: caller.identity.appid.as_str(),
        scope: &caller.scope,
    });
    let refusal = match verdict {
        Verdict::Allowed => return Ok(()),
        Verdict::AccessDenied => Refusal::access_denied(),
        Verdict::InsufficientScope(scope) => Refusal::insufficient_scope(scope),
    };
    exchange.decided(AuthResult::Forbidden);
    Err(refusal)
}
