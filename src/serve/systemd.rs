//! systemd, where it runs the gateway: what it is told (sd_notify), and the listening sockets that
//! it holds (socket activation). Without it nothing of this happens.

use std::net::SocketAddr;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::ServeError;
use super::handover::{Holder, Named};
use crate::config::Config;

/// Every socket listens. After an upgrade the service has a new main process.
pub(crate) fn started() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// The configuration is being read again; [`reloaded`] follows, however that goes.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("systemd was not told: {error}"),
    }
}

/// The reload is over.
pub(crate) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The process drains, and ends. Not to be said after a hand-over: the service goes on.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("systemd was not told: {error}");
    }
}

/// The sockets that systemd hands over. Changes the environment, and so is called before there is
/// another thread.
pub(crate) fn sockets() -> Result<Vec<Named>, ServeError> {
    let mut inherited = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..inherited.len() {
        let socket = inherited
            .take_tcp_listener(index)
            .and_then(|listener| {
                let Some(listener) = listener else { return Ok(None) };
                listener.set_nonblocking(true)?;
                let written = listener.local_addr()?;
                Ok(Some(Named { written, listener, holder: Holder::Systemd }))
            })
            .map_err(ServeError::system("a socket of systemd's"))?;
        sockets.extend(socket);
    }
    Ok(sockets)
}

/// # Errors
/// [`ServeError::Build`] for a socket that the configuration does not name: clients would connect
/// to it, and nobody would answer.
pub(crate) fn check_named(sockets: &[Named], config: &Config) -> Result<(), ServeError> {
    let server = &config.server;
    let named: Vec<SocketAddr> = [&server.listen[..], &server.redirect_listen].concat();
    let unnamed =
        |socket: &&Named| !named.contains(&socket.written) && socket.written != config.admin.listen;
    match sockets.iter().find(unnamed) {
        None => Ok(()),
        Some(Named { written, .. }) => Err(ServeError::Build(format!(
            "systemd hands over a socket of {written}, which neither server.listen nor \
             redirect_listen nor admin.listen names; write the same address in both"
        ))),
    }
}
