//! Answers on their way to the client: the gateway's own, and what is changed on a backend's.

use std::borrow::Cow;

use http::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, ImmutStr};

use super::connection::Connection;
use super::exchange::Exchange;
use super::forward::Forward;
use super::head::Headers;
use crate::config::HeaderChanges;
use crate::endpoints::Answer;
use crate::route::cors::Line;
use tokio::io::AsyncWriteExt;

/// Tells the client to refresh in time.
pub(crate) const SESSION_EXPIRES_IN: &str = "X-Session-Expires-In";

/// What the gateway changes on a backend's answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changes<'a> {
    /// Seconds left of the token, within the last tenth of its life.
    session_expires_in: Option<u64>,
    /// What a page of another site is told; empty where there is no `cors`.
    cors: &'a [Line],
    /// What the route says.
    route: &'a HeaderChanges,
}

impl<'a> Changes<'a> {
    /// For a forwarded request.
    pub(crate) fn of(forward: &'a Forward, exchange: &'a Exchange) -> Self {
        let caller = forward.caller.as_deref();
        Self {
            session_expires_in: caller
                .and_then(|caller| forward.rules.sessions.expiry_hint(caller)),
            cors: exchange.cors(),
            route: &forward.route.response_headers,
        }
    }

    /// None at all.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        static NONE: HeaderChanges =
            HeaderChanges { set: std::collections::BTreeMap::new(), remove: Vec::new() };
        Self { session_expires_in: None, cors: &[], route: &NONE }
    }

    /// Whether a header of the backend's ends here. What it says of CORS does where the gateway
    /// says it.
    pub(crate) fn drop(&self, name: &str) -> bool {
        let begins = |prefix: &str| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let HeaderChanges { set, remove } = self.route;
        name.eq_ignore_ascii_case(SESSION_EXPIRES_IN)
            || (!self.cors.is_empty() && begins("access-control-"))
            || set.keys().chain(remove).any(|changed| name.eq_ignore_ascii_case(changed))
    }

    /// What is written besides.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let expiry = self.session_expires_in.map(|left| Cow::Owned(left.to_string()));
        let borrowed = |value: &'a String| Cow::Borrowed(value.as_str());
        let set = self.route.set.iter().map(move |(name, value)| (name.as_str(), borrowed(value)));
        let cors = self.cors.iter().map(move |(name, value)| (*name, borrowed(value)));
        set.chain(cors).chain(expiry.map(|left| (SESSION_EXPIRES_IN, left)))
    }
}

/// What an answer says of the upstream's connection.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "upgrade",
];

/// What frames an answer: no `Connection` can name it away.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Takes off what is about the upstream's connection (RFC 9110 section 7.6.1). `Transfer-Encoding`
/// stays: it tells Pingora how to frame the answer, and it frames it anew.
pub(crate) fn strip_hop_by_hop(response: &mut ResponseHeader) {
    let headers = &response.headers;
    let values = || headers.get_all(http::header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let names_any = values().any(|value| !is_plain_connection(value));
    let nominates = |name: &str| {
        let mut items = values().flat_map(|value| value.split(|it| *it == b','));
        names_any && items.any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    let is_dropped = |name: &&http::HeaderName| {
        let name = name.as_str();
        is_about_connection(name) || (nominates(name) && !FRAMING.contains(&name))
    };
    // To ask for each of them would cost more than to look at those that are there.
    let dropped: Vec<_> = headers.keys().filter(is_dropped).cloned().collect();
    for name in dropped {
        response.remove_header(&name);
    }
}

/// Whether an answer is framed by `chunked` alone or by none: any other coding of the transfer
/// would be passed on as if it were the content.
pub(crate) fn is_framed_plainly(response: &ResponseHeader) -> bool {
    let mut codings = response.headers.get_all(http::header::TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Writes the length of an answer once (RFC 9110 section 8.6). Pingora has seen that several are
/// equal, but passes `5, 5` and two lines on as they came.
pub(crate) fn state_length_once(response: &mut ResponseHeader) -> pingora::Result<()> {
    let lengths = response.headers.get_all(http::header::CONTENT_LENGTH);
    let mut digits = lengths.iter().flat_map(|value| value.as_bytes().split(|it| *it == b','));
    if let (Some(first), Some(_)) = (digits.next(), digits.next()) {
        let first = first.trim_ascii().to_vec();
        response.insert_header(http::header::CONTENT_LENGTH, first)?;
    }
    Ok(())
}

/// Takes off what is changed, of the head of an answer that Pingora holds.
pub(crate) fn drop_changed(response: &mut ResponseHeader, changes: Changes<'_>) {
    let names = response.headers.keys().filter(|name| changes.drop(name.as_str()));
    let dropped: Vec<_> = names.cloned().collect();
    for name in dropped {
        response.remove_header(&name);
    }
}

/// Changes the head of an answer that Pingora holds.
pub(crate) fn change(response: &mut ResponseHeader, changes: Changes<'_>) -> pingora::Result<()> {
    drop_changed(response, changes);
    for (name, value) in changes.lines() {
        response.append_header(name.to_owned(), value.as_ref())?;
    }
    Ok(())
}

/// Tells how long the token lasts beside an answer that passes as it came otherwise.
pub(crate) fn hint(response: &mut ResponseHeader, changes: Changes<'_>) -> pingora::Result<()> {
    response.remove_header(SESSION_EXPIRES_IN);
    match changes.session_expires_in {
        Some(left) => response.insert_header(SESSION_EXPIRES_IN, left.to_string()),
        None => Ok(()),
    }
}

/// Whether an answer ends with its head (RFC 9112 section 6.3).
pub(crate) fn has_no_body(response: &ResponseHeader, method: &http::Method) -> bool {
    let length = response.headers.get(http::header::CONTENT_LENGTH);
    method == http::Method::HEAD
        || matches!(response.status.as_u16(), 204 | 304)
        || length.is_some_and(|length| length.as_bytes() == b"0")
}

/// Ends a request whose answer is whole before it is.
pub(crate) fn answered() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, ImmutStr::from("answered already"))
}

/// The names that `Connection` may hold: looked through for each header only where there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nominated<'a>(Option<Headers<'a>>);

impl<'a> Nominated<'a> {
    /// Those of an answer.
    pub(crate) fn of(headers: Headers<'a>) -> Self {
        let names_any = headers.get_all("connection").any(|value| !is_plain_connection(value));
        Self(names_any.then_some(headers))
    }

    fn contains(self, name: &str) -> bool {
        self.0.is_some_and(|headers| headers.lists("connection", name))
    }
}

/// Whether a `Connection` names no header: nearly every answer has such a one.
fn is_plain_connection(value: &[u8]) -> bool {
    ["keep-alive", "close"].iter().any(|it| value.eq_ignore_ascii_case(it.as_bytes()))
}

fn is_about_connection(name: &str) -> bool {
    // Their lengths, since nearly every other header has another one.
    matches!(name.len(), 2 | 7 | 10 | 16 | 18)
        && HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// Whether a header of an answer is about the upstream's connection (RFC 9110 section 7.6.1).
pub(crate) fn is_hop_by_hop(name: &str, nominated: Nominated<'_>) -> bool {
    is_about_connection(name)
        || (nominated.contains(name)
            && !FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)))
}

/// Whether the connection may carry another request after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It may.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Writes one of the gateway's own answers on an HTTP/1 connection; returns the bytes of its body.
pub(crate) async fn write_to_connection(
    connection: &mut Connection,
    answer: &Answer,
    method: &str,
    after: After,
) -> std::io::Result<u64> {
    let reason = http::StatusCode::from_u16(answer.status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", answer.status);
    for (name, value) in &answer.headers {
        // Values are ours or were checked, and still no line may be smuggled in by one.
        if !value.bytes().any(|byte| byte.is_ascii_control()) {
            write_line(&mut head, name, value);
        }
    }
    for (name, value) in &answer.told {
        write_line(&mut head, name, value);
    }
    if answer.status != 204 {
        write_line(&mut head, "Content-Length", &answer.body.len().to_string());
    }
    write_line(&mut head, "Date", &crate::clock::http_date());
    let connection_word = match after {
        After::KeepAlive => "keep-alive",
        After::Close => "close",
    };
    write_line(&mut head, "Connection", connection_word);
    head.push_str("\r\n");
    connection.write_all(head.as_bytes()).await?;
    let body: &[u8] = if method == "HEAD" { &[] } else { &answer.body };
    connection.write_all(body).await?;
    connection.flush().await?;
    Ok(body.len() as u64)
}

fn write_line(head: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.push_str(part);
    }
}

/// Writes one of the gateway's own answers where Pingora holds the connection.
pub(crate) async fn write_to_session(session: &mut Session, answer: Answer) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 1))?;
    for (name, value) in answer.headers {
        head.append_header(name, value)?;
    }
    head.insert_header(http::header::CONTENT_LENGTH, answer.body.len())?;
    // Pingora leaves the body of an answer to HEAD out over HTTP/1 only.
    let is_head = session.req_header().method == http::Method::HEAD;
    let body = if is_head { Vec::new() } else { answer.body };
    session.write_response_header(Box::new(head), body.is_empty()).await?;
    session.write_response_body(Some(body.into()), true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hop_by_hop_header_is_known_as_one() {
        let none = Nominated(None);
        assert!(HOP_BY_HOP.iter().all(|hop| is_hop_by_hop(&hop.to_ascii_uppercase(), none)));
        assert!(!is_hop_by_hop("Content-Type", none));
    }
}
