//! The listening sockets on their way from a running gateway to the one that replaces it.
//!
//! The new process waits at a socket in a folder that only its user may enter; the old one, told
//! by SIGQUIT, connects to it and sends what it listens on. Only when the new one says that it
//! serves does the old one stop accepting, so that nobody is turned away in between, and a new
//! process that fails leaves the old one as it was.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{AddrParseError, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};

/// How long one process waits for the other to come.
const MEETING: Duration = Duration::from_secs(30);
/// How long the new process may take from the sockets to its first request.
const START: Duration = Duration::from_secs(60);
/// More sockets than a configuration has any use for.
const MOST_SOCKETS: usize = 64;
/// A line of text for each of them.
const MOST_BYTES: usize = 8 * 1024;

/// What the new process says once it serves.
const SERVES: u8 = b'!';
/// What follows the address of a socket that systemd holds too.
const SYSTEMD: &str = " systemd";

/// Why sockets were not handed over. Everything is as it was before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    /// The other process did not come.
    #[error("{who} did not come within {} s", MEETING.as_secs())]
    Nobody {
        /// Who was waited for.
        who: &'static str,
    },
    /// The new process ended, or did not begin to serve.
    #[error("the new process did not begin to serve")]
    NotServing,
    /// The folder or the other end belongs to somebody else.
    #[error("{0} belongs to another user")]
    Stranger(String),
    /// What came is not what a gateway sends.
    #[error("what came is not from a gateway of this version")]
    Garbled,
    /// The system refused something.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A listening socket, and the address that the configuration has for it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) written: SocketAddr,
    pub(crate) listener: TcpListener,
    pub(crate) holder: Holder,
}

/// With whom a listening socket lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The gateway alone: when it ends, the socket is gone.
    Gateway,
    /// systemd too: connections may come while no gateway runs, for the next one.
    Systemd,
}

impl Named {
    /// The same socket once more.
    pub(crate) fn again(&self) -> io::Result<Self> {
        let listener = self.listener.try_clone()?;
        Ok(Self { written: self.written, listener, holder: self.holder })
    }
}

/// The process that sockets were taken over from. It goes on if this is dropped.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells the old process that it may stop accepting.
    pub(crate) async fn may_stop(mut self) {
        if let Err(error) = self.0.write_all(&[SERVES]).await {
            log::error!("the old process was not told to stop: {error}");
        }
    }
}

/// Where the two processes of a configuration meet.
///
/// # Errors
/// [`HandOverError`], if there is no folder that only this user may enter.
pub(crate) fn meeting_place(configuration: &Path) -> Result<PathBuf, HandOverError> {
    let user = rustix::process::geteuid().as_raw();
    let parent = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .iter()
        .find_map(std::env::var_os)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("wxgate-{user}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let found = std::fs::symlink_metadata(&folder)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(HandOverError::Stranger(folder.display().to_string()));
    }
    let mut hasher = DefaultHasher::new();
    configuration.canonicalize().unwrap_or_else(|_| configuration.to_owned()).hash(&mut hasher);
    Ok(folder.join(format!("{:016x}.sock", hasher.finish())))
}

/// Waits for the old process and takes its sockets over.
///
/// # Errors
/// [`HandOverError`]; the old process goes on then.
pub(crate) async fn take_over(place: &Path) -> Result<(Vec<Named>, Predecessor), HandOverError> {
    match std::fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(place)?;
    let met = timeout(MEETING, listener.accept()).await;
    std::fs::remove_file(place)?;
    let (stream, _) =
        met.map_err(|_| HandOverError::Nobody { who: "a running gateway that got SIGQUIT" })??;
    check_user(&stream)?;
    let sockets = timeout(MEETING, receive(&stream))
        .await
        .map_err(|_| HandOverError::Nobody { who: "a running gateway that got SIGQUIT" })??;
    Ok((sockets, Predecessor(stream)))
}

/// Waits for the new process, gives it the sockets, and waits until it serves.
///
/// # Errors
/// [`HandOverError`]; this process is to go on then.
pub(crate) async fn hand_over(place: PathBuf, sockets: Vec<Named>) -> Result<(), HandOverError> {
    let end = Instant::now() + MEETING;
    let mut stream = loop {
        match UnixStream::connect(&place).await {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            Err(_) => return Err(HandOverError::Nobody { who: "`wxgate run --upgrade`" }),
        }
    };
    check_user(&stream)?;
    send(&stream, &sockets).await?;
    let mut word = [0];
    match timeout(START, stream.read_exact(&mut word)).await {
        Ok(Ok(_)) if word == [SERVES] => Ok(()),
        Ok(_) | Err(_) => Err(HandOverError::NotServing),
    }
}

fn check_user(stream: &UnixStream) -> Result<(), HandOverError> {
    if stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(HandOverError::Stranger("the other process".to_owned()))
    }
}

async fn send(stream: &UnixStream, sockets: &[Named]) -> Result<(), HandOverError> {
    let text: String = sockets.iter().map(line).collect();
    if sockets.len() > MOST_SOCKETS || text.len() > MOST_BYTES {
        return Err(HandOverError::Garbled);
    }
    let sent = stream.async_io(Interest::WRITABLE, || {
        let fds: Vec<BorrowedFd<'_>> =
            sockets.iter().map(|socket| socket.listener.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = [IoSlice::new(text.as_bytes())];
        Ok(sendmsg(stream, &bytes, &mut rights, SendFlags::empty())?)
    });
    if sent.await? == text.len() { Ok(()) } else { Err(HandOverError::Garbled) }
}

/// The address, and a word where systemd holds the socket too.
fn line(socket: &Named) -> String {
    match socket.holder {
        Holder::Gateway => format!("{}\n", socket.written),
        Holder::Systemd => format!("{}{SYSTEMD}\n", socket.written),
    }
}

fn read_line(line: &str) -> Result<(SocketAddr, Holder), AddrParseError> {
    match line.strip_suffix(SYSTEMD) {
        Some(address) => Ok((address.parse()?, Holder::Systemd)),
        None => Ok((line.parse()?, Holder::Gateway)),
    }
}

/// One message holds everything: it is small, and the kernel does not cut what carries sockets.
async fn receive(stream: &UnixStream) -> Result<Vec<Named>, HandOverError> {
    let received = stream.async_io(Interest::READABLE, || {
        let mut text = vec![0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [IoSliceMut::new(&mut text)];
        let length = recvmsg(stream, &mut bytes, &mut rights, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut listeners = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                listeners.extend(fds.map(TcpListener::from));
            }
        }
        text.truncate(length);
        Ok((text, listeners))
    });
    let (text, listeners) = received.await?;
    let text = String::from_utf8(text).map_err(|_| HandOverError::Garbled)?;
    let lines: Result<Vec<_>, _> = text.lines().map(read_line).collect();
    let lines = lines.map_err(|_| HandOverError::Garbled)?;
    if lines.is_empty() || lines.len() != listeners.len() {
        return Err(HandOverError::Garbled);
    }
    let named = |((written, holder), listener)| Named { written, listener, holder };
    Ok(lines.into_iter().zip(listeners).map(named).collect())
}
