//! The full lane: Pingora's proxy, one short function per phase. It carries out what `admit`
//! decided; nothing is decided here but what can only be known once the upstream was asked.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::answering::{self, After, Changes};
use super::attempt::Attempt;
use super::bridge;
use super::pace::Pace;
use super::passage::{Admitted, Body, Passage, not_admitted};
use super::reject;
use super::upgrade;
use crate::endpoints::Refusal;
use crate::observe::Attempted;
use crate::upstream::{PickKey, Spoken};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The full lane. It has no state of its own: all of it comes with the request.
#[derive(Debug)]
pub struct FullLane;

#[async_trait]
impl ProxyHttp for FullLane {
    type CTX = Passage;

    // Nothing of an answer is compressed here: none of Pingora's modules is wanted.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

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
        // The connection of an HTTP/1 request sees to it itself.
        if session.is_http2() {
            let rate = passage.forward()?.rules.config.server.min_body_rate;
            passage.pace = Pace::of(rate);
            passage.pace.wait();
        }
        if passage.admitted.as_ref().is_some_and(|admitted| admitted.after == After::Close) {
            session.set_keepalive(None);
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // RFC 9110 section 15.2: HTTP/1.0 knows no answers before the answer.
            session.set_ignore_info_resp(true);
            // It told Pingora to keep the client's connection.
            session.req_header_mut().remove_header(&CONNECTION);
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
        // The head was written anew: what Pingora would take off is not in it. HTTP/2 has no place
        // for what frames a body in HTTP/1.
        if upstream.config.tls.is_none() {
            options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        }
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
        for (name, value) in forward.late_additions() {
            // Names are the configuration's: kept as it spells them.
            request.insert_header(name.to_owned(), value.as_ref())?;
        }
        bridge::write_cookie(request, forward)?;
        let host = match (forward.host.as_str(), &passage.attempt) {
            ("", Some(attempt)) => attempt.picked.server.name(),
            (host, _) => host,
        };
        let mut hosts = request.headers.get_all(HOST).iter();
        if hosts.next().is_none_or(|it| it != host) || hosts.next().is_some() {
            request.insert_header(HOST, host)?;
        }
        if forward.websocket {
            request.insert_header("Connection", "Upgrade")?;
            request.insert_header("Upgrade", "websocket")?;
        } else if session.is_body_empty() && !request.headers.contains_key(CONTENT_LENGTH) {
            request.remove_header(&TRANSFER_ENCODING);
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
            response.remove_header(&CONTENT_LENGTH);
            response.remove_header(&TRANSFER_ENCODING);
        }
        answering::change(response, changes)?;
        if !response.headers.contains_key(&X_REQUEST_ID) {
            response.insert_header("X-Request-Id", &*forward.client.request_id)?;
        }
        if session.req_header().version == http::Version::HTTP_10 {
            // RFC 9112 section 6.1: HTTP/1.0 knows no chunks. What has no length then ends with
            // the connection.
            if response.remove_header(&TRANSFER_ENCODING).is_some() {
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
