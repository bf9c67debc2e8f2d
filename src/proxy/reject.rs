//! Every failure of forwarding → what the client is told, and who is to blame.

use std::io;

use pingora::{Error, ErrorSource, ErrorType};

use super::exchange::Exchange;
use crate::endpoints::Refusal;
use crate::observe::Attempted;

/// What the client is told of an error of Pingora's; `None` where there is no client any more.
pub(crate) fn of_pingora(error: &Error) -> Option<Refusal> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, ReadTimedout, TLSHandshakeTimedout, WriteError,
        WriteTimedout,
    };
    let kind = error.etype();
    let late =
        matches!(kind, ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout);
    match error.esource() {
        ErrorSource::Upstream if late => Some(Refusal::GatewayTimeout),
        ErrorSource::Upstream => Some(Refusal::BadGateway),
        ErrorSource::Downstream
            if matches!(kind, ConnectionClosed | WriteError | WriteTimedout) =>
        {
            None
        }
        // The body stopped coming, or came too slowly.
        ErrorSource::Downstream if late || is_too_slow(error) => Some(Refusal::RequestTimeout),
        ErrorSource::Downstream => Some(Refusal::Malformed("a body that is not framed as it says")),
        ErrorSource::Internal | ErrorSource::Unset if late => Some(Refusal::GatewayTimeout),
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
    }
}

/// Whether the client's connection itself gave the body up.
fn is_too_slow(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// Why a handshake within TLS came to nothing, as rustls tells it: it was over before the first
/// byte of the request.
fn of_handshake(error: &Error) -> &str {
    match (error.etype(), &error.context) {
        (ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert, Some(context)) => {
            context.as_str()
        }
        _ => "",
    }
}

/// Writes the cause down, once, at the level of whoever is to blame. Of most errors only the kind
/// is written: their context may hold bytes of the request.
pub(crate) fn log_pingora(error: &Error, status: u16, exchange: &Exchange) {
    let kind = error.etype().as_str();
    let id = &exchange.request_id;
    let route = exchange.route_name();
    match error.esource() {
        ErrorSource::Upstream => {
            let server = exchange.server.as_ref().map_or("", |server| server.name());
            let cause = of_handshake(error);
            let colon = if cause.is_empty() { "" } else { ": " };
            log::warn!(
                "upstream {server} failed: {kind}{colon}{cause}; status {status}, route {route}, {id}"
            );
        }
        ErrorSource::Downstream => log::debug!("client failed: {kind}; status {status}, {id}"),
        ErrorSource::Internal | ErrorSource::Unset => {
            log::info!("request not served: {kind}; status {status}, route {route}, {id}");
        }
    }
}

/// Why the fast lane could not carry a request out.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No server of the upstream has an address.
    #[error("no server")]
    NoServer,
    /// A connection was refused, or is impossible.
    #[error("no connection")]
    Connect,
    /// A connection was not made in time.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The upstream does not answer, or does not take what is sent to it.
    #[error("took too long")]
    UpstreamTimeout,
    /// The upstream broke the connection off.
    #[error("broke the connection off")]
    UpstreamClosed,
    /// What came from the upstream is no answer.
    #[error("sent what is no answer")]
    UpstreamMalformed,
    /// The client went away, or does not read.
    #[error("went away")]
    ClientGone,
    /// The client's body stopped coming.
    #[error("stopped sending")]
    ClientTimeout,
    /// The session behind an event stream was ended.
    #[error("was thrown out")]
    SessionEnded,
}

impl Failure {
    /// What the client is told; `None` where there is no client any more.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        match self {
            Self::NoServer => Some(Refusal::UpstreamUnavailable),
            Self::Connect | Self::UpstreamClosed | Self::UpstreamMalformed => {
                Some(Refusal::BadGateway)
            }
            Self::ConnectTimeout | Self::UpstreamTimeout => Some(Refusal::GatewayTimeout),
            Self::ClientTimeout => Some(Refusal::RequestTimeout),
            Self::ClientGone | Self::SessionEnded => None,
        }
    }

    /// How the attempt at a server is counted.
    pub(crate) fn attempted(self) -> Attempted {
        match self {
            Self::Connect | Self::ConnectTimeout => Attempted::Connect,
            Self::UpstreamTimeout => Attempted::Timeout,
            Self::UpstreamClosed | Self::UpstreamMalformed => Attempted::Reset,
            Self::NoServer | Self::ClientGone | Self::ClientTimeout | Self::SessionEnded => {
                Attempted::Aborted
            }
        }
    }

    /// Writes the cause down, once, at the level of whoever is to blame.
    pub(crate) fn log(self, exchange: &Exchange) {
        let (id, status, route) = (&exchange.request_id, exchange.status, exchange.route_name());
        match self {
            Self::NoServer => log::info!("request not served: {self}; route {route}, {id}"),
            Self::ClientGone | Self::ClientTimeout | Self::SessionEnded => {
                log::debug!("client {self}; status {status}, {id}");
            }
            Self::Connect
            | Self::ConnectTimeout
            | Self::UpstreamTimeout
            | Self::UpstreamClosed
            | Self::UpstreamMalformed => {
                let server = exchange.server.as_ref().map_or("", |server| server.name());
                log::warn!("upstream {server}: {self}; status {status}, route {route}, {id}");
            }
        }
    }
}
