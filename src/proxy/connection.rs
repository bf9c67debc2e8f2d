//! A client's connection, which hands out one request at a time.
//!
//! The head is read here, under one deadline for the whole of it, and checked before anybody acts
//! on it. Whoever then serves the request (Pingora's proxy) reads from this value as from a socket
//! and gets exactly the bytes of this request: what the client sent ahead stays here for the next
//! one, so that pipelined requests are neither lost nor mistaken for a body.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::alarm::{Alarm, Deadline, Patience};
use super::chunked::ChunkedEnd;
use super::client::Peer;
use super::opening::{GOAWAY, Opening};
use super::pace::Pace;
use super::socket::Socket;
use super::spare;
use super::upgrade::Cut;

/// Most bytes that are read ahead of what the current request may have.
const READ_AHEAD: usize = 16 * 1024;
/// Room for what one read brings.
const READ_AT_ONCE: usize = 4 * 1024;
/// Writes are gathered up to this many bytes, so that a small answer is one packet.
const WRITE_BUFFER: usize = 8 * 1024;

/// How long nothing is sent to a client that has ended its input before it is taken as gone. It may
/// have nothing more to ask and still read (RFC 9112 section 9.6); mostly it went away.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What the current request may still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// This many bytes: the head, and a body of known length.
    Bytes(u64),
    /// This many bytes of head, then a chunked body to its end.
    Chunked(u64, ChunkedEnd),
    /// All that comes: the connection is upgraded, and will not be used again.
    Open,
}

/// What a body is held to.
struct Held {
    /// How fast it must come.
    pace: Pace,
    /// It is read no further once its answer is whole.
    cut: Cut,
}

/// A client's connection.
pub(crate) struct Connection {
    socket: Socket,
    peer: Peer,
    /// Bytes that were read from the socket and not yet handed out.
    ahead: BytesMut,
    /// Bytes that are to be written at the next flush.
    behind: BytesMut,
    window: Window,
    /// How far HTTP/2 is begun, where that is spoken.
    opening: Option<Opening>,
    /// What the body of the current request is held to, in the full lane.
    held: Option<Held>,
    end_of_input: bool,
    /// When the end of input means that the client is gone, once it was asked.
    gone_at: Option<Instant>,
    alarm: Alarm,
    digest: Arc<SocketDigest>,
}

impl fmt::Debug for Connection {
    // What was read ahead holds tokens, so the buffers are never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes an accepted socket.
    pub(crate) fn new(socket: Socket, peer: SocketAddr) -> Self {
        let peer = Peer::new(peer.ip(), socket.scheme());
        let digest = Arc::new(SocketDigest::from_raw_fd(socket.fd()));
        Self {
            socket,
            peer,
            ahead: BytesMut::new(),
            behind: BytesMut::new(),
            window: Window::Bytes(0),
            opening: None,
            held: None,
            end_of_input: false,
            gone_at: None,
            alarm: Alarm::default(),
            digest,
        }
    }

    /// Who connected: the socket's address, not what a header says.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was read from the socket and belongs to no request yet.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Drops bytes that belong to no request, such as an empty line before a request line.
    pub(crate) fn skip(&mut self, count: usize) {
        self.ahead.advance(count.min(self.ahead.len()));
    }

    /// Reads more from the socket into [`Connection::ahead`]; 0 is the end of input.
    pub(crate) async fn read_ahead(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_read_ahead(context)).await
    }

    /// As [`Connection::read_ahead`]; an error of kind `TimedOut` at the deadline.
    pub(crate) async fn read_ahead_until(&mut self, deadline: &mut Deadline) -> io::Result<usize> {
        poll_fn(|context| match self.poll_read_ahead(context) {
            Poll::Pending => self
                .poll_deadline(context, deadline.get())
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
            read => read,
        })
        .await
    }

    /// Writes to the socket, past what waits for a flush: the fast lane gathers its own.
    pub(crate) fn poll_write_now(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gone_at = None;
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    /// Ready when everything of [`Connection::poll_write_now`] is with the system.
    pub(crate) fn poll_flush_now(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Whether the client, whose request is read, went away: the connection broke, or it closed its
    /// end and was sent nothing for [`HALF_CLOSED`]. What it sends ahead is kept for the next
    /// request, as far as there is room.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < READ_AHEAD {
            if ready!(self.poll_read_ahead(context))? == 0 {
                let gone_at = *self.gone_at.get_or_insert_with(|| Instant::now() + HALF_CLOSED);
                return self.poll_deadline(context, gone_at).map(Ok);
            }
        }
        Poll::Pending
    }

    /// Whether the client has said that no further request comes.
    pub(crate) const fn has_ended(&self) -> bool {
        self.end_of_input
    }

    /// Ready at the deadline.
    pub(crate) fn poll_deadline(
        &mut self,
        context: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<()> {
        self.alarm.poll(context, deadline)
    }

    /// Ready when a wait has lasted too long.
    pub(crate) fn poll_over(
        &mut self,
        context: &mut Context<'_>,
        patience: &mut Patience,
    ) -> Poll<()> {
        self.poll_over_by(context, patience, None)
    }

    /// As [`Connection::poll_over`], and no later than at `deadline`.
    pub(crate) fn poll_over_by(
        &mut self,
        context: &mut Context<'_>,
        patience: &mut Patience,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        patience.poll_over(&mut self.alarm, context, deadline)
    }

    /// Puts another head in the place of the one that stands first in [`Connection::ahead`], of
    /// `length` bytes.
    pub(crate) fn replace_head(&mut self, length: usize, head: &[u8]) {
        let rest = self.ahead.get(length..).unwrap_or_default().to_vec();
        self.ahead.clear();
        self.ahead.reserve(head.len() + rest.len());
        self.ahead.extend_from_slice(head);
        self.ahead.extend_from_slice(&rest);
    }

    /// Lets the next reader have a request that begins at the first byte of [`Connection::ahead`].
    pub(crate) fn open(&mut self, window: Window) {
        self.window = window;
        self.held = None;
    }

    /// Lets the next reader have all that comes, if it begins as HTTP/2 does.
    pub(crate) fn open_http2(&mut self) {
        self.open(Window::Open);
        self.opening = Some(Opening::default());
    }

    /// Its body must keep this pace, and is read no further once `cut` has its answer.
    pub(crate) fn hold_to(&mut self, pace: Pace, cut: &Cut) {
        self.held = Some(Held { pace, cut: cut.clone() });
    }

    /// Whether the last request was read to its end, so that the next one begins here.
    pub(crate) fn is_at_boundary(&self) -> bool {
        match self.window {
            Window::Bytes(left) => left == 0,
            Window::Chunked(head, end) => head == 0 && end.is_done(),
            Window::Open => false,
        }
    }

    /// Whether the body of the current request is chunked.
    pub(crate) fn is_chunked(&self) -> bool {
        matches!(self.window, Window::Chunked(..))
    }

    /// How many bytes of the current request were not read yet, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.window {
            Window::Bytes(left) => Some(left),
            Window::Chunked(..) | Window::Open => None,
        }
    }

    /// Frees what an idle connection does not need.
    pub(crate) fn rest(&mut self) {
        if self.ahead.is_empty() && self.ahead.capacity() > 0 {
            spare::give_in(std::mem::take(&mut self.ahead));
        }
        if self.behind.is_empty() {
            self.behind = BytesMut::new();
        }
    }

    /// Says that nothing more will come, where the client cannot tell that from an attack: the end
    /// of TLS (RFC 8446 section 6.1). A client that does not take it is not waited for.
    pub(crate) async fn say_goodbye(&mut self) {
        if self.peer.scheme == "https" {
            let saying = AsyncWriteExt::shutdown(&mut self.socket);
            match tokio::time::timeout(Duration::from_secs(1), saying).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => log::debug!("connection ended: {error}"),
            }
        }
    }

    /// Ends the connection so that the client still gets what was written: a close with unread
    /// input would make the kernel send a reset, which can overtake the answer.
    pub(crate) async fn linger(&mut self) {
        const MOST: usize = 1024 * 1024;
        let drain = async {
            self.flush().await?;
            self.socket.shutdown().await?;
            let mut drained = 0;
            while drained < MOST {
                self.ahead.clear();
                match self.read_ahead().await? {
                    0 => break,
                    count => drained += count,
                }
            }
            io::Result::Ok(())
        };
        // Whoever does not stop sending within a second gets the reset.
        match tokio::time::timeout(Duration::from_secs(1), drain).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => log::debug!("connection ended: {error}"),
        }
    }

    /// Reads once into [`Connection::ahead`]; 0 is the end of input.
    pub(crate) fn poll_read_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.end_of_input {
            return Poll::Ready(Ok(0));
        }
        if self.ahead.capacity() == 0 {
            // A connection that stands idle has no buffer.
            ready!(self.socket.poll_read_ready(context))?;
            self.ahead = spare::take_in();
        }
        if self.ahead.capacity() - self.ahead.len() < READ_AT_ONCE / 4 {
            self.ahead.reserve(READ_AT_ONCE);
        }
        // The future has no state: to poll a new one each time is to poll the read. It clears the
        // readiness after a short read, which saves the system call that finds nothing.
        let read = ready!(pin!(self.socket.read_buf(&mut self.ahead)).poll(context))?;
        self.end_of_input = read == 0;
        Poll::Ready(Ok(read))
    }

    /// How many of the bytes at hand the current request may have; counts them as handed out.
    fn grant(&mut self, most: usize) -> io::Result<usize> {
        let at_hand = self.ahead.len().min(most);
        match &mut self.window {
            Window::Open => Ok(at_hand),
            Window::Bytes(left) => {
                let granted = at_hand.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= granted as u64;
                Ok(granted)
            }
            Window::Chunked(head, end) => {
                if *head > 0 {
                    let granted = at_hand.min(usize::try_from(*head).unwrap_or(usize::MAX));
                    *head -= granted as u64;
                    return Ok(granted);
                }
                let bytes = self.ahead.get(..at_hand).unwrap_or_default();
                end.advance(bytes).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
            }
        }
    }

    /// Waits for more of a body; an error of kind `TimedOut` where it comes too slowly.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(read) = self.poll_read_ahead(context) else {
            let held = self.held.as_mut().filter(|_| self.window != Window::Open);
            return match held.and_then(|held| held.pace.wait()) {
                Some(deadline) => self
                    .poll_deadline(context, deadline)
                    .map(|()| Err(io::ErrorKind::TimedOut.into())),
                None => Poll::Pending,
            };
        };
        let read = read?;
        if let Some(held) = &mut self.held {
            held.pace.came(read as u64);
        }
        Poll::Ready(Ok(read))
    }

    fn poll_flush_behind(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.behind.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, &self.behind))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.behind.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.cut.is_broken_off()) {
            self.socket.reset_on_close();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for the client's next bytes has nothing more to write for now: what was
        // gathered goes out, so that a slow answer is seen as it comes.
        if let Poll::Ready(written) = this.poll_flush_behind(context) {
            written?;
        }
        if this.is_at_boundary() {
            // The request is read. A reader that goes on asking wants to know whether the
            // client is still there: that it went is told, the next request is not.
            return this.poll_gone(context);
        }
        if this.held.as_ref().is_some_and(|held| held.cut.is_answered()) {
            ready!(this.poll_flush_behind(context))?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.ahead.is_empty() && ready!(this.poll_body(context))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let granted = this.grant(buffer.remaining())?;
        let bytes = this.ahead.get(..granted).unwrap_or_default();
        if this.opening.as_mut().is_some_and(|opening| !opening.advance(bytes)) {
            this.behind.extend_from_slice(&GOAWAY);
            if let Poll::Ready(told) = Pin::new(&mut *this).poll_flush(context) {
                told?;
            }
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        buffer.put_slice(bytes);
        this.ahead.advance(granted);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.gone_at = None;
        if this.behind.len() + bytes.len() > WRITE_BUFFER {
            ready!(this.poll_flush_behind(context))?;
        }
        if bytes.len() > WRITE_BUFFER {
            return Pin::new(&mut this.socket).poll_write(context, bytes);
        }
        this.behind.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_flush_behind(context))?;
        // What TLS still holds.
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_flush_behind(context))?;
        Pin::new(&mut this.socket).poll_shutdown(context)
    }
}

#[async_trait::async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        if self.is_at_boundary() || self.end_of_input {
            if let Err(error) = AsyncWriteExt::shutdown(self).await {
                log::debug!("connection ended: {error}");
            }
        } else {
            self.linger().await;
        }
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.socket.fd()
    }
}

impl Ssl for Connection {}
impl Peek for Connection {}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}
