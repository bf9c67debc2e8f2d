//! The life of the process: build the rooms from a configuration, listen, reload, drain.

mod build;
mod drain;
mod listen;
mod reload;
mod workers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::config::Loaded;
use build::{Built, Lasting};
use listen::Listeners;
use reload::Reloader;
use workers::Workers;

pub use reload::Reread;

/// Why the gateway did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket could not be had.
    #[error("cannot listen on {address}: {cause}; is something else listening there?")]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A room could not be built from the configuration.
    #[error("{0}")]
    Build(String),
    /// The system refused a thread, a signal or a runtime.
    #[error("the system refused {what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
}

impl ServeError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every request was finished.
    Drained,
    /// The grace ran out, or a second signal came, and requests were cut off.
    CutOff,
}

/// Where the gateway listens, as the system chose it.
#[derive(Debug, Clone)]
pub struct Listening {
    /// For clients.
    pub clients: Vec<SocketAddr>,
    /// For the operator.
    pub admin: SocketAddr,
}

/// A configuration and how to read it again.
pub struct Source {
    /// The file's path, for messages.
    pub path: PathBuf,
    /// The configuration to begin with.
    pub loaded: Loaded,
    /// Reads it again at a reload.
    pub reread: Reread,
}

/// Runs the gateway until a signal ends it. `ready` is called once, when every socket listens.
///
/// # Errors
/// [`ServeError`] when it could not start; nothing listens then.
pub fn run(source: Source, ready: impl FnOnce(&Listening)) -> Result<Ended, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("a runtime"))?;
    runtime.block_on(control(source, ready))
}

async fn control(source: Source, ready: impl FnOnce(&Listening)) -> Result<Ended, ServeError> {
    // Signals are taken before anything listens, so that none finds the process half made.
    let mut hangup = take_signal(SignalKind::hangup())?;
    let mut signals = Endings::new()?;
    let config = source.loaded.config;
    let grace = config.server.shutdown_grace;
    let lasting = Lasting::build(&config)?;
    let built = Built::from(config, &lasting, None).await?;
    let config = Arc::clone(&built.rules.config);
    let listeners = Listeners::bind(&config)?;
    let listening = listeners.listening();
    let (drain, draining) = watch::channel(false);
    let gateway = Arc::new(built.gateway(draining.clone()));
    let workers = Workers::start(config.server.threads, &gateway)?;
    lasting.watch();
    let admin = Arc::new(Admin {
        view: ArcSwap::from_pointee(built.view()),
        metrics: Arc::clone(&lasting.metrics),
        sessions: Arc::clone(&lasting.sessions),
        draining,
    });
    let admin_task = tokio::spawn(admin::serve(listeners.admin()?, Arc::clone(&admin)));
    let accepting = listeners.accept(&workers)?;
    report(&listening);
    ready(&listening);
    let mut reloader = Reloader::new(source.path, source.reread, lasting, built, gateway, admin);
    loop {
        tokio::select! {
            _ = hangup.recv() => reloader.reload().await,
            () = signals.end() => break,
        }
    }
    log::info!("draining: requests in flight are finished, for at most {grace:?}");
    drain.send_replace(true);
    accepting.stop().await;
    let ended = tokio::select! {
        ended = drain::wait(&workers, grace) => ended,
        () = signals.end() => Ended::CutOff,
    };
    admin_task.abort();
    workers.stop(ended);
    reloader.close();
    Ok(ended)
}

fn report(listening: &Listening) {
    for address in &listening.clients {
        log::info!("listening on {address}");
    }
    log::info!("admin listening on {}", listening.admin);
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        log::debug!("systemd was not told: {error}");
    }
}

fn take_signal(kind: SignalKind) -> Result<Signal, ServeError> {
    signal(kind).map_err(ServeError::system("a signal"))
}

/// The signals that end the process.
struct Endings {
    terminate: Signal,
    interrupt: Signal,
}

impl Endings {
    fn new() -> Result<Self, ServeError> {
        Ok(Self {
            terminate: take_signal(SignalKind::terminate())?,
            interrupt: take_signal(SignalKind::interrupt())?,
        })
    }

    /// Until the process is told to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
