//! `GET verify`: a proxy in front (nginx auth_request, Traefik, Caddy) asks whether the request that
//! it serves may pass, and as whom. It is judged by the routes as if it had come here, its path
//! normalised likewise.
//!
//! The request is known from headers, and a proxy passes its client's headers on: so what is said
//! twice, or in two ways that differ, is refused, and only trusted proxies are listened to. Who says
//! X-Original-URI alone, as nginx is often told to, says nothing of method and host: the route must
//! then be the same whatever they are.

use std::sync::Arc;

use super::admit::{authenticate, authorise, find_credential};
use super::answering::SESSION_EXPIRES_IN;
use super::client::Client;
use super::exchange::Exchange;
use super::head::RequestHead;
use super::rules::Rules;
use crate::endpoints::{Answer, Refusal};
use crate::route::path::normalise;
use crate::session::Verified;

/// Who may pass with the request that `head` asks about; `None`: whoever it is.
///
/// # Errors
/// 401 or 403 where the request may not pass or its client made it ambiguous: a proxy knows these
/// two alone. 400 where the proxy says nothing.
pub(super) fn judge(
    rules: &Arc<Rules>,
    head: &RequestHead<'_>,
    client: &Client,
    exchange: &mut Exchange,
) -> Result<Option<Arc<Verified>>, Refusal> {
    if !client.behind_trusted_proxy {
        return Err(Refusal::AccessDenied);
    }
    let Original { uri, host, method } = original(head)?;
    let (path, _) = uri.split_once('?').unwrap_or((uri, ""));
    let path = normalise(path).map_err(|_| Refusal::AccessDenied)?;
    if rules.endpoints.owns(&path.routed) {
        return Err(Refusal::AccessDenied);
    }
    let route = rules.table.find_whatever(host, &path.routed, method);
    let route = route.ok_or(Refusal::AccessDenied)?;
    exchange.takes_route(route);
    let asked = RequestHead { target: uri, ..*head };
    let credential = find_credential(rules, &asked).map_err(|_| Refusal::AccessDenied)?;
    let caller = authenticate(rules, route, &credential, exchange)?;
    authorise(route, caller.as_deref())?;
    Ok(caller)
}

/// Tells a proxy who is calling, as an upstream is told.
pub(super) async fn vouch(rules: &Rules, caller: Option<&Verified>, request_id: &str) -> Answer {
    let phone = match caller.filter(|_| rules.headers.tells_phone()) {
        Some(caller) => rules.sessions.phone(caller).await,
        None => Ok(None),
    };
    match phone {
        Ok(phone) => {
            let told = rules.headers.vouch(caller.map(|caller| &caller.identity));
            let told = told.chain(rules.headers.vouch_phone(phone.as_ref()));
            let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let mut answer = Answer::vouch(told.map(owned).collect());
            let hint = caller.and_then(|caller| rules.sessions.expiry_hint(caller));
            answer.headers.extend(hint.map(|left| (SESSION_EXPIRES_IN, left.to_string())));
            answer
        }
        Err(error) => Refusal::from(error).into_answer(request_id),
    }
}

/// A request as a proxy tells of it.
struct Original<'a> {
    /// Path and query.
    uri: &'a str,
    /// `None`: not told, or not told by the proxy for sure.
    host: Option<&'a str>,
    /// Likewise.
    method: Option<&'a str>,
}

fn original<'a>(head: &RequestHead<'a>) -> Result<Original<'a>, Refusal> {
    match (one(head, "x-forwarded-uri")?, one(head, "x-original-uri")?) {
        (None, None) => Err(Refusal::Malformed("neither X-Forwarded-Uri nor X-Original-URI")),
        (Some(uri), None) => Ok(Original {
            uri,
            host: one(head, "x-forwarded-host")?,
            method: one(head, "x-forwarded-method")?,
        }),
        (Some(uri), Some(other)) if uri != other => Err(Refusal::AccessDenied),
        // Whatever stands beside it may be the client's.
        (_, Some(uri)) => Ok(Original { uri, host: None, method: None }),
    }
}

/// The one value of a header.
fn one<'a>(head: &RequestHead<'a>, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = head.headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = std::str::from_utf8(value).map(str::trim);
            text.map(Some).map_err(|_| Refusal::AccessDenied)
        }
        (Some(_), Some(_)) => Err(Refusal::AccessDenied),
    }
}
