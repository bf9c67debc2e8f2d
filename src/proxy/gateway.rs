//! A new connection: TLS, if the listener speaks it, then HTTP/1.1 or HTTP/2 as the client chose.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use pingora::proxy::HttpProxy;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;
use super::full::FullLane;
use super::http1;
use super::http2;
use super::redirect;
use super::rules::Rules;
use super::socket::Socket;

/// What every connection of the client listener shares.
pub struct Gateway {
    /// The rules in force; a reload swaps them.
    pub rules: ArcSwap<Rules>,
    /// Carries out what is forwarded.
    pub full: Arc<HttpProxy<FullLane>>,
    /// How TLS handshakes are made; `None`: the listener speaks plain HTTP.
    pub tls: ArcSwapOption<ServerConfig>,
    /// Turns true when the process drains: then no connection waits for another request.
    pub draining: watch::Receiver<bool>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// Which kind of listener a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `server.listen`
    Clients,
    /// `server.redirect_listen`
    Redirect,
}

/// Serves a connection until it is closed.
pub async fn serve(gateway: Arc<Gateway>, socket: TcpStream, peer: SocketAddr, door: Door) {
    if door == Door::Redirect {
        return redirect::serve(&gateway, Connection::new(Socket::Plain(socket), peer)).await;
    }
    let limit = gateway.rules.load().config.server.header_timeout;
    let tls = gateway.tls.load_full().map(TlsAcceptor::from);
    let socket = match Socket::accept(socket, tls.as_ref(), limit).await {
        Ok(socket) => socket,
        Err(error) => {
            // Scanners and clients that give up make many of these: nothing for an operator.
            log::debug!("TLS handshake failed: {error}");
            return;
        }
    };
    if socket.speaks_http2() {
        http2::serve(gateway, Connection::new(socket, peer)).await;
    } else {
        http1::serve(gateway, Box::new(Connection::new(socket, peer))).await;
    }
}
