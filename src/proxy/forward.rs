//! A request as the upstream gets it: which of the client's headers pass, and what is said of the
//! client besides. Both lanes write it; this page decides it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::bridge::Bridge;
use super::client::Client;
use super::credential;
use super::head::{Headers, RequestHead, split_target};
use super::rules::Rules;
use crate::config::{self, HeaderChanges};
use crate::endpoints::Refusal;
use crate::identity::Phone;
use crate::identity::assertion::About;
use crate::identity::headers::{fold_alike, folds_to};
use crate::route::table::Route;
use crate::session::Verified;

/// A request that may be forwarded: where to and as whom.
#[derive(Debug)]
pub(crate) struct Forward {
    /// The rules that admitted it.
    pub(crate) rules: Arc<Rules>,
    /// The route that it falls under.
    pub(crate) route: Arc<Route>,
    /// Who is calling; `None` on a public route and for a guest.
    pub(crate) caller: Option<Arc<Verified>>,
    /// The caller's verified phone number, where the upstream is told.
    pub(crate) phone: Told,
    /// The cookies that the upstream keeps in the caller's session, where the route bridges them.
    pub(crate) bridge: Option<Bridge>,
    /// The client's method.
    pub(crate) method: Cow<'static, str>,
    /// Path and query as the upstream gets them.
    pub(crate) target: String,
    /// `Host` as the upstream gets it: the client's.
    pub(crate) host: String,
    /// Where the request came from.
    pub(crate) client: Client,
    /// Whether this asks for a WebSocket.
    pub(crate) websocket: bool,
    /// Whether `Authorization` holds a token of ours and is taken off.
    pub(crate) takes_authorization: bool,
    /// Header names that `Connection` names, lower case: they end here (RFC 9110 section 7.6.1).
    pub(crate) nominated: Vec<String>,
    /// Largest body that the route takes; `None`: any.
    pub(crate) max_body_bytes: Option<u64>,
}

/// The phone number that the upstream is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// This one, or none.
    Known(Option<Phone>),
    /// The session store has to be asked.
    NotYet,
}

impl Told {
    /// For a caller, without waiting.
    pub(crate) fn of(rules: &Rules, caller: Option<&Verified>) -> Self {
        match caller.filter(|_| rules.headers.tells_phone()) {
            Some(caller) => rules.sessions.known_phone(caller).map_or(Self::NotYet, Self::Known),
            None => Self::Known(None),
        }
    }
}

/// How long an upstream may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// To take a connection.
    pub(crate) connect: Duration,
    /// Between two reads of its answer.
    pub(crate) read: Duration,
    /// Between two writes of the request.
    pub(crate) write: Duration,
}

/// What becomes of one of the client's headers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on as it came.
    Pass,
    /// It ends here.
    Drop(Removal),
    /// It goes on with this value.
    Replace(Vec<u8>),
}

/// Why a header of the client does not reach the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It could be taken for one that tells who is calling.
    Identity,
    /// It could be taken for one that tells where the request came from.
    Forwarded,
    /// It could be taken for one that frames the message.
    Framing,
    /// The route removes or replaces it.
    Route,
    /// It is about the client's connection, or `Connection` names it.
    Connection,
    /// It carries the gateway's token, and nothing else.
    Token,
}

impl Removal {
    /// In words for operators.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Identity => "could be taken for a header that tells who is calling",
            Self::Forwarded => "the gateway says itself where the request came from",
            Self::Framing => "could be taken for a header that frames the message",
            Self::Route => "request_headers of the route",
            Self::Connection => "is about the client's connection",
            Self::Token => "carries the gateway's token",
        }
    }
}

/// Headers that are about one connection (RFC 9110 section 7.6.1), and those that frame a message
/// or name its target: whoever forwards writes them itself.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    // PHP shows `Proxy` as HTTP_PROXY, which HTTP clients take for a setting (httpoxy).
    "proxy",
];

/// Headers that say where a request came from; the gateway writes the first four itself.
const FORWARDED: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "forwarded",
    "x-real-ip",
];

/// Framing that a backend may read out of a look-alike name.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "host"];

impl Forward {
    /// Looks up what the upstream is told of the caller and no token says. Waits for the session
    /// store only for a caller whose phone number was verified, once for each token, and on a
    /// route with `cookie_bridge`, every time.
    ///
    /// # Errors
    /// 503 where the store cannot be read and `session.on_store_error` is deny.
    pub(crate) async fn look_up(&mut self) -> Result<(), Refusal> {
        if let (Told::NotYet, Some(caller)) = (&self.phone, self.caller.as_deref()) {
            self.phone = Told::Known(self.rules.sessions.phone(caller).await?);
        }
        if let (Some(bridge), Some(caller)) = (&mut self.bridge, self.caller.as_deref()) {
            bridge.look_up(&self.rules, caller, self.route.upstream).await?;
        }
        Ok(())
    }

    /// How long its upstream may take: as the route says, or else the upstream.
    pub(crate) fn timeouts(&self, upstream: &config::Upstream) -> Timeouts {
        let own = self.route.timeouts;
        Timeouts {
            connect: own.connect.unwrap_or(upstream.connect_timeout),
            read: own.read.unwrap_or(upstream.read_timeout),
            write: own.write.unwrap_or(upstream.write_timeout),
        }
    }

    /// Whether the session store need not be asked for anything.
    pub(crate) const fn is_complete(&self) -> bool {
        matches!(self.phone, Told::Known(_)) && self.bridge.is_none()
    }

    /// Decides about one header of the client. `Host`, `Content-Length` and `Expect` are left to
    /// the lane, which frames the message.
    pub(crate) fn fate(&self, name: &[u8], value: &[u8]) -> Fate {
        if let Some(removal) = self.removal(name) {
            return Fate::Drop(removal);
        }
        if name.eq_ignore_ascii_case(b"cookie") {
            let places = &self.rules.config.session.token_from;
            return match credential::cookie_without(value, places) {
                None => Fate::Pass,
                Some(rest) if rest.is_empty() => Fate::Drop(Removal::Token),
                Some(rest) => Fate::Replace(rest),
            };
        }
        Fate::Pass
    }

    /// Why a header of this name does not pass, whatever its value.
    fn removal(&self, name: &[u8]) -> Option<Removal> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let places = &self.rules.config.session.token_from;
        if self.rules.headers.is_reserved(name) {
            Some(Removal::Identity)
        } else if self.is_forwarded(name) {
            Some(Removal::Forwarded)
        } else if is_look_alike(name) {
            Some(Removal::Framing)
        } else if changes(&self.route.request_headers, name) {
            Some(Removal::Route)
        } else if HOP_BY_HOP.iter().any(|hop| is(hop))
            || self.nominated.iter().any(|named| is(named))
        {
            Some(Removal::Connection)
        } else if (is("authorization") && self.takes_authorization)
            || credential::is_token_header(name, places)
        {
            Some(Removal::Token)
        } else {
            None
        }
    }

    /// Made for each attempt: none is older than a minute when it arrives.
    fn assertion(&self) -> Option<(&str, String)> {
        let assertions = self.rules.assertions.as_ref()?;
        let upstream = self.rules.config.upstreams.get(self.route.upstream)?;
        let about = About {
            upstream: &upstream.name,
            method: &self.method,
            path: self.target.split('?').next().unwrap_or_default(),
            now: self.rules.clock.unix_seconds(),
        };
        assertions.vouch(&self.caller.as_deref()?.identity, about)
    }

    fn is_forwarded(&self, name: &[u8]) -> bool {
        FORWARDED.iter().any(|forwarded| {
            let is_plain = name.eq_ignore_ascii_case(forwarded.as_bytes());
            let passes = is_plain
                && self.client.behind_trusted_proxy
                && matches!(*forwarded, "forwarded" | "x-real-ip");
            !passes && folds_to(name, forwarded)
        })
    }

    /// What it adds besides: what is looked up late, or is new with each attempt.
    pub(crate) fn late_additions(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let phone = match &self.phone {
            Told::Known(phone) => phone.as_ref(),
            Told::NotYet => None,
        };
        let phone = self.rules.headers.vouch_phone(phone);
        let phone = phone.into_iter().map(|(name, value)| (name, Cow::Borrowed(value)));
        phone.chain(self.assertion().map(|(name, value)| (name, Cow::Owned(value))))
    }

    /// What the gateway adds that is known once the request is admitted. No name of the client's
    /// that could be taken for one of these is left beside it, before or behind.
    pub(crate) fn lasting_additions(&self) -> impl Iterator<Item = (&str, &str)> {
        let client = &self.client;
        let host = Some(client.host(&self.host)).filter(|host| !host.is_empty());
        let set = self.route.request_headers.set.iter();
        set.map(|(name, value)| (name.as_str(), value.as_str()))
            .chain([
                ("X-Request-Id", &*client.request_id),
                ("X-Forwarded-For", &*client.forwarded_for),
                ("X-Forwarded-Proto", &*client.forwarded_proto),
            ])
            .chain(host.map(|host| ("X-Forwarded-Host", host)))
            .chain(self.rules.headers.vouch(self.caller.as_deref().map(|caller| &caller.identity)))
    }
}

/// Whether a route's header changes are about a name, however it is spelled.
fn changes(changes: &HeaderChanges, name: &[u8]) -> bool {
    changes.set.keys().chain(&changes.remove).any(|changed| fold_alike(name, changed.as_bytes()))
}

/// A name that is not a framing header but that a backend may fold onto one.
fn is_look_alike(name: &[u8]) -> bool {
    FRAMING
        .iter()
        .any(|framing| folds_to(name, framing) && !name.eq_ignore_ascii_case(framing.as_bytes()))
}

/// What `Connection` names besides its own words. A name that must reach the upstream whatever
/// the client says (who is calling, where it came from, how the message is framed) is not taken.
pub(crate) fn nominated(headers: Headers<'_>) -> Vec<String> {
    const KEPT: [&str; 12] = [
        "close",
        "host",
        "content-length",
        "content-type",
        "authorization",
        "cookie",
        "expect",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
        "content-encoding",
    ];
    headers
        .get_all("connection")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && !KEPT.contains(&name.as_str()))
        .collect()
}

/// Path and query as the upstream gets them; `path` is the normalised one, parameters and all.
pub(crate) fn target(head: &RequestHead<'_>, path: &str, rules: &Rules, route: &Route) -> String {
    let path = route.upstream_path(path);
    let (_, Some(query)) = split_target(head.target) else {
        return path.to_owned();
    };
    match credential::query_without(query, &rules.config.session.token_from) {
        None => [path, "?", query].concat(),
        Some(rest) if rest.is_empty() => path.to_owned(),
        Some(rest) => [path, "?", &rest].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_cannot_name_away_what_must_arrive() {
        let lines = [httparse::Header {
            name: "Connection",
            value: b"close, X-Custom, Host, Cookie, X-Forwarded-For,,content-length",
        }];
        assert_eq!(nominated(Headers(&lines)), ["x-custom"]);
    }
}
