//! The life of the process: build the rooms from a configuration, listen, reload, drain.

mod build;
mod crowd;
mod drain;
mod explain;
mod handover;
mod listen;
mod reload;
mod signals;
mod systemd;
mod tls;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::config::{Config, Loaded};
use build::{Built, Lasting};
use handover::{Named, Predecessor};
use listen::Listeners;
use reload::Reloader;
use signals::{Signals, Told};
use workers::Workers;

pub use crate::proxy::{Answered, Explanation, Outcome};
pub use explain::{Explained, Question, explain};
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
    /// For clients that are sent to https.
    pub redirects: Vec<SocketAddr>,
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

/// Where the listening sockets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// They are bound.
    Fresh,
    /// A running gateway of the same configuration hands them over; what it does not have is bound.
    Upgrade,
}

/// Runs the gateway until a signal ends it. `ready` is called once, when every socket listens.
///
/// # Errors
/// [`ServeError`] when it could not start; nothing listens then, or the gateway that was to be
/// replaced goes on.
pub fn run(
    source: Source,
    start: Start,
    ready: impl FnOnce(&Listening),
) -> Result<Ended, ServeError> {
    let inherited = systemd::sockets()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("a runtime"))?;
    runtime.block_on(control(source, start, inherited, ready))
}

async fn control(
    source: Source,
    start: Start,
    inherited: Vec<Named>,
    ready: impl FnOnce(&Listening),
) -> Result<Ended, ServeError> {
    // Signals are taken before anything listens, so that none finds the process half made.
    let mut signals = Signals::take()?;
    let config = source.loaded.config;
    let grace = config.server.shutdown_grace;
    crowd::make_room(&config.server);
    let lasting = Lasting::build(&config)?;
    let built = Built::from(config, &lasting, None).await?;
    let config = Arc::clone(&built.rules.config);
    let (listeners, predecessor) = listen(&config, &source.path, start, inherited).await?;
    let (listening, spare) = (listeners.listening()?, listeners.spare()?);
    let (drain, draining) = watch::channel(false);
    let gateway = Arc::new(built.gateway(&lasting, draining.clone())?);
    let workers = Workers::start(config.server.threads, &gateway)?;
    lasting.watch();
    let admin = Arc::new(Admin {
        view: ArcSwap::from_pointee(built.view()),
        metrics: Arc::clone(&lasting.metrics),
        sessions: Arc::clone(&lasting.sessions),
        draining,
    });
    let admin_task = tokio::spawn(admin::serve(listeners.admin()?, Arc::clone(&admin)));
    let accepting = listeners.accept(&workers, &gateway)?;
    report(&listening);
    ready(&listening);
    if let Some(predecessor) = predecessor {
        predecessor.may_stop().await;
    }
    let place = source.path.clone();
    let mut reloader = Reloader::new(source.path, source.reread, lasting, built, gateway, admin);
    let told = signals.obey(&mut reloader, &place, spare).await;
    if told == Told::HandedOver {
        // Whoever asks now is answered by the new process.
        admin_task.abort();
    } else {
        systemd::stopping();
    }
    log::info!("draining: requests in flight are finished, for at most {grace:?}");
    drain.send_replace(true);
    accepting.stop(told).await;
    let ended = tokio::select! {
        ended = drain::wait(workers.crowd(), grace) => ended,
        () = signals.end() => Ended::CutOff,
    };
    admin_task.abort();
    workers.stop(ended);
    reloader.close();
    Ok(ended)
}

async fn listen(
    config: &Config,
    path: &Path,
    start: Start,
    inherited: Vec<Named>,
) -> Result<(Listeners, Option<Predecessor>), ServeError> {
    match start {
        Start::Fresh => {
            systemd::check_named(&inherited, config)?;
            Ok((Listeners::bind_or_adopt(config, inherited)?, None))
        }
        Start::Upgrade => {
            let (sockets, predecessor) = async {
                let place = handover::meeting_place(path)?;
                log::info!("waiting for the running gateway to hand its sockets over");
                handover::take_over(&place).await
            }
            .await
            .map_err(|error| ServeError::Build(format!("upgrade: {error}")))?;
            Ok((Listeners::bind_or_adopt(config, sockets)?, Some(predecessor)))
        }
    }
}

fn report(listening: &Listening) {
    for address in &listening.clients {
        log::info!("listening on {address}");
    }
    for address in &listening.redirects {
        log::info!("redirecting to https on {address}");
    }
    log::info!("admin listening on {}", listening.admin);
    systemd::started();
}
