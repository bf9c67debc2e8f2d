//! Worker threads: each has a runtime of its own, and a connection stays on one for its life.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{Notify, mpsc, oneshot};

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
}

/// The worker threads.
#[derive(Debug)]
pub(crate) struct Workers {
    queues: Vec<mpsc::Sender<Accepted>>,
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
    open: Arc<Open>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    count: AtomicUsize,
    closed: Notify,
}

/// Counts a connection while it lives, however it ends.
struct Counted(Arc<Open>);

impl Counted {
    fn new(open: &Arc<Open>) -> Self {
        open.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

impl Workers {
    pub(crate) fn start(count: usize, gateway: &Arc<Gateway>) -> Result<Self, ServeError> {
        let mut workers =
            Self { queues: Vec::new(), threads: Vec::new(), open: Arc::new(Open::default()) };
        for number in 0..count {
            let (queue, accepted) = mpsc::channel(QUEUE);
            let (stop, stopped) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ServeError::system("a runtime"))?;
            let (gateway, open) = (Arc::clone(gateway), Arc::clone(&workers.open));
            let thread = std::thread::Builder::new()
                .name(format!("wxgate-{number}"))
                .spawn(move || runtime.block_on(work(gateway, open, accepted, stopped)))
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

    /// Until no connection is open.
    pub(crate) async fn idle(&self) {
        loop {
            let closed = self.open.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open.count.load(Ordering::Acquire) == 0 {
                return;
            }
            closed.await;
        }
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
    open: Arc<Open>,
    mut accepted: mpsc::Receiver<Accepted>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let Accepted { socket, peer, door } = tokio::select! {
            Some(accepted) = accepted.recv() => accepted,
            _ = &mut stopped => return,
        };
        match tokio::net::TcpStream::from_std(socket) {
            Ok(socket) => {
                let counted = Counted::new(&open);
                let gateway = Arc::clone(&gateway);
                tokio::spawn(async move {
                    proxy::serve(gateway, socket, peer, door).await;
                    drop(counted);
                });
            }
            Err(error) => log::warn!("a connection could not be taken: {error}"),
        }
    }
}
