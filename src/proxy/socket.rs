//! The bytes of a connection: over TCP as they are, or within TLS.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client's socket.
pub(crate) enum Socket {
    /// As it is.
    Plain(TcpStream),
    /// Within TLS. Boxed: its state is large, and most gateways have a balancer in front that
    /// speaks TLS for them.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a TLS handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client did not finish it in time.
    #[error("it was not finished in time")]
    TimedOut,
    /// The client went away, or speaks something else.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Socket {
    /// Takes an accepted connection, after a handshake if there is to be one.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed then.
    pub(crate) async fn accept(
        socket: TcpStream,
        tls: Option<&TlsAcceptor>,
        limit: Duration,
    ) -> Result<Self, HandshakeError> {
        // Answers are written whole, so waiting for more to send only delays them.
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!("TCP_NODELAY could not be set: {error}");
        }
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        match timeout(limit, tls.accept(socket)).await {
            Ok(stream) => Ok(Self::Tls(Box::new(stream?))),
            Err(_) => Err(HandshakeError::TimedOut),
        }
    }

    /// Whether the client chose HTTP/2 when TLS began (RFC 7301).
    pub(crate) fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// The scheme of the requests that come over it.
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Tls(_) => "https",
        }
    }

    /// Its close tells the client that something broke, and not that all is said.
    pub(crate) fn reset_on_close(&self) {
        if let Err(error) = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)) {
            log::debug!("SO_LINGER could not be set: {error}");
        }
    }

    /// The socket below.
    pub(crate) fn fd(&self) -> RawFd {
        self.tcp().as_raw_fd()
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Ready when there may be something to read, so that nobody who waits needs a buffer. TLS may
    /// hold bytes that the socket no longer does, and so always says that there may be.
    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(context),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
