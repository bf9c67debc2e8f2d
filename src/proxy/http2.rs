//! An HTTP/2 connection: each of its streams is admitted as an HTTP/1 request is, and carried out
//! by an answer of our own or through the full lane.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST};
use http::{HeaderName, HeaderValue};
use pingora::apps::HttpServerApp;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora::protocols::{Digest, GetSocketDigest};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::admit::{Decision, OwnRequest, admit};
use super::answering::After;
use super::client::{Peer, new_request_id};
use super::connection::Connection;
use super::exchange::Exchange;
use super::forward::{Fate, Forward};
use super::gateway::Gateway;
use super::head::LAST_CALL;
use super::http2_head::with_http2_head;
use super::passage::{Admitted, not_admitted};
use super::rewrite::encoded;
use super::rules::Rules;
use super::upgrade::Cut;
use crate::endpoints::{Answer, Refusal};

/// Streams of a connection that may be open at once.
const MAX_STREAMS: u32 = 100;
/// Streams that are still being worked on. A client that opens and resets streams faster than
/// they can be ended (CVE-2023-44487) gets beyond `MAX_STREAMS`, and is cut off here.
const MAX_UNDER_WAY: usize = 2 * MAX_STREAMS as usize;
/// How much more of a decoded header list is read than a request may have: what is larger by less
/// is refused as any request is, past it h2 answers 431 by itself, without a word.
const HEADER_LIST: usize = 4;
/// Smallest limit on a decoded header list.
const MIN_HEADER_LIST: usize = 128 * 1024;
/// Bytes of uploads that may be under way on one connection, over all of its streams.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of an answer that may wait for the client to take them.
const SEND_BUFFER: usize = 64 * 1024;
/// Malformed requests after which a connection is closed.
const MAX_MALFORMED: usize = 32;

/// Serves a connection until it is closed.
pub(super) async fn serve(gateway: Arc<Gateway>, mut connection: Connection) {
    let rules = gateway.rules.load_full();
    let idle_timeout = rules.config.server.idle_timeout;
    let peer = connection.peer().clone();
    let digest = Digest { socket_digest: connection.get_socket_digest(), ..Digest::default() };
    let digest = Arc::new(digest);
    connection.open_http2();
    let shaken = handshake(Box::new(connection), Some(options(&rules)));
    let Ok(Ok(mut http2)) = timeout(rules.config.server.header_timeout, shaken).await else {
        return;
    };
    drop(rules);
    let mut streams = JoinSet::new();
    let mut malformed = 0;
    let mut draining = gateway.draining.clone();
    let mut drains = false;
    while streams.len() <= MAX_UNDER_WAY && malformed < MAX_MALFORMED {
        let patience = if drains { LAST_CALL } else { idle_timeout };
        tokio::select! {
            accepted = HttpSession::from_h2_conn(&mut http2, Arc::clone(&digest)) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    let stream = serve_stream(Arc::clone(&gateway), session, peer.clone());
                    streams.spawn(stream);
                }
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    // Pingora has answered, without a body.
                    unread(&gateway.rules.load_full(), &peer).status = 400;
                }
                Ok(None) | Err(_) => break,
            },
            Some(_) = streams.join_next() => {}
            _ = draining.wait_for(|draining| *draining), if !drains => {
                drains = true;
                // GOAWAY: what is under way is finished, and nothing new is begun.
                http2.graceful_shutdown();
            }
            () = sleep(patience), if streams.is_empty() => break,
        }
    }
    drop(http2);
    // Every stream has ended with its connection; what is left is to count and log it.
    let counted = async { while streams.join_next().await.is_some() {} };
    if timeout(idle_timeout, counted).await.is_err() {
        log::warn!("HTTP/2 streams outlived their connection and were cut off");
    }
}

fn options(rules: &Rules) -> H2Options {
    let max_bytes = rules.config.server.max_header_bytes;
    let header_list = max_bytes.saturating_mul(HEADER_LIST).max(MIN_HEADER_LIST);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    options
}

fn unread(rules: &Arc<Rules>, peer: &Peer) -> Box<Exchange> {
    let mut exchange = Exchange::unread(rules, peer.address, "HTTP/2.0");
    exchange.request_id = new_request_id();
    exchange
}

async fn serve_stream(gateway: Arc<Gateway>, mut session: HttpSession, peer: Peer) {
    let rules = gateway.rules.load_full();
    let idle_timeout = rules.config.server.idle_timeout;
    session.set_write_timeout(Some(idle_timeout));
    let max_bytes = rules.config.server.max_header_bytes;
    let admitted =
        with_http2_head(session.req_header(), max_bytes, |head| admit(&rules, &head, &peer));
    let (exchange, decision) =
        admitted.unwrap_or_else(|refusal| (unread(&rules, &peer), Decision::Refuse(refusal)));
    let Decision::Forward(mut forward) = decision else {
        answer_ourselves(&rules, session, exchange, decision).await;
        return;
    };
    if let Err(refusal) = forward.look_up().await {
        answer_ourselves(&rules, session, exchange, Decision::Refuse(refusal)).await;
        return;
    }
    let Ok(mut head) = rewritten(session.req_header(), &forward) else {
        let refused = Decision::Refuse(Refusal::Malformed("a head that cannot be forwarded"));
        answer_ourselves(&rules, session, exchange, refused).await;
        return;
    };
    let cut = Cut::default();
    let after = After::KeepAlive;
    Admitted { forward, exchange, cut: cut.clone(), after }.hand_over(&mut head);
    *session.req_header_mut() = head;
    let mut session = ServerSession::new_http2(session);
    session.set_total_drain_timeout(Some(Duration::from_secs(2)));
    tokio::select! {
        // A stream carries one request, and so nothing is left of it.
        reused = gateway.full.process_new_http(session, &gateway.draining) => drop(reused),
        // The stream ends with the future that holds it.
        () = cut.due() => {}
    }
}

/// The head as the upstream gets it but for what is new with each attempt, with the spelling of its
/// names noted down, which the full lane goes by.
fn rewritten(request: &RequestHeader, forward: &Forward) -> pingora::Result<RequestHeader> {
    let lines = request.headers.len();
    let target = encoded(&forward.target);
    let mut head = RequestHeader::build(request.method.clone(), target.as_bytes(), Some(lines))?;
    head.set_version(request.version);
    let mut pass = |name: &HeaderName, value: &HeaderValue| {
        let name_of_line = name.as_str().to_owned();
        match forward.fate(name.as_str().as_bytes(), value.as_bytes()) {
            Fate::Pass => head.append_header(name_of_line, value.clone()).map(drop),
            Fate::Replace(bytes) => head.append_header(name_of_line, bytes).map(drop),
            Fate::Drop(_) => Ok(()),
        }
    };
    // `Expect` is about the client's connection with the gateway.
    let is_apart = |name: &HeaderName| matches!(*name, COOKIE | HOST | EXPECT);
    for (name, value) in request.headers.iter().filter(|(name, _)| !is_apart(name)) {
        pass(name, value)?;
    }
    // HTTP/2 clients may cut it into crumbs (RFC 9113 section 8.2.3); HTTP/1 has one.
    let crumbs: Vec<&[u8]> =
        request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !crumbs.is_empty() {
        let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        pass(&COOKIE, &joined.map_err(|_| not_admitted())?)?;
    }
    head.insert_header(HOST, &*forward.host)?;
    for (name, value) in forward.lasting_additions() {
        head.insert_header(name.to_owned(), value)?;
    }
    Ok(head)
}

async fn answer_ourselves(
    rules: &Arc<Rules>,
    mut session: HttpSession,
    mut exchange: Box<Exchange>,
    decision: Decision,
) {
    let answer = if let Decision::Own(own) = decision {
        own_answer(rules, &mut session, &mut exchange, *own).await
    } else {
        decision.into_answer(rules, &exchange).await
    };
    let status = answer.status;
    match write(&mut session, answer).await {
        Ok(()) => exchange.status = status,
        Err(error) => log::debug!("an answer could not be written: {}", error.etype().as_str()),
    }
    exchange.bytes_out = session.body_bytes_sent() as u64;
}

async fn own_answer(
    rules: &Arc<Rules>,
    session: &mut HttpSession,
    exchange: &mut Exchange,
    own: OwnRequest,
) -> Answer {
    let reading = read_body(session, own.endpoint.body_limit());
    let reading = timeout(rules.config.server.header_timeout, reading);
    match reading.await.unwrap_or(Err(Refusal::RequestTimeout)) {
        Ok(body) => own.answer(rules, exchange, &body).await,
        Err(refusal) => exchange.refused(refusal),
    }
}

/// Reads a small body whole.
async fn read_body(session: &mut HttpSession, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    loop {
        match session.read_body_bytes().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => return Ok(body),
            Err(_) => return Err(Refusal::Malformed("a body that ends early")),
        }
        if body.len() as u64 > limit {
            return Err(Refusal::ContentTooLarge);
        }
    }
}

async fn write(session: &mut HttpSession, answer: Answer) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 1))?;
    for (name, value) in answer.headers {
        head.append_header(name, value)?;
    }
    for (name, value) in answer.told {
        head.append_header(name, value)?;
    }
    if answer.status != 204 {
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    let has_body = !answer.body.is_empty() && session.req_header().method != http::Method::HEAD;
    session.write_response_header(Box::new(head), !has_body)?;
    if has_body {
        session.write_body(Bytes::from(answer.body), true).await?;
    }
    Ok(())
}
