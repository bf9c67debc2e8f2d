//! What the operator tells the process by signals.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::ServeError;
use super::handover::{self, HandOverError, Named};
use super::reload::Reloader;
use super::systemd;

/// The signals that are obeyed.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
}

/// Why the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was told to.
    End,
    /// It was told to, and another process may have its sockets.
    EndOfOne,
    /// Another process has its sockets now.
    HandedOver,
}

type HandingOver = JoinHandle<Result<(), HandOverError>>;

impl Signals {
    /// From now on they no longer kill the process.
    pub(crate) fn take() -> Result<Self, ServeError> {
        let take = |kind| signal(kind).map_err(ServeError::system("a signal"));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
            quit: take(SignalKind::quit())?,
        })
    }

    /// Until the process is told to end at once.
    pub(crate) async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Reloads and hands over as it is told, until there is nothing left but to drain. The
    /// sockets of `spare` are closed then.
    pub(crate) async fn obey(
        &mut self,
        reloader: &mut Reloader,
        configuration: &Path,
        spare: Vec<Named>,
    ) -> Told {
        let mut handing_over: Option<HandingOver> = None;
        // From the first attempt on: whoever got them may be given up here and live on all the same.
        let mut end = Told::End;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return end,
                _ = self.interrupt.recv() => return end,
                _ = self.hangup.recv() => {
                    systemd::reloading();
                    reloader.reload().await;
                    systemd::reloaded();
                }
                _ = self.quit.recv(), if handing_over.is_none() => {
                    match begin(configuration, &spare) {
                        Ok(begun) => (handing_over, end) = (Some(begun), Told::EndOfOne),
                        Err(error) => failed(&error),
                    }
                }
                done = finish(&mut handing_over) => match done {
                    Ok(()) => return Told::HandedOver,
                    Err(error) => {
                        failed(&error);
                        handing_over = None;
                    }
                }
            }
        }
    }
}

fn begin(configuration: &Path, spare: &[Named]) -> Result<HandingOver, HandOverError> {
    let place = handover::meeting_place(configuration)?;
    let sockets = spare.iter().map(Named::again).collect::<Result<_, _>>()?;
    log::info!("handing the listening sockets over to `wxgate run --upgrade`");
    Ok(tokio::spawn(handover::hand_over(place, sockets)))
}

/// The end of what is under way; never, where nothing is.
async fn finish(handing_over: &mut Option<HandingOver>) -> Result<(), HandOverError> {
    match handing_over {
        Some(task) => task.await.unwrap_or(Err(HandOverError::NotServing)),
        None => std::future::pending().await,
    }
}

fn failed(error: &HandOverError) {
    log::error!("not handed over, this process goes on: {error}");
}
