//! The full lane: Pingora's proxy, one short function per phase. It carries out what `admit`
//! decided; nothing is decided here but what can only be known once the upstream was asked.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::answering::{self, After, Changes};
use super::attempt::Attempt;
use super::bridge;
use super::forward::{Fate, Forward};
use super::head::is_unwise;
use super::pace::Pace;
use super::passage::{Admitted, Body, Passage, not_admitted};
use super::reject;
use super::upgrade;
use crate::endpoints::Refusal;
use crate::observe::Attempted;
use crate::upstream::{PickKey, Spoken};

/// The full lane. It has no state of its own: all of it comes with the request.
#[derive(Debug)]
pub struct FullLane;

#[async_trait]
impl ProxyHttp for FullLane {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        Passage::default()
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        passage: &mut Passage,
        admitted: Box<dyn Any + Send + Sync>,
    ) {
        passage.admitted = admitted.downcast::<Admitted>().ok().map(|admitted| *admitted);
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<bool> {
        passage.body = if session.is_body_empty() { Body::None } else { Body::Some };
        if passage.admitted.is_none() {
            passage.admitted = Admitted::taken_out_of(session.req_header_mut());
        }
        let websocket = passage.forward()?.websocket;
        // The connection of an HTTP/1 request sees to it itself.
        if session.is_http2() {
            let rate = passage.forward()?.rules.config.server.min_body_rate;
            passage.pace = Pace::of(rate);
            passage.pace.wait();
        }
        // Pingora looks at the first `Connection` only.
        if passage.admitted.as_ref().is_some_and(|admitted| admitted.after == After::Close) {
            session.set_keepalive(None);
        }
        // RFC 9110 section 15.2: HTTP/1.0 knows no answers before the answer.
        let is_http_1_0 = session.req_header().version == http::Version::HTTP_10;
        session.set_ignore_info_resp(is_http_1_0);
        let request = session.req_header_mut();
        // What `Connection` names was read by `admit`; Pingora would refuse some of it. An
        // `Upgrade` to anything but WebSocket is a wish that need not be granted.
        request.remove_header(&http::header::CONNECTION);
        request.remove_header(&http::header::EXPECT);
        if !websocket {
            request.remove_header(&http::header::UPGRADE);
        }
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        passage: &mut Passage,
    ) -> Result<Box<HttpPeer>> {
        let forward = passage.forward()?;
        let upstream =
            forward.rules.upstreams.get(forward.route.upstream).ok_or_else(not_admitted)?;
        let key = PickKey {
            openid: forward.caller.as_deref().map(|caller| caller.identity.openid.as_str()),
            client: forward.client.address,
        };
        let now = Instant::now();
        let Ok(picked) = upstream.pick(key, &passage.tried, now) else {
            return Err(passage.refuse(Refusal::UpstreamUnavailable));
        };
        // A WebSocket takes a connection for itself.
        let spoken = if forward.websocket { Spoken::Http1 } else { Spoken::Best };
        let mut peer = upstream.peer(picked.server.name(), picked.address, spoken);
        let options = &mut peer.options;
        let timeouts = forward.timeouts(&upstream.config);
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::standard();
        if !passage.tried.is_empty() {
            picked.server.counts().retried();
        }
        passage.tried.push(picked.index);
        if let Some(admitted) = &mut passage.admitted {
            admitted.exchange.server = Some(Arc::clone(&picked.server));
        }
        passage.attempt = Some(Attempt::at(picked, now));
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&pingora::protocols::Digest>,
        passage: &mut Passage,
    ) -> Result<()> {
        if let Some(attempt) = &passage.attempt {
            attempt.picked.connected();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let forward = passage.forward()?;
        let target = encoded(&forward.target);
        if request.raw_path() != target.as_bytes() {
            request.set_raw_path(target.as_bytes())?;
        }
        rewrite(request, forward)?;
        bridge::write_cookie(request, forward)?;
        let host = match (forward.host.as_str(), &passage.attempt) {
            ("", Some(attempt)) => attempt.picked.server.name(),
            (host, _) => host,
        };
        let mut hosts = request.headers.get_all(http::header::HOST).iter();
        if hosts.next().is_none_or(|it| it != host) || hosts.next().is_some() {
            request.insert_header(http::header::HOST, host)?;
        }
        if forward.websocket {
            request.insert_header("Connection", "Upgrade")?;
            request.insert_header("Upgrade", "websocket")?;
        } else if session.is_body_empty() && request.headers.get("content-length").is_none() {
            request.remove_header(&http::header::TRANSFER_ENCODING);
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        passage: &mut Passage,
    ) -> Result<()> {
        // An empty last chunk would be written as the last chunk twice.
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        let came = body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        passage.received += came;
        passage.pace.came(came);
        if passage.pace.is_too_slow() {
            return Err(passage.refuse(Refusal::RequestTimeout));
        }
        passage.pace.wait();
        if passage.is_answered() {
            return Err(answering::answered());
        }
        let forward = passage.forward()?;
        if forward.max_body_bytes.is_some_and(|most| passage.received > most) && !forward.websocket
        {
            return Err(passage.refuse(Refusal::ContentTooLarge));
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let status = response.status.as_u16();
        if upgrade::stays_open(response) {
            passage.stays_open(status);
        }
        let forward = passage.forward()?;
        if status == 101 && !forward.websocket {
            return Err(passage.refuse(Refusal::BadGateway));
        }
        if let Err(refusal) = bridge::keep(forward, response).await {
            return Err(passage.refuse(refusal));
        }
        let Admitted { forward, exchange, .. } =
            passage.admitted.as_ref().ok_or_else(not_admitted)?;
        let changes = Changes::of(forward, exchange);
        if status == 101 {
            answering::hint(response, changes)?;
            passage.count_attempt(Attempted::Status(status));
            return Ok(());
        }
        if response.status.is_informational() {
            answering::drop_changed(response, changes);
            return Ok(());
        }
        if !answering::is_framed_plainly(response) {
            return Err(passage.refuse(Refusal::BadGateway));
        }
        answering::strip_hop_by_hop(response);
        answering::state_length_once(response)?;
        // The gateway speaks HTTP/1.1 whatever the backend speaks: the framing is the gateway's.
        response.set_version(http::Version::HTTP_11);
        if status == 204 {
            // RFC 9110 section 8.6; some clients wait for the bytes that it announces.
            response.remove_header(&http::header::CONTENT_LENGTH);
            response.remove_header(&http::header::TRANSFER_ENCODING);
        }
        answering::change(response, changes)?;
        if !response.headers.contains_key("x-request-id") {
            response.insert_header("X-Request-Id", &*forward.client.request_id)?;
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // RFC 9112 section 6.1: HTTP/1.0 knows no chunks. What has no length then ends with
            // the connection.
            if response.remove_header(&http::header::TRANSFER_ENCODING).is_some() {
                session.set_keepalive(None);
            }
        }
        if forward.websocket || !session.is_body_done() {
            // The client's bytes were let through to make way for a WebSocket that is not coming,
            // or the client is still sending what nobody may want any more.
            session.set_keepalive(None);
        }
        passage.count_attempt(Attempted::Status(status));
        passage.status = Some(status);
        if answering::has_no_body(response, &session.req_header().method) {
            passage.answered(session);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        passage: &mut Passage,
    ) -> Result<Option<Duration>> {
        passage.sent += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if end_of_stream {
            passage.answered(session);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut http::HeaderMap,
        _passage: &mut Passage,
    ) -> Result<Option<Bytes>> {
        // HTTP/1 has them dropped already.
        trailers.clear();
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        passage: &mut Passage,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(attempt) = &passage.attempt {
            attempt.picked.failed_to_connect();
        }
        passage.count_attempt(Attempted::Connect);
        // Nothing was sent, so any method may be tried elsewhere.
        error.set_retry(may_try_again(passage));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        passage: &mut Passage,
        _client_reused: bool,
    ) -> Box<Error> {
        let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        if passage.waits_for_client(session, &error) {
            return passage.refuse(Refusal::RequestTimeout);
        }
        if error.esource() == &ErrorSource::Upstream {
            passage.count_attempt(if timed_out { Attempted::Timeout } else { Attempted::Reset });
        }
        // An answer that is late may still be on its way: the request was taken.
        let unanswered = session.response_written().is_none() && !timed_out;
        let repeatable = session.req_header().method.is_idempotent()
            && passage.body == Body::None
            && passage.refusal.is_none();
        let ours = error.esource() == &ErrorSource::Upstream;
        error.set_retry(ours && unanswered && repeatable && may_try_again(passage));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        passage: &mut Passage,
    ) -> FailToProxy {
        if passage.is_answered() {
            // The connection ends in good order, so that the answer arrives whatever the client
            // goes on sending.
            return FailToProxy { error_code: 0, can_reuse_downstream: true };
        }
        let refusal = passage.refusal.take().or_else(|| reject::of_pingora(error));
        let written =
            session.response_written().is_some_and(|head| !head.status.is_informational());
        let (Some(refusal), false) = (refusal, written) else {
            // The client went away, or has the beginning of an answer: it is cut off, so that
            // nobody takes half of it for the whole. HTTP/1.0 ends most answers by a mere close.
            if let (Some(admitted), true) =
                (&passage.admitted, session.req_header().version == http::Version::HTTP_10)
            {
                admitted.cut.broke_off();
            }
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        session.set_keepalive(None);
        let answer = match &passage.admitted {
            Some(admitted) => admitted.exchange.refused(refusal),
            None => refusal.into_answer(""),
        };
        let status = answer.status;
        if let Err(error) = answering::write_to_session(session, answer).await {
            log::debug!("an answer could not be written: {}", error.etype().as_str());
        }
        // Not to be used again, but to be ended in good order.
        FailToProxy { error_code: status, can_reuse_downstream: true }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, passage: &mut Passage) {
        let status = session.response_written().map_or(499, |head| head.status.as_u16());
        passage.count_attempt(Attempted::Aborted);
        if let (Some(error), Some(admitted), false) = (error, &passage.admitted, passage.refused) {
            reject::log_pingora(error, status, &admitted.exchange);
        }
        let received = passage.received;
        if let Some(mut admitted) = passage.admitted.take() {
            admitted.exchange.status = status;
            admitted.exchange.bytes_in = received;
            admitted.exchange.bytes_out = session.body_bytes_sent() as u64;
        }
    }

    // Pingora's own lines hold paths and queries; ours are written by `logging`.
    fn suppress_error_log(&self, _: &Session, _: &Passage, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Passage,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _: &Session, passage: &Passage) -> String {
        passage
            .admitted
            .as_ref()
            .map(|admitted| admitted.exchange.request_id.to_string())
            .unwrap_or_default()
    }
}

fn may_try_again(passage: &Passage) -> bool {
    passage.forward().ok().and_then(|forward| {
        let upstream = forward.rules.upstreams.get(forward.route.upstream)?;
        Some(upstream.grants_retry(passage.tried.len()))
    }) == Some(true)
}

/// A target as Pingora can hold it: with the bytes encoded that it takes in no query. Whoever
/// decodes the query reads what the client wrote.
fn encoded(target: &str) -> Cow<'_, str> {
    if !target.bytes().any(is_unwise) {
        return Cow::Borrowed(target);
    }
    Cow::Owned(target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E"))
}

/// Scrubs the client's headers and writes the gateway's. Runs once per attempt, on a fresh copy.
fn rewrite(request: &mut RequestHeader, forward: &Forward) -> Result<()> {
    // Without the spellings nothing below would be looked at, and everything would pass.
    if !request.has_case() {
        return Err(not_admitted());
    }
    let fates = request.case_header_iter().filter_map(|(name, value)| {
        let name = name.as_slice();
        (forward.fate(name, value.as_bytes()) != Fate::Pass).then(|| HeaderName::from_bytes(name))
    });
    let changed: Vec<HeaderName> = fates.collect::<Result<_, _>>().map_err(|_| not_admitted())?;
    // Headers of one name stand together; where one of them changes, all are written anew.
    let is_changed =
        |name: &[u8]| changed.iter().any(|it| it.as_str().as_bytes().eq_ignore_ascii_case(name));
    let mut kept = Vec::new();
    for (name, value) in request.case_header_iter() {
        if is_changed(name.as_slice()) {
            match forward.fate(name.as_slice(), value.as_bytes()) {
                Fate::Pass => kept.push((name.clone(), value.clone())),
                Fate::Drop(_) => {}
                Fate::Replace(bytes) => {
                    let value = HeaderValue::from_bytes(&bytes).map_err(|_| not_admitted())?;
                    kept.push((name.clone(), value));
                }
            }
        }
    }
    for name in &changed {
        request.remove_header(name);
    }
    for (name, value) in kept {
        request.append_header(name, value)?;
    }
    for (name, value) in forward.additions() {
        // Names are the configuration's: kept as it spells them.
        request.insert_header(name.to_owned(), value.as_ref())?;
    }
    Ok(())
}
