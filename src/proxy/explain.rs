//! What would become of a request, told instead of done: `wxgate explain`. Everything is decided by
//! the code that decides about real requests; this page only writes down what it says.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::admit::{Decision, admit};
use super::answering::Changes;
use super::client::Peer;
use super::credential;
use super::exchange::Exchange;
use super::fast;
use super::forward::{Fate, Forward};
use super::head::{RequestHead, with_head};
use super::rewrite;
use super::rules::Rules;
use crate::config::{self, HostPattern, TokenSource, redacted};
use crate::endpoints::{Answer, Refusal};
use crate::route::path::normalise;
use crate::route::table::Found;

/// What would become of a request, and why.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The path as rules are found by it; `None` where the request was not read so far.
    pub routed_path: Option<String>,
    /// The route that it falls under, if there is one.
    pub route: Option<Chosen>,
    /// The place of `session.token_from` that holds something.
    pub token_in: Option<String>,
    /// What is done with it.
    pub outcome: Outcome,
}

/// A route, and why it is the one.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// Why its host fits.
    pub host: String,
    /// Why its path fits.
    pub path: String,
    /// Why its method fits.
    pub method: String,
    /// The route as configured, with every default.
    pub config: Value,
    /// Its upstream as configured, with every default.
    pub upstream: Value,
}

/// What is done with a request.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// It is forwarded.
    Forwarded {
        /// The caller's openid; `None` for nobody.
        openid: Option<String>,
        /// Method, path and query as the upstream gets them.
        request_line: String,
        /// The headers that the upstream sees, in their order.
        headers: Vec<HeaderSeen>,
        /// The client's headers that it does not see as they came.
        removed: Vec<Removed>,
        /// How long the upstream may take: to connect, to answer, to take the request.
        timeouts: [String; 3],
        /// Headers that the client gets beside the upstream's.
        answer_headers: Vec<(String, String)>,
    },
    /// The gateway answers itself.
    Answered(Answered),
    /// One of the gateway's own endpoints answers, or the answer hangs on more than the head.
    Own {
        /// Its path.
        endpoint: String,
    },
    /// A proxy in front is told that the request it asks about may pass.
    Vouched {
        /// As whom; `None`: as nobody.
        openid: Option<String>,
    },
}

/// An answer of the gateway's own.
#[derive(Debug, Serialize)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// `error` of a refusal.
    pub error: Option<String>,
    /// Why, in words.
    pub description: Option<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
}

/// A header that the upstream sees.
#[derive(Debug, Serialize)]
pub struct HeaderSeen {
    /// Its name, as it is written.
    pub name: String,
    /// Its value. Credentials are not shown: `(signed)` for the statement about the caller,
    /// `(as it came)` for an Authorization that is the backend's.
    pub value: String,
    /// Whether the gateway wrote it, rather than passing the client's on.
    pub by_gateway: bool,
}

/// A header of the client that the upstream does not see, or not as it came.
#[derive(Debug, Serialize)]
pub struct Removed {
    /// Its name, as the client spelled it.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Explains the request whose head these bytes are, sent from `client` by `scheme`.
pub async fn explain(
    rules: &Arc<Rules>,
    head: &[u8],
    client: std::net::IpAddr,
    scheme: &'static str,
) -> Explanation {
    let peer = Peer::new(client, scheme);
    let read = with_head(head, |head, _| {
        let (exchange, decision) = admit(rules, &head, &peer);
        (Explanation::begun(rules, &head), exchange, decision)
    });
    let (mut explanation, exchange, decision) = match read {
        Ok(read) => read,
        Err(refusal) => return Explanation::unread(refusal),
    };
    explanation.outcome = match decision {
        Decision::Forward(mut forward) => match forward.look_up().await {
            Ok(()) => forwarded(head, &forward, &exchange),
            Err(refusal) => answered(exchange.refused(refusal)),
        },
        Decision::Refuse(refusal) => answered(exchange.refused(refusal)),
        Decision::AddSlash(location) => answered(exchange.told(Answer::redirect(308, location))),
        Decision::LogIn(location) => answered(exchange.told(Answer::redirect(302, location))),
        Decision::Preflight(answer) => answered(exchange.with_request_id(*answer)),
        Decision::Own(_) => {
            Outcome::Own { endpoint: explanation.routed_path.clone().unwrap_or_default() }
        }
        Decision::Vouch(caller) => Outcome::Vouched {
            openid: caller.map(|caller| caller.identity.openid.as_str().to_owned()),
        },
    };
    explanation
}

impl Explanation {
    fn unread(refusal: Refusal) -> Self {
        let outcome = answered(refusal.into_answer(""));
        Self { routed_path: None, route: None, token_in: None, outcome }
    }

    /// What is known before the decision; the outcome is not.
    fn begun(rules: &Rules, head: &RequestHead<'_>) -> Self {
        let (path, _) = head.target.split_once('?').unwrap_or((head.target, ""));
        let Ok(path) = normalise(path) else { return Self::unread(Refusal::Internal) };
        let place = credential::place(head, &rules.config.session.token_from);
        Self {
            route: chosen(rules, head, &path.routed),
            token_in: place.map(|place| match place {
                TokenSource::Authorization => "Authorization: Bearer".to_owned(),
                TokenSource::Cookie(name) => format!("the cookie {name}"),
                TokenSource::Header(name) => format!("the header {name}"),
                TokenSource::Query(name) => format!("the query parameter {name}"),
            }),
            routed_path: Some(path.routed.into_owned()),
            outcome: Outcome::Own { endpoint: String::new() },
        }
    }
}

/// The route, found once more: a decision does not tell which one refused.
fn chosen(rules: &Rules, head: &RequestHead<'_>, path: &str) -> Option<Chosen> {
    if rules.endpoints.owns(path) {
        return None;
    }
    // A preflight falls under the route of the request that it asks about.
    let preflight = (head.method == "OPTIONS" && head.headers.text("origin").is_some())
        .then(|| head.headers.text("access-control-request-method"))
        .flatten();
    let method = preflight.unwrap_or(head.method);
    let Found::Route(found) = rules.table.find(head.host, path, method) else { return None };
    let index = rules.table.routes().iter().position(|route| Arc::ptr_eq(route, found))?;
    let written = rules.config.routes.get(index)?;
    let shown = redacted(&rules.config);
    let entry = |list: &str, index: usize| shown.get(list)?.get(index).cloned();
    Some(Chosen {
        name: written.name.clone(),
        host: match &written.host {
            HostPattern::Exact(host) => format!("{host}: exactly this host"),
            HostPattern::Wildcard(suffix) => format!("*{suffix}: the longest wildcard that fits"),
            HostPattern::Any => "any: no route with a host fits".to_owned(),
        },
        path: if written.path.ends_with('/') {
            format!("{}: the longest tree that it lies in", written.path)
        } else {
            format!("{}: exactly this path", written.path)
        },
        method: why_method(written, method),
        config: entry("routes", index)?,
        upstream: entry("upstreams", written.upstream)?,
    })
}

fn why_method(route: &config::Route, method: &str) -> String {
    let named = route.methods.iter().any(|named| named == method);
    match route.methods.as_slice() {
        [] => format!("{method}: no route there names it, and this one takes all"),
        _ if named => format!("{method}: the route names it"),
        _ => format!("{method}: GET includes it"),
    }
}

fn answered(answer: Answer) -> Outcome {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    Outcome::Answered(Answered {
        status: answer.status,
        error: text("error"),
        description: text("error_description"),
        headers: answer.headers.into_iter().map(|(name, it)| (name.to_owned(), it)).collect(),
    })
}

/// Has the head written as the upstream gets it, and reads it back.
fn forwarded(bytes: &[u8], forward: &Forward, exchange: &Exchange) -> Outcome {
    let mut out = Vec::new();
    let removed = with_head(bytes, |head, window| {
        let body = fast::body_length(&head, window, bytes.len()).unwrap_or(0);
        rewrite::write(&mut out, &head, forward, body);
        removed(&head, forward)
    });
    let text = String::from_utf8_lossy(&out);
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let request_line = lines.next().unwrap_or_default();
    let lines: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    // What the gateway adds stands last.
    let added = forward.lasting_additions().count() + forward.late_additions().count();
    let passed = lines.len().saturating_sub(added);
    let statement = forward.rules.config.identity.assertion.as_deref();
    let shown = |name: &str, value: &str| {
        if statement == Some(name) {
            "(signed)".to_owned()
        } else if name.eq_ignore_ascii_case("authorization") {
            "(as it came)".to_owned()
        } else {
            value.to_owned()
        }
    };
    let seen = |(index, (name, value)): (usize, &(&str, &str))| HeaderSeen {
        name: (*name).to_owned(),
        value: shown(name, value),
        by_gateway: index >= passed,
    };
    let upstream = forward.rules.config.upstreams.get(forward.route.upstream);
    let timeouts = upstream.map(|upstream| forward.timeouts(upstream));
    let changes = Changes::of(forward, exchange);
    Outcome::Forwarded {
        openid: forward.caller.as_ref().map(|it| it.identity.openid.as_str().to_owned()),
        request_line: request_line.trim_end_matches(" HTTP/1.1").to_owned(),
        headers: lines.iter().enumerate().map(seen).collect(),
        removed: removed.unwrap_or_default(),
        timeouts: timeouts.map_or_else(Default::default, |it| {
            [it.connect, it.read, it.write].map(config::written)
        }),
        answer_headers: changes.lines().map(|(name, it)| (name.into(), it.into())).collect(),
    }
}

fn removed(head: &RequestHead<'_>, forward: &Forward) -> Vec<Removed> {
    let fate = |line: &httparse::Header<'_>| {
        // These are the lane's: it frames the message.
        let is_framing =
            ["host", "content-length"].iter().any(|name| line.name.eq_ignore_ascii_case(name));
        let why = match forward.fate(line.name.as_bytes(), line.value) {
            _ if line.name.eq_ignore_ascii_case("expect") => "the gateway answers it",
            Fate::Drop(removal) if !is_framing => removal.why(),
            Fate::Replace(_) => "goes on without the gateway's token",
            Fate::Drop(_) | Fate::Pass => return None,
        };
        Some(Removed { name: line.name.to_owned(), why: why.to_owned() })
    };
    head.headers.0.iter().filter_map(fate).collect()
}
