//! The fast lane: a plain HTTP/1.1 request, carried to the upstream and its answer back with as
//! little work as that takes.
//!
//! It carries out what `admit` decided, as the full lane does, and takes only what it knows
//! exactly: `request.rs` says what. The life of a request: its head is written anew into a spare
//! buffer (`rewrite.rs`), goes out on a connection of this thread (`pool.rs`) while the body
//! follows (`relay.rs`), the answer's head is read and written anew (`answer.rs`) and its body
//! streamed (`body.rs`).

mod answer;
mod body;
mod pool;
mod relay;
mod request;

use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;

use super::answering::{After, Changes, write_to_connection};
use super::attempt::Attempt;
use super::connection::{Connection, Window};
use super::exchange::Exchange;
use super::forward::Forward;
use super::head::RequestHead;
use super::reject::Failure;
use super::rewrite;
use super::spare;
use crate::observe::Attempted;
use crate::upstream::{PickKey, Upstream};
use answer::Asked;
use pool::Age;
use relay::{Limits, Outgoing, Relay};

pub(crate) use request::body_length;

/// A request that the fast lane carries out.
#[derive(Debug)]
pub(crate) struct Order {
    /// What is to be forwarded.
    pub(crate) forward: Box<Forward>,
    /// Its account.
    pub(crate) exchange: Box<Exchange>,
    /// Whether the client's connection goes on after it.
    pub(crate) after: After,
    method: Method,
    repeat: Repeat,
    /// The head as the upstream gets it, and then what of the body is at hand.
    out: Vec<u8>,
    /// Bytes of the body that are not in `out`.
    body_left: u64,
}

/// What a method means for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Its answer has no body.
    Head,
    /// Every other one.
    Other,
}

/// Until when a request may be sent to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// While nothing of it was sent.
    Unsent,
    /// While nothing of an answer came: it does the same twice as once (RFC 9110 section 9.2.2),
    /// and has no body, of which a part may be gone from here.
    Unanswered,
}

impl Repeat {
    fn of(method: &str, body: u64) -> Self {
        match method {
            "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE" if body == 0 => {
                Self::Unanswered
            }
            _ => Self::Unsent,
        }
    }
}

impl Order {
    /// Takes a request of which [`body_length`] says that the fast lane does.
    pub(crate) fn take(
        head: &RequestHead<'_>,
        body: u64,
        forward: Box<Forward>,
        exchange: Box<Exchange>,
        after: After,
    ) -> Box<Self> {
        let mut out = spare::take_out();
        rewrite::write(&mut out, head, &forward, body);
        let method = if head.method == "HEAD" { Method::Head } else { Method::Other };
        let repeat = Repeat::of(head.method, body);
        Box::new(Self { forward, exchange, after, method, repeat, out, body_left: body })
    }

    /// Takes over what of the body has come already: it goes out with the head.
    fn take_body(&mut self, connection: &mut Connection) {
        let ahead = connection.ahead();
        let count = ahead.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
        self.out.extend_from_slice(ahead.get(..count).unwrap_or_default());
        self.body_left -= count as u64;
        self.exchange.bytes_in += count as u64;
        connection.skip(count);
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        spare::give_out(std::mem::take(&mut self.out));
    }
}

/// Carries a request out whose head, `length` bytes, stands at the front of the connection; tells
/// whether the connection may carry another.
pub(crate) async fn carry(
    connection: &mut Connection,
    length: usize,
    mut order: Box<Order>,
) -> After {
    connection.skip(length);
    connection.open(Window::Bytes(0));
    order.take_body(connection);
    let mut reply = spare::take_out();
    let mut begun = Begun::No;
    let end = attempts(connection, &mut order, &mut reply, &mut begun).await;
    spare::give_out(reply);
    match end {
        Ok(End::Clean) if order.after == After::KeepAlive => After::KeepAlive,
        Ok(End::Clean | End::Unread) => {
            drop(order);
            connection.linger().await;
            After::Close
        }
        Err(failure) => {
            fail(connection, &mut order, failure, begun).await;
            After::Close
        }
    }
}

/// Whether the client has got a part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The request was read to its end.
    Clean,
    /// The answer came early; the client is still sending.
    Unread,
}

/// Tells the client, where there is one and it has not got half an answer, and the log.
async fn fail(connection: &mut Connection, order: &mut Order, failure: Failure, begun: Begun) {
    let exchange = &mut order.exchange;
    if let (Some(refusal), Begun::No) = (failure.refusal(), begun) {
        let answer = exchange.refused(refusal);
        exchange.status = answer.status;
        let method = if order.method == Method::Head { "HEAD" } else { "GET" };
        match write_to_connection(connection, &answer, method, After::Close).await {
            Ok(bytes) => exchange.bytes_out = bytes,
            Err(error) => log::debug!("an answer could not be written: {error}"),
        }
        failure.log(exchange);
        connection.linger().await;
    } else {
        failure.log(exchange);
    }
}

/// Tries servers until one has answered, or none may be tried any more.
async fn attempts(
    connection: &mut Connection,
    order: &mut Order,
    reply: &mut Vec<u8>,
    begun: &mut Begun,
) -> Result<End, Failure> {
    let rules = Arc::clone(&order.forward.rules);
    let upstream = rules.upstreams.get(order.forward.route.upstream).ok_or(Failure::NoServer)?;
    // Holds nothing, and so costs nothing, until an attempt has failed.
    let mut tried = Vec::new();
    loop {
        let key = PickKey {
            openid: order.forward.caller.as_deref().map(|caller| caller.identity.openid.as_str()),
            client: order.forward.client.address,
        };
        let now = Instant::now();
        let picked = upstream.pick(key, &tried, now).map_err(|_| Failure::NoServer)?;
        if !tried.is_empty() {
            picked.server.counts().retried();
        }
        order.exchange.server = Some(Arc::clone(&picked.server));
        let mut attempt = Attempt::at(picked, now);
        let age = match order.repeat {
            _ if !tried.is_empty() => Age::Fresh,
            Repeat::Unanswered => Age::Any,
            Repeat::Unsent => Age::Proven,
        };
        match try_server(connection, order, upstream, &mut attempt, age, reply, begun).await {
            Ok(end) => return Ok(end),
            Err(Failed { failure, repeatable }) => {
                attempt.count(failure.attempted());
                tried.push(attempt.picked.index);
                if !repeatable || !upstream.grants_retry(tried.len()) {
                    return Err(failure);
                }
            }
        }
    }
}

/// A failed attempt, and whether another server may be tried.
struct Failed {
    failure: Failure,
    repeatable: bool,
}

async fn try_server(
    connection: &mut Connection,
    order: &mut Order,
    upstream: &Upstream,
    attempt: &mut Attempt,
    age: Age,
    reply: &mut Vec<u8>,
    begun: &mut Begun,
) -> Result<End, Failed> {
    let address = attempt.picked.address;
    let config = &upstream.config;
    let timeouts = order.forward.timeouts(config);
    let mut server = match pool::connect(address, age, timeouts.connect).await {
        Ok(server) => server,
        Err(failure) => {
            attempt.picked.failed_to_connect();
            // Nothing was sent, so any method may be tried elsewhere.
            return Err(Failed { failure, repeatable: true });
        }
    };
    attempt.picked.connected();
    let limits = Limits {
        read: timeouts.read,
        write: timeouts.write,
        idle: order.forward.rules.config.server.idle_timeout,
        body_rate: order.forward.rules.config.server.min_body_rate,
    };
    let Order { forward, exchange, after, method, out, body_left, .. } = order;
    let outgoing = Outgoing::new(out, *body_left);
    let mut relay = Relay::new(connection, &mut server, outgoing, limits);
    let answering = Answering { forward, exchange, after, is_head: *method == Method::Head };
    let result = answering.pass_answer(&mut relay, attempt, reply, begun).await;
    let Outgoing { sent, body_left: left, .. } = relay.outgoing;
    let (is_sent, heard, rest) = (relay.outgoing.is_sent(), relay.heard, relay.inbox.len());
    drop(relay);
    let streamed = *body_left - left;
    order.exchange.bytes_in += streamed;
    order.body_left = left;
    match result {
        Ok(keeps_alive) => {
            // Bytes after the end of the answer belong to nobody.
            if keeps_alive && is_sent && rest == 0 {
                pool::keep(address, server, config.keepalive);
            }
            Ok(if is_sent { End::Clean } else { End::Unread })
        }
        Err(failure) => {
            let may = match order.repeat {
                Repeat::Unanswered => !heard,
                Repeat::Unsent => sent == 0 && streamed == 0,
            };
            let repeatable = failure == Failure::UpstreamClosed && may;
            Err(Failed { failure, repeatable })
        }
    }
}

/// What is needed to pass an answer on.
struct Answering<'a> {
    forward: &'a Forward,
    exchange: &'a mut Exchange,
    after: &'a mut After,
    is_head: bool,
}

impl Answering<'_> {
    /// Passes the answer on; tells whether the upstream's connection may carry another request.
    async fn pass_answer(
        self,
        relay: &mut Relay<'_>,
        attempt: &mut Attempt,
        reply: &mut Vec<u8>,
        begun: &mut Begun,
    ) -> Result<bool, Failure> {
        let mut keeps_alive = true;
        loop {
            let length = relay.read_head().await?;
            let is_last = relay.client.has_ended() && relay.client.ahead().is_empty();
            if !relay.outgoing.is_sent() || is_last {
                // The client is still sending what nobody may want any more, or never will again.
                *self.after = After::Close;
            }
            let asked = Asked {
                is_head: self.is_head,
                after: *self.after,
                changes: Changes::of(self.forward, self.exchange),
                request_id: &self.exchange.request_id,
            };
            reply.clear();
            let bytes = relay.inbox.get(..length).unwrap_or_default();
            let head = answer::rewrite(bytes, reply, &asked)?;
            relay.inbox.advance(length);
            keeps_alive &= head.keeps_alive;
            if head.status < 200 {
                relay.write(reply).await?;
                continue;
            }
            attempt.count(Attempted::Status(head.status));
            self.exchange.status = head.status;
            relay.told = false;
            let out = &mut self.exchange.bytes_out;
            let streaming = body::stream(relay, reply, head.framing, out);
            let streamed = match self.forward.caller.as_deref().filter(|_| head.is_event_stream) {
                None => streaming.await,
                Some(caller) => {
                    let mut watch = self.forward.rules.sessions.watch(caller);
                    tokio::select! {
                        streamed = streaming => streamed,
                        // Both connections are closed, in the middle of the answer.
                        () = watch.ended() => Err(Failure::SessionEnded),
                    }
                }
            };
            // An answer that broke before a byte of it left is none: the client gets ours.
            if relay.told {
                *begun = Begun::Yes;
            }
            return streamed.map(|()| keeps_alive);
        }
    }
}
