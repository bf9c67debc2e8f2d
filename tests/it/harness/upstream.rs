//! A backend that records what reaches it, byte for byte, and answers as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::client::values;
use super::{DEADLINE, eventually, set_reset_on_close};

/// A block of a long body. Odd in length, so that a lost or doubled buffer shows.
pub(crate) fn block() -> Vec<u8> {
    (0..65_521_u32).map(|position| (position % 251) as u8).collect()
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// From the first byte to the empty line.
    pub(crate) raw_head: Vec<u8>,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in the spelling that came, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The first mebibyte of the body, chunks joined.
    pub(crate) body: Vec<u8>,
    /// All of it.
    pub(crate) body_length: u64,
    /// The body is [`block`] over and over.
    pub(crate) body_is_blocks: bool,
    /// The body ended as its framing said.
    pub(crate) complete: bool,
    /// What stood after the last chunk.
    pub(crate) trailers: Vec<String>,
}

impl Recorded {
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    /// The one value of a header; more than one fails the test.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} came {} times: {values:?}", values.len());
        values.first().copied()
    }

    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw_head).into_owned()
    }

    /// What PHP would put under this key of `$_SERVER`: every name that folds onto it counts,
    /// and the last one wins.
    pub(crate) fn php(&self, key: &str) -> Option<&str> {
        let folds = |name: &str| {
            let name = name.bytes().map(|byte| match byte {
                b'a'..=b'z' => byte.to_ascii_uppercase(),
                b'A'..=b'Z' | b'0'..=b'9' => byte,
                _ => b'_',
            });
            name.eq(key.trim_start_matches("HTTP_").bytes())
        };
        self.headers.iter().rev().find(|(name, _)| folds(name)).map(|(_, value)| value.as_str())
    }
}

/// One step of an answer.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    /// So many bytes of [`block`] over and over.
    Stream(u64),
    /// Until [`Upstream::release`].
    Await,
    /// Until the gateway closes the connection.
    Hang,
    Close,
    Reset,
    /// Sends back what comes, until the end.
    Echo,
}

/// An answer, step by step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    steps: Vec<Step>,
    before_body: bool,
    reads_when_released: bool,
}

impl Reply {
    /// `200 OK` with this body.
    pub(crate) fn ok(body: &str) -> Self {
        Self::with_body("200 OK", &[], body)
    }

    pub(crate) fn with_body(status: &str, headers: &[&str], body: &str) -> Self {
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        Self::raw(format!("{head}\r\n{body}"))
    }

    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::default().then(bytes)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(crate) fn then(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    pub(crate) fn then_stream(self, bytes: u64) -> Self {
        self.step(Step::Stream(bytes))
    }

    pub(crate) fn then_await_release(self) -> Self {
        self.step(Step::Await)
    }

    pub(crate) fn then_hang(self) -> Self {
        self.step(Step::Hang)
    }

    pub(crate) fn then_close(self) -> Self {
        self.step(Step::Close)
    }

    pub(crate) fn then_reset(self) -> Self {
        self.step(Step::Reset)
    }

    pub(crate) fn then_echo(self) -> Self {
        self.step(Step::Echo)
    }

    /// Reads the body only from [`Upstream::release`] on.
    pub(crate) fn reads_when_released(mut self) -> Self {
        self.reads_when_released = true;
        self
    }

    /// Answers as soon as the head is there.
    pub(crate) fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Recorded>>,
    script: Mutex<HashMap<String, Reply>>,
    released: (Mutex<bool>, Condvar),
    connections: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
    streams: Mutex<HashMap<usize, TcpStream>>,
    /// Bytes after the end of a request that are no request.
    garbage: Mutex<Vec<Vec<u8>>>,
}

/// The backend. Every request is answered with `200 OK` and `hello` unless told otherwise.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = state.connections.fetch_add(1, Ordering::SeqCst);
                let clone = stream.try_clone().unwrap();
                state.streams.lock().unwrap().insert(number, clone);
                let state = Arc::clone(&state);
                std::thread::spawn(move || {
                    state.open.fetch_add(1, Ordering::SeqCst);
                    let end = serve(&stream, &state);
                    // A reset goes out when the last handle is closed.
                    if matches!(end, Ok(End::Reset)) {
                        set_reset_on_close(&stream);
                    }
                    state.streams.lock().unwrap().remove(&number);
                    drop(stream);
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers this path (without query) so from now on.
    pub(crate) fn answers(&self, path: &str, reply: Reply) {
        self.shared.script.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// Answers every path that is not told otherwise so.
    pub(crate) fn answers_everything(&self, reply: Reply) {
        self.answers("", reply);
    }

    /// Lets every [`Reply::then_await_release`] go on, now and later.
    pub(crate) fn release(&self) {
        *self.shared.released.0.lock().unwrap() = true;
        self.shared.released.1.notify_all();
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// The request that came last; fails if none came.
    #[track_caller]
    pub(crate) fn last(&self) -> Recorded {
        self.requests().pop().expect("no request reached the upstream")
    }

    /// Requests of this path, query left out.
    pub(crate) fn requests_to(&self, path: &str) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.target.split('?').next() == Some(path));
        requests
    }

    /// Waits until a request of this path has come, body or not.
    pub(crate) fn await_request_to(&self, path: &str) {
        eventually("the request reaches the upstream", || !self.requests_to(path).is_empty());
    }

    /// Connections made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that came where a request should begin and were none.
    pub(crate) fn garbage(&self) -> Vec<Vec<u8>> {
        self.shared.garbage.lock().unwrap().clone()
    }

    /// Closes every connection that is open.
    pub(crate) fn close_connections(&self) {
        for (_, stream) in self.shared.streams.lock().unwrap().drain() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Stops listening and closes every connection.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        eventually("the port is closed", || TcpStream::connect(self.address).is_err());
        self.close_connections();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.close_connections();
        self.release();
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Reset,
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<End> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut writer = stream;
    loop {
        let Some(mut recorded) = read_head(&mut reader, shared)? else {
            return Ok(End::Orderly);
        };
        let path = recorded.target.split('?').next().unwrap_or_default().to_owned();
        let reply = reply_for(shared, &path);
        let index = {
            let mut requests = shared.requests.lock().unwrap();
            requests.push(recorded.clone());
            requests.len() - 1
        };
        if !reply.before_body {
            let expects = recorded.values("Expect").iter().any(|v| v.contains("100-continue"));
            if expects {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if reply.reads_when_released {
                await_release(shared);
            }
            let outcome = read_body(&mut reader, &mut recorded);
            recorded.complete = outcome.is_ok();
            // A test may have forgotten the requests meanwhile.
            if let Some(slot) = shared.requests.lock().unwrap().get_mut(index) {
                *slot = recorded;
            }
            outcome?;
        }
        if let Some(end) = play(&reply, &mut reader, shared)? {
            return Ok(end);
        }
    }
}

fn await_release(shared: &Shared) {
    let released = shared.released.0.lock().unwrap();
    let wait = shared.released.1.wait_timeout_while(released, 2 * DEADLINE, |open| !*open);
    drop(wait.unwrap());
}

fn reply_for(shared: &Shared, path: &str) -> Reply {
    let script = shared.script.lock().unwrap();
    script.get(path).or_else(|| script.get("")).cloned().unwrap_or_else(|| Reply::ok("hello"))
}

/// Tells how the connection ends, if it does.
fn play(
    reply: &Reply,
    reader: &mut BufReader<&TcpStream>,
    shared: &Shared,
) -> std::io::Result<Option<End>> {
    let mut stream = *reader.get_ref();
    for step in &reply.steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Stream(bytes) => {
                let block = block();
                let mut left = *bytes;
                while left > 0 {
                    let now = left.min(block.len() as u64);
                    stream.write_all(&block[..now as usize])?;
                    left -= now;
                }
            }
            Step::Await => await_release(shared),
            Step::Hang => {
                std::io::copy(reader, &mut std::io::sink())?;
                return Ok(Some(End::Orderly));
            }
            Step::Close => {
                stream.shutdown(Shutdown::Both)?;
                return Ok(Some(End::Orderly));
            }
            Step::Reset => return Ok(Some(End::Reset)),
            Step::Echo => {
                std::io::copy(reader, &mut stream)?;
                return Ok(Some(End::Orderly));
            }
        }
    }
    Ok(None)
}

fn read_head(
    reader: &mut BufReader<&TcpStream>,
    shared: &Shared,
) -> std::io::Result<Option<Recorded>> {
    let mut raw = Vec::new();
    while !raw.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut raw)? == 0 {
            if !raw.is_empty() {
                shared.garbage.lock().unwrap().push(raw);
            }
            return Ok(None);
        }
    }
    let text = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let parts: Vec<&str> = request_line.split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = parts[..] else {
        shared.garbage.lock().unwrap().push(raw);
        return Ok(None);
    };
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        (name.to_owned(), value.trim().to_owned())
    };
    Ok(Some(Recorded {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: lines.map(header).collect(),
        raw_head: raw,
        body: Vec::new(),
        body_length: 0,
        body_is_blocks: true,
        complete: false,
        trailers: Vec::new(),
    }))
}

fn read_body(reader: &mut BufReader<&TcpStream>, recorded: &mut Recorded) -> std::io::Result<()> {
    let block = block();
    if recorded.values("Transfer-Encoding").is_empty() {
        let length = recorded.header("Content-Length").map_or(0, |value| value.parse().unwrap());
        return take(reader, length, &block, recorded);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        if size == 0 {
            break;
        }
        take(reader, size, &block, recorded)?;
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            return Ok(());
        }
        recorded.trailers.push(line.trim_end().to_owned());
    }
}

/// Takes so many bytes of the body, and compares them with [`block`] on the way.
fn take(
    reader: &mut BufReader<&TcpStream>,
    length: u64,
    block: &[u8],
    recorded: &mut Recorded,
) -> std::io::Result<()> {
    let mut left = length;
    while left > 0 {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let position = (recorded.body_length % block.len() as u64) as usize;
        let now = available.len().min(left as usize).min(block.len() - position);
        recorded.body_is_blocks &= available[..now] == block[position..position + now];
        if recorded.body.len() < 1024 * 1024 {
            recorded.body.extend(&available[..now]);
        }
        recorded.body_length += now as u64;
        reader.consume(now);
        left -= now as u64;
    }
    Ok(())
}
