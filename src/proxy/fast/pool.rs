//! Connections to upstreams: made, kept for the next request of this thread, and let go when they
//! are not what they should be.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::proxy::reject::Failure;

/// How long a connection is kept unused. Shorter than what backends keep theirs for (Tomcat 20 s
/// to 60 s, Apache 5 s), where that is possible at all.
const LONGEST_IDLE: Duration = Duration::from_secs(60);
/// How often those that were closed by the other end are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A connection that waits for a request.
struct Idle {
    /// Sweeps that it was kept over.
    sweeps: u64,
    stream: TcpStream,
}

thread_local! {
    /// By address, of which there are few. The one that was used last is taken first, so that
    /// those in excess grow old.
    static POOL: RefCell<Vec<(SocketAddr, Vec<Idle>)>> = const { RefCell::new(Vec::new()) };
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a connection may be one that served a request before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It may, as far as the system knows of it.
    Any,
    /// It may if the other end has said nothing since: asked of the kernel, since a request that
    /// must not be sent twice is lost on a closed connection.
    Proven,
    /// It may not.
    Fresh,
}

/// A connection to `address`.
///
/// # Errors
/// [`Failure::Connect`] and [`Failure::ConnectTimeout`].
pub(super) async fn connect(
    address: SocketAddr,
    age: Age,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    if age != Age::Fresh
        && let Some(stream) = take(address, age)
    {
        return Ok(stream);
    }
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::ConnectTimeout)?
        .map_err(|_| Failure::Connect)?;
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("TCP_NODELAY could not be set: {error}");
    }
    Ok(stream)
}

fn take(address: SocketAddr, age: Age) -> Option<TcpStream> {
    loop {
        let stream = POOL.with_borrow_mut(|pool| {
            let (_, idle) = pool.iter_mut().find(|(its, _)| *its == address)?;
            Some(idle.pop()?.stream)
        })?;
        let quiet = match age {
            Age::Proven => is_quiet_by_kernel(&stream),
            Age::Any | Age::Fresh => is_quiet(&stream),
        };
        if quiet {
            return Some(stream);
        }
    }
}

/// Keeps a connection, if there are not more than `most` to its address. The answer on it was read
/// to its last byte, and nothing came after that.
pub(super) fn keep(address: SocketAddr, stream: TcpStream, most: usize) {
    let kept = POOL.with_borrow_mut(|pool| {
        let kept = Idle { sweeps: 0, stream };
        match pool.iter_mut().find(|(its, _)| *its == address) {
            Some((_, idle)) if idle.len() >= most => return false,
            Some((_, idle)) => idle.push(kept),
            None if most == 0 => return false,
            None => pool.push((address, vec![kept])),
        }
        true
    });
    if kept && !SWEEPING.replace(true) {
        tokio::spawn(sweep());
    }
}

/// Lets go what is old or was closed by the other end, until nothing is kept.
async fn sweep() {
    loop {
        sleep(SWEEP).await;
        let empty = POOL.with_borrow_mut(|pool| {
            for (_, idle) in pool.iter_mut() {
                idle.retain_mut(|idle| {
                    idle.sweeps += 1;
                    SWEEP.as_secs() * idle.sweeps < LONGEST_IDLE.as_secs() && is_quiet(&idle.stream)
                });
            }
            pool.retain(|(_, idle)| !idle.is_empty());
            pool.is_empty()
        });
        if empty {
            SWEEPING.set(false);
            return;
        }
    }
}

/// Whether nothing came since: neither an end nor bytes that nobody asked for. Costs no system
/// call while the runtime knows of nothing.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn is_quiet_by_kernel(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peeked = socket2::SockRef::from(stream).peek(&mut byte);
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
