//! What every test starts: the real gateway, a fake WeChat, a backend that records, a caller
//! that sends and reads raw bytes.

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod redis;
pub(crate) mod site;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod wechat;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Connection};
pub(crate) use site::Site;
pub(crate) use upstream::{Recorded, Reply, Upstream};

/// Longer than anything takes on a busy machine: a test that waits for this has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Asserts that one of three askings takes less than `limit`: a machine may stand still in the
/// others, a gateway that is too slow is so in all.
#[track_caller]
pub(crate) fn once_within<T>(limit: Duration, mut ask: impl FnMut() -> T) -> T {
    let mut times = Vec::new();
    while times.len() < 3 {
        let begin = Instant::now();
        let asked = ask();
        times.push(begin.elapsed());
        if times.last() < Some(&limit) {
            return asked;
        }
    }
    panic!("never within {limit:?}: {times:?}");
}

/// Asserts that three of four askings take less than `limit`: a machine may stand still in one.
#[track_caller]
pub(crate) fn mostly_within(limit: Duration, mut ask: impl FnMut()) {
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let begin = Instant::now();
            ask();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[14] < limit, "{times:?}");
}

/// How much a test of endurance moves: `usual`, or with `WXGATE_TEST_SIZES=whole` all of it.
pub(crate) fn size(usual: u64, whole: u64) -> u64 {
    match std::env::var("WXGATE_TEST_SIZES").as_deref() {
        Ok("whole") => whole,
        _ => usual,
    }
}

/// Waits until `condition` holds, and fails with `what` if it does not within [`DEADLINE`].
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    within(DEADLINE, what, condition);
}

/// Waits until `condition` holds, and fails with `what` if it does not within `limit`.
pub(crate) fn within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Tells threads to stop when it is dropped: also where a test fails, whose scope would else wait
/// for them for ever.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asserts that `condition` holds for as long as `time`.
pub(crate) fn for_as_long_as(time: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "no longer holds: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Makes the close of a connection a reset instead of an orderly end.
pub(crate) fn set_reset_on_close(stream: &TcpStream) {
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

/// An address that refuses connections for as long as this lives: bound, but not listening.
pub(crate) struct Refusing {
    socket: socket2::Socket,
}

impl Refusing {
    pub(crate) fn start() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        Self { socket }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }

    /// From now on it listens.
    pub(crate) fn into_listener(self) -> TcpListener {
        self.socket.listen(128).unwrap();
        self.socket.into()
    }
}

/// An address whose SYNs are not answered: its accept queue is full.
pub(crate) struct Blackhole {
    socket: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl Blackhole {
    pub(crate) fn start() -> Self {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = new().unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = new().unwrap();
            if client.connect_timeout(&address, Duration::from_millis(300)).is_err() {
                return Self { socket, _waiting: waiting };
            }
            waiting.push(client);
            assert!(waiting.len() < 100, "the accept queue never fills");
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }
}
