//! Sockets: bound before anything is said to be ready, accepted in one place, given to the workers
//! in turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::crowd::Crowd;
use super::handover::Named;
use super::workers::{Accepted, Workers};
use super::{Listening, ServeError};
use crate::config::Config;
use crate::proxy::{Door, Gateway};

/// Connections that the kernel keeps for us; the kernel's own limit (somaxconn) is above it.
const BACKLOG: u32 = 4096;

/// Every socket that listens.
#[derive(Debug)]
pub(crate) struct Listeners {
    clients: Vec<Named>,
    redirects: Vec<Named>,
    admin: Named,
}

/// The accept loops.
#[derive(Debug)]
pub(crate) struct Accepting(Vec<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Listeners {
    /// Takes those of `inherited` that the configuration names, the admin listener first, and
    /// binds what is missing. What it does not name is closed.
    pub(crate) fn bind_or_adopt(
        config: &Config,
        mut inherited: Vec<Named>,
    ) -> Result<Self, ServeError> {
        let mut take = |address: SocketAddr| match inherited
            .iter()
            .position(|socket| socket.written == address)
        {
            Some(at) => Ok(inherited.remove(at)),
            None => bind(address),
        };
        let admin = take(config.admin.listen)?;
        let mut take_all = |addresses: &[SocketAddr]| {
            addresses.iter().map(|address| take(*address)).collect::<Result<Vec<_>, _>>()
        };
        let clients = take_all(&config.server.listen)?;
        let redirects = take_all(&config.server.redirect_listen)?;
        Ok(Self { clients, redirects, admin })
    }

    /// The addresses, with the ports that the system chose.
    pub(crate) fn listening(&self) -> Result<Listening, ServeError> {
        let address = |socket: &Named| {
            socket.listener.local_addr().map_err(ServeError::system("a listener's address"))
        };
        let clients = self.clients.iter().map(address).collect::<Result<_, _>>()?;
        let redirects = self.redirects.iter().map(address).collect::<Result<_, _>>()?;
        Ok(Listening { clients, redirects, admin: address(&self.admin)? })
    }

    /// The same sockets once more, to be handed to the next process; the admin listener first.
    pub(crate) fn spare(&self) -> Result<Vec<Named>, ServeError> {
        let all = std::iter::once(&self.admin).chain(&self.clients).chain(&self.redirects);
        all.map(Named::again)
            .collect::<Result<_, _>>()
            .map_err(ServeError::system("a listener once more"))
    }

    /// The operator's listener, for the admin room.
    pub(crate) fn admin(&self) -> Result<tokio::net::TcpListener, ServeError> {
        self.admin
            .again()
            .and_then(|socket| tokio::net::TcpListener::from_std(socket.listener))
            .map_err(ServeError::system("the admin listener"))
    }

    /// Begins to accept.
    pub(crate) fn accept(
        self,
        workers: &Workers,
        gateway: &Arc<Gateway>,
    ) -> Result<Accepting, ServeError> {
        let mut accepting = Accepting(Vec::new());
        let clients = self.clients.into_iter().map(|socket| (socket, Door::Clients));
        let redirects = self.redirects.into_iter().map(|socket| (socket, Door::Redirect));
        for (socket, door) in clients.chain(redirects) {
            let listener = tokio::net::TcpListener::from_std(socket.listener)
                .map_err(ServeError::system("a listener"))?;
            let (stop, stopped) = oneshot::channel();
            let entrance = Entrance {
                listener,
                door,
                queues: workers.queues(),
                crowd: Arc::clone(workers.crowd()),
                gateway: Arc::clone(gateway),
            };
            let task = tokio::spawn(entrance.accept(stopped));
            accepting.0.push((stop, task));
        }
        Ok(accepting)
    }
}

impl Accepting {
    /// Takes what waits in the kernel's queue, and closes the sockets.
    pub(crate) async fn stop(self) {
        for (stop, task) in self.0 {
            if stop.send(()).is_err() || task.await.is_err() {
                log::error!("an accept loop had ended already");
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<Named, ServeError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart finds its port free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?.into_std()?;
        Ok(Named { written: address, listener })
    };
    bind().map_err(|cause| ServeError::Listen { address, cause })
}

/// One socket that listens, and where the connections that come in over it go.
struct Entrance {
    listener: tokio::net::TcpListener,
    door: Door,
    queues: Vec<mpsc::Sender<Accepted>>,
    crowd: Arc<Crowd>,
    gateway: Arc<Gateway>,
}

impl Entrance {
    async fn accept(self, mut stopped: oneshot::Receiver<()>) {
        let mut turns = self.queues.iter().cycle();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = &mut stopped => break,
            };
            match accepted {
                Ok(accepted) => self.let_in(accepted, &mut turns).await,
                Err(error) => {
                    // No file descriptors left, mostly: give those that are open a chance to end.
                    log::warn!("no connection could be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // Whoever connected in time is still served.
        while let Some(Ok(accepted)) = self.listener.accept().now_or_never() {
            self.let_in(accepted, &mut turns).await;
        }
    }

    async fn let_in(
        &self,
        (socket, peer): (tokio::net::TcpStream, SocketAddr),
        turns: &mut impl Iterator<Item = &mpsc::Sender<Accepted>>,
    ) {
        let entered = {
            let rules = self.gateway.rules.load();
            self.crowd.enter(peer.ip(), &rules.config.server)
        };
        let place = match entered {
            Ok(place) => place,
            // The socket closes as it is dropped.
            Err(full) => return self.crowd.refuse(peer.ip(), full),
        };
        match (socket.into_std(), turns.next()) {
            (Ok(socket), Some(queue)) => {
                if queue.send(Accepted { socket, peer, door: self.door, place }).await.is_err() {
                    log::error!("a worker has ended");
                }
            }
            (Err(error), _) => log::warn!("a connection could not be taken: {error}"),
            (Ok(_), None) => {}
        }
    }
}
