//! Worker threads: each has a runtime of its own, and a connection stays on one for its life.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::crowd::{Crowd, Place};
use super::{Ended, ServeError};
use crate::proxy::{self, Door, Gateway};

/// Connections that wait for a worker to take them.
const QUEUE: usize = 1024;

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) socket: TcpStream,
    /// Its other end.
    pub(crate) peer: SocketAddr,
    /// The listener that it came in by.
    pub(crate) door: Door,
    /// Free again once the connection has ended.
    pub(crate) place: Place,
}

/// The worker threads.
#[derive(Debug)]
pub(crate) struct Workers {
    queues: Vec<mpsc::Sender<Accepted>>,
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
    crowd: Arc<Crowd>,
}

impl Workers {
    pub(crate) fn start(count: usize, gateway: &Arc<Gateway>) -> Result<Self, ServeError> {
        let crowd = Crowd::new(&gateway.rules.load().metrics);
        let mut workers = Self { queues: Vec::new(), threads: Vec::new(), crowd };
        for number in 0..count {
            let (queue, accepted) = mpsc::channel(QUEUE);
            let (stop, stopped) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ServeError::system("a runtime"))?;
            let gateway = Arc::clone(gateway);
            let thread = std::thread::Builder::new()
                .name(format!("wxgate-{number}"))
                .spawn(move || runtime.block_on(work(gateway, accepted, stopped)))
                .map_err(ServeError::system("a thread"))?;
            workers.queues.push(queue);
            workers.threads.push((stop, thread));
        }
        Ok(workers)
    }

    /// Where accepted connections are sent, in turn.
    pub(crate) fn queues(&self) -> Vec<mpsc::Sender<Accepted>> {
        self.queues.clone()
    }

    /// Who is let in.
    pub(crate) fn crowd(&self) -> &Arc<Crowd> {
        &self.crowd
    }

    /// Ends the threads. After a drain they have nothing left to do; else what is in flight is
    /// cut off.
    pub(crate) fn stop(self, ended: Ended) {
        for (stop, thread) in self.threads {
            if stop.send(()).is_err() {
                log::debug!("a worker had ended already");
            }
            if ended == Ended::Drained && thread.join().is_err() {
                log::error!("a worker panicked");
            }
        }
    }
}

async fn work(
    gateway: Arc<Gateway>,
    mut accepted: mpsc::Receiver<Accepted>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let Accepted { socket, peer, door, place } = tokio::select! {
            Some(accepted) = accepted.recv() => accepted,
            _ = &mut stopped => return,
        };
        match tokio::net::TcpStream::from_std(socket) {
            Ok(socket) => {
                let gateway = Arc::clone(&gateway);
                tokio::spawn(async move {
                    proxy::serve(gateway, socket, peer, door).await;
                    drop(place);
                });
            }
            Err(error) => log::warn!("a connection could not be taken: {error}"),
        }
    }
}
