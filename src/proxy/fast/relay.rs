//! The two connections of one request: what is still to be sent goes on while the answer comes,
//! so that neither end waits for the other.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroU64;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::answer::{Malformed, Scan};
use crate::proxy::alarm::Patience;
use crate::proxy::connection::Connection;
use crate::proxy::pace::Pace;
use crate::proxy::reject::Failure;
use crate::proxy::spare;

/// What is read of an answer at once.
const READ: usize = 16 * 1024;
/// What is read of a long one at once.
const READ_LONG: usize = 64 * 1024;

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::UpstreamMalformed
    }
}

/// How long each party may keep the others waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The upstream, with its answer.
    pub(super) read: Duration,
    /// The upstream, with taking what is sent.
    pub(super) write: Duration,
    /// The client, with its body and with taking the answer.
    pub(super) idle: Duration,
    /// Bytes of its body that the client must send for each second that it is waited for.
    pub(super) body_rate: Option<NonZeroU64>,
}

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    /// The client, with the next bytes of its body.
    ClientBody,
    /// The upstream, with taking what is sent.
    UpstreamTaking,
    /// The upstream, with its answer.
    UpstreamAnswer,
}

/// What the request says: the bytes at hand, and how much of the body the client still sends.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    /// The head, and what of the body came with it.
    pub(super) bytes: &'a [u8],
    /// How many of `bytes` were sent.
    pub(super) sent: usize,
    /// Bytes of the body that are still to come from the client.
    pub(super) body_left: u64,
    /// The upstream takes no more: it has answered already, or is gone.
    refused: bool,
}

impl<'a> Outgoing<'a> {
    /// Nothing is sent yet.
    pub(super) fn new(bytes: &'a [u8], body_left: u64) -> Self {
        Self { bytes, sent: 0, body_left, refused: false }
    }

    /// Whether all of the request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len() && self.body_left == 0
    }
}

/// A client's connection and an upstream's, joined for one request.
pub(super) struct Relay<'a> {
    /// The client.
    pub(super) client: &'a mut Connection,
    server: &'a mut TcpStream,
    /// What is sent.
    pub(super) outgoing: Outgoing<'a>,
    /// What came of the answer and was not passed on yet.
    pub(super) inbox: BytesMut,
    /// Whether anything came at all.
    pub(super) heard: bool,
    /// Whether the client got anything.
    pub(super) told: bool,
    limits: Limits,
    patience: Patience,
    pace: Pace,
    waits_for: Option<Party>,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        client: &'a mut Connection,
        server: &'a mut TcpStream,
        outgoing: Outgoing<'a>,
        limits: Limits,
    ) -> Self {
        Self {
            client,
            server,
            outgoing,
            inbox: BytesMut::new(),
            heard: false,
            told: false,
            limits,
            patience: Patience::of(limits.write),
            pace: Pace::of(limits.body_rate),
            waits_for: None,
        }
    }

    /// Reads until the inbox begins with a whole head; returns its length.
    pub(super) async fn read_head(&mut self) -> Result<usize, Failure> {
        let mut scan = Scan::default();
        loop {
            if let Some(length) = scan.find_end(&self.inbox)? {
                return Ok(length);
            }
            if self.read_answer(0).await? == 0 {
                return Err(Failure::UpstreamClosed);
            }
        }
    }

    /// Reads more of the answer into the inbox; 0 is its end. `left` is how much of it is known to
    /// come.
    pub(super) async fn read_answer(&mut self, left: u64) -> Result<usize, Failure> {
        let most = if left > READ as u64 { READ_LONG } else { READ };
        poll_fn(|context| {
            if let Poll::Ready(read) = self.poll_server(context, most) {
                self.waits_for = None;
                self.pace.came(0);
                return Poll::Ready(read.map_err(|_| Failure::UpstreamClosed));
            }
            self.poll_meanwhile(context).map(Err)
        })
        .await
    }

    /// Writes to the client.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut rest = bytes;
        self.waits_for = None;
        self.patience.renew(self.limits.idle);
        poll_fn(|context| {
            loop {
                let step = if rest.is_empty() {
                    // TLS may still hold what the socket did not take.
                    self.client.poll_flush_now(context).map_ok(|()| 0)
                } else {
                    self.client.poll_write_now(context, rest)
                };
                match step {
                    Poll::Ready(Ok(0)) if rest.is_empty() => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(count @ 1..)) => {
                        self.told = true;
                        rest = rest.get(count..).unwrap_or_default();
                        self.patience.renew(self.limits.idle);
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(Failure::ClientGone)),
                    Poll::Pending => {
                        if let Poll::Ready(Err(failure)) = self.poll_send(context) {
                            return Poll::Ready(Err(failure));
                        }
                        ready!(self.client.poll_over(context, &mut self.patience));
                        return Poll::Ready(Err(Failure::ClientGone));
                    }
                }
            }
        })
        .await
    }

    /// Passes the first `count` bytes of the inbox on to the client.
    pub(super) async fn pass_on(&mut self, count: usize) -> Result<(), Failure> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let written = self.write(inbox.get(..count).unwrap_or_default()).await;
        inbox.advance(count.min(inbox.len()));
        self.inbox = inbox;
        written
    }

    fn poll_server(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() == 0 {
            // While the upstream thinks the request needs no buffer.
            ready!(self.server.poll_read_ready(context))?;
            self.inbox = spare::take_in();
        }
        if self.inbox.capacity() - self.inbox.len() < most / 4 {
            self.inbox.reserve(most);
        }
        // The future has no state: to poll a new one each time is to poll the read.
        let read = ready!(pin!(self.server.read_buf(&mut self.inbox)).poll(context))?;
        self.heard |= read > 0;
        Poll::Ready(Ok(read))
    }

    /// What goes on while the answer does not: the body is sent, the client is watched, and whoever
    /// keeps the others waiting too long ends the request.
    fn poll_meanwhile(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        let before = (self.outgoing.sent, self.outgoing.body_left);
        let party = match self.poll_send(context) {
            Poll::Ready(Err(failure)) => return Poll::Ready(failure),
            Poll::Ready(Ok(())) => {
                if self.client.poll_gone(context).is_ready() {
                    return Poll::Ready(Failure::ClientGone);
                }
                Party::UpstreamAnswer
            }
            Poll::Pending if self.outgoing.sent < self.outgoing.bytes.len() => {
                Party::UpstreamTaking
            }
            Poll::Pending if self.client.ahead().is_empty() => Party::ClientBody,
            Poll::Pending => Party::UpstreamTaking,
        };
        let moved = before != (self.outgoing.sent, self.outgoing.body_left);
        if moved || self.waits_for != Some(party) {
            self.pace.came(before.1 - self.outgoing.body_left);
            self.waits_for = Some(party);
            self.patience.renew(match party {
                Party::ClientBody => self.limits.idle,
                Party::UpstreamTaking => self.limits.write,
                Party::UpstreamAnswer => self.limits.read,
            });
        }
        let pace = match party {
            Party::ClientBody => self.pace.wait(),
            Party::UpstreamTaking | Party::UpstreamAnswer => None,
        };
        ready!(self.client.poll_over_by(context, &mut self.patience, pace));
        Poll::Ready(match party {
            Party::ClientBody => Failure::ClientTimeout,
            Party::UpstreamTaking | Party::UpstreamAnswer => Failure::UpstreamTimeout,
        })
    }

    /// Sends what can be sent of the request. An upstream that takes no more is no failure: it may
    /// have answered already.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.outgoing.refused && !self.outgoing.is_sent() {
            let Outgoing { bytes, sent, body_left, .. } = self.outgoing;
            if let Some(rest @ [_, ..]) = bytes.get(sent..) {
                match ready!(Pin::new(&mut *self.server).poll_write(context, rest)) {
                    Ok(count @ 1..) => self.outgoing.sent += count,
                    Ok(0) | Err(_) => self.outgoing.refused = true,
                }
                continue;
            }
            if self.client.ahead().is_empty()
                && !matches!(ready!(self.client.poll_read_ahead(context)), Ok(1..))
            {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            let at_hand = self.client.ahead();
            let most = at_hand.len().min(usize::try_from(body_left).unwrap_or(usize::MAX));
            let body = at_hand.get(..most).unwrap_or_default();
            match ready!(Pin::new(&mut *self.server).poll_write(context, body)) {
                Ok(count @ 1..) => {
                    self.client.skip(count);
                    self.outgoing.body_left -= count as u64;
                }
                Ok(0) | Err(_) => self.outgoing.refused = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if self.inbox.capacity() > 0 {
            spare::give_in(std::mem::take(&mut self.inbox));
        }
    }
}
