//! Sockets: bound before anything is said to be ready, accepted in one place, given to the workers
//! in turn.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::crowd::Crowd;
use super::handover::{Holder, Named};
use super::signals::Told;
use super::workers::{Accepted, Workers};
use super::{Listening, ServeError};
use crate::config::Config;
use crate::proxy::{Door, Gateway};

/// Connections that the kernel keeps for us; the kernel's own limit (somaxconn) is above it.
const BACKLOG: u32 = 4096;

/// How long a client that began to connect before the drain has for the last step of its
/// handshake: a few round trips of a network that is not at its worst.
const HANDSHAKE: Duration = Duration::from_millis(200);

/// A classic BPF program that drops a segment with SYN and without ACK (RFC 9293 section 3.1), and
/// keeps every other.
const NO_NEW_CONNECTIONS: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13), // A = byte 13 of the TCP header, the flags
    SockFilter::new(0x54, 0, 0, 0x12), // A &= SYN | ACK
    SockFilter::new(0x15, 0, 1, 0x02), // A == SYN?
    SockFilter::new(0x06, 0, 0, 0),  // yes: drop
    SockFilter::new(0x06, 0, 0, u32::MAX), // no: keep all of it
];

/// Every socket that listens.
#[derive(Debug)]
pub(crate) struct Listeners {
    clients: Vec<Named>,
    redirects: Vec<Named>,
    admin: Named,
}

/// The accept loops.
#[derive(Debug)]
pub(crate) struct Accepting(Vec<(oneshot::Sender<Told>, JoinHandle<()>)>);

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
                holder: socket.holder,
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
    /// Takes in who has begun to connect, and closes the sockets.
    pub(crate) async fn stop(self, told: Told) {
        let mut tasks = Vec::new();
        for (stop, task) in self.0 {
            if stop.send(told).is_err() {
                log::error!("an accept loop had ended already");
            }
            tasks.push(task);
        }
        for task in tasks {
            if let Err(error) = task.await {
                log::error!("an accept loop ended badly: {error}");
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
        Ok(Named { written: address, listener, holder: Holder::Gateway })
    };
    bind().map_err(|cause| ServeError::Listen { address, cause })
}

/// One socket that listens, and where the connections that come in over it go.
struct Entrance {
    listener: tokio::net::TcpListener,
    holder: Holder,
    door: Door,
    queues: Vec<mpsc::Sender<Accepted>>,
    crowd: Arc<Crowd>,
    gateway: Arc<Gateway>,
}

impl Entrance {
    async fn accept(self, stopped: oneshot::Receiver<Told>) {
        let mut turns = self.queues.iter().cycle();
        let told = self.accept_until(stopped, &mut turns).await.unwrap_or(Told::End);
        // Where the socket lives on, the next process serves who waits in its queue; a filter would
        // be in its way.
        match (told, self.holder) {
            (Told::HandedOver, _) | (_, Holder::Systemd) => return,
            (Told::EndOfOne, Holder::Gateway) => {}
            (Told::End, Holder::Gateway) => self.turn_away(&mut turns).await,
        }
        self.accept_the_rest(&mut turns).await;
    }

    /// With the socket, the kernel would also reset the connections that it has made and that
    /// nobody has accepted yet: requests that were sent would be lost. So first it makes no more
    /// (who asks now is refused when the socket is gone, and goes elsewhere), before the queue is
    /// emptied.
    async fn turn_away(&self, turns: &mut impl Iterator<Item = &mpsc::Sender<Accepted>>) {
        if let Err(error) = SockRef::from(&self.listener).attach_filter(&NO_NEW_CONNECTIONS) {
            log::warn!("clients that connect in this very moment may be cut off: {error}");
        }
        self.accept_until(sleep(HANDSHAKE), turns).await;
    }

    /// Empties the queue. The kernel is asked until it says that there is nobody: what the runtime
    /// knows of it may be old.
    async fn accept_the_rest(&self, turns: &mut impl Iterator<Item = &mpsc::Sender<Accepted>>) {
        loop {
            let (socket, peer) = match SockRef::from(&self.listener).accept() {
                Ok((socket, peer)) => (TcpStream::from(socket), peer.as_socket()),
                // It went away meanwhile; others may stand behind it.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            match (socket.set_nonblocking(true), peer) {
                (Ok(()), Some(peer)) => self.let_in((socket, peer), turns).await,
                (Err(error), _) => log::warn!("a connection could not be taken: {error}"),
                (Ok(()), None) => {}
            }
        }
    }

    async fn accept_until<T>(
        &self,
        end: impl Future<Output = T>,
        turns: &mut impl Iterator<Item = &mpsc::Sender<Accepted>>,
    ) -> T {
        tokio::pin!(end);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                ended = &mut end => return ended,
            };
            match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                Ok(accepted) => self.let_in(accepted, turns).await,
                Err(error) => {
                    // No file descriptors left, mostly: give those that are open a chance to end.
                    log::warn!("no connection could be accepted: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn let_in(
        &self,
        (socket, peer): (TcpStream, SocketAddr),
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
        if let Some(queue) = turns.next()
            && queue.send(Accepted { socket, peer, door: self.door, place }).await.is_err()
        {
            log::error!("a worker has ended");
        }
    }
}
