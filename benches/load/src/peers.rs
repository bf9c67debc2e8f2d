//! All clients and the backend, on one thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::candidates;

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// TLS 1.3.
    Http1OverTls,
    /// Over TLS 1.3.
    Http2,
}

/// What a request looks like, and how many are under way at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    /// Bytes of an answer's body.
    pub(crate) answer: usize,
    /// Bytes of a request's body.
    pub(crate) body: usize,
}

/// What came of a load.
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Of every request, in microseconds; sorted.
    pub(crate) latencies: Vec<u32>,
}

pub(crate) fn pin_to_first_core() {
    let me = std::process::id().to_string();
    let pinned = std::process::Command::new("taskset").args(["-pc", "0", &me]).output();
    assert!(pinned.is_ok_and(|output| output.status.success()), "taskset is needed");
}

/// Answers every request alike; returns its port.
pub(crate) async fn start_backend(answer: usize) -> u16 {
    // A thousand connections come at once; one that the kernel turns away waits for a second.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4096).unwrap();
    let port = listener.local_addr().unwrap().port();
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Sat, 21 Nov 2026 13:00:00 GMT\r\n\
         Content-Type: application/json\r\nContent-Length: {answer}\r\n\r\n"
    );
    let mut reply = head.into_bytes();
    reply.resize(reply.len() + answer, b'x');
    let reply: &'static [u8] = reply.leak();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream, reply));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, reply: &'static [u8]) {
    let mut buffer = vec![0; 64 * 1024];
    let mut have = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer[have..]).await {
        have += count;
        while let Some(length) = request_length(&buffer[..have]) {
            if stream.write_all(reply).await.is_err() {
                return;
            }
            buffer.copy_within(length..have, 0);
            have -= length;
        }
    }
}

/// The length of the request at the front, if it is whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let body = field(&bytes[..head], b"content-length:").unwrap_or(0);
    (bytes.len() >= head + body).then_some(head + body)
}

fn field(head: &[u8], name: &[u8]) -> Option<usize> {
    let line = head.split(|byte| *byte == b'\n').find(|line| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    })?;
    std::str::from_utf8(&line[name.len()..]).ok()?.trim().parse().ok()
}

/// The headers of a mini program's request, but for `Host` and the length.
pub(crate) fn headers() -> Vec<(&'static str, String)> {
    let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) MicroMessenger/8.0.44";
    let page = "https://servicewechat.com/wx0123456789abcdef/12/page-frame.html";
    vec![
        ("User-Agent", agent.to_owned()),
        ("Accept", "*/*".to_owned()),
        ("Accept-Encoding", "gzip, deflate, br".to_owned()),
        ("Content-Type", "application/json".to_owned()),
        ("Referer", page.to_owned()),
        ("Authorization", format!("Bearer {}", candidates::token())),
    ]
}

/// Where it goes.
pub(crate) const TARGET: &str = "/api/orders?page=2";

fn request(address: SocketAddr, body: usize) -> Vec<u8> {
    let (method, length) = match body {
        0 => ("GET", String::new()),
        body => ("POST", format!("Content-Length: {body}\r\n")),
    };
    let mut request = format!("{method} {TARGET} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers() {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut request = format!("{request}{length}\r\n").into_bytes();
    request.resize(request.len() + body, b'b');
    request
}

/// Every connection sends its next request when it has its answer.
pub(crate) async fn load(address: SocketAddr, shape: Shape, time: Duration) -> Load {
    let request: &'static [u8] = request(address, shape.body).leak();
    let begin = Instant::now();
    let end = begin + time;
    let clients: Vec<_> = (0..shape.connections)
        .map(|_| tokio::spawn(client(address, request, shape.answer, end)))
        .collect();
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.unwrap());
    }
    latencies.sort_unstable();
    let seconds = begin.elapsed().as_secs_f64();
    Load { requests: latencies.len() as u64, seconds, latencies }
}

async fn client(address: SocketAddr, request: &[u8], answer: usize, end: Instant) -> Vec<u32> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 128 * 1024];
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return latencies;
        }
        stream.write_all(request).await.unwrap();
        read_answer(&mut stream, &mut buffer, answer).await;
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap());
    }
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8], answer: usize) {
    let mut have = 0;
    let mut whole = usize::MAX;
    while have < whole {
        let count = stream.read(&mut buffer[have..]).await.unwrap();
        assert!(count > 0, "an answer was cut");
        have += count;
        if whole == usize::MAX
            && let Some(end) = buffer[..have].windows(4).position(|end| end == b"\r\n\r\n")
        {
            let head = &buffer[..end + 4];
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(head));
            assert_eq!(field(head, b"content-length:"), Some(answer));
            whole = end + 4 + answer;
        }
    }
    assert_eq!(have, whole, "more than an answer");
}
