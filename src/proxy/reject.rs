//! Every failure of forwarding → what the client is told, and who is to blame.

use pingora::{Error, ErrorSource, ErrorType};

use super::exchange::Exchange;
use crate::endpoints::Refusal;

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
        // The body stopped coming.
        ErrorSource::Downstream if late => Some(Refusal::RequestTimeout),
        ErrorSource::Downstream => Some(Refusal::Malformed("a body that is not framed as it says")),
        ErrorSource::Internal | ErrorSource::Unset if late => Some(Refusal::GatewayTimeout),
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
    }
}

/// Writes the cause down, once, at the level of whoever is to blame. Only the kind of error is
/// written: its context may hold bytes of the request.
pub(crate) fn log_pingora(error: &Error, status: u16, exchange: &Exchange) {
    let kind = error.etype().as_str();
    let id = &exchange.request_id;
    let route = exchange.route_name();
    match error.esource() {
        ErrorSource::Upstream => {
            let server = exchange.server.as_ref().map_or("", |(_, server)| &**server);
            log::warn!("upstream {server} failed: {kind}; status {status}, route {route}, {id}");
        }
        ErrorSource::Downstream => log::debug!("client failed: {kind}; status {status}, {id}"),
        ErrorSource::Internal | ErrorSource::Unset => {
            log::info!("request not served: {kind}; status {status}, route {route}, {id}");
        }
    }
}
