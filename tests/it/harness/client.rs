//! A caller that sends raw bytes and reads answers strictly: what it does not understand to the
//! letter of RFC 9112 fails the test.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::DEADLINE;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in the spelling that came, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) framing: Framing,
    /// The statuses of the 1xx answers before it.
    pub(crate) interim: Vec<u16>,
}

/// What said where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By rule there is none: HEAD, 101, 204, 304.
    None,
    Length(u64),
    Chunked,
    Close,
}

impl Answer {
    /// All values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    /// The one value of a header; more than one fails the test.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} came {} times: {values:?}", values.len());
        values.first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text()))
    }

    /// Asserts everything that a refusal promises: status, `error`, the four fields and no
    /// others, a request id, JSON, no-store.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, error: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        let body = self.json();
        assert_eq!(body["error"], error, "{text}");
        assert!(body["error_description"].as_str().is_some_and(|d| !d.is_empty()), "{text}");
        assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{text}");
        let known = ["error", "error_description", "errcode", "request_id"];
        for (name, _) in body.as_object().unwrap() {
            assert!(known.contains(&name.as_str()), "{name} is not promised: {text}");
        }
        assert_eq!(self.header("Content-Type"), Some("application/json; charset=utf-8"));
        assert_eq!(self.header("Cache-Control"), Some("no-store"), "{text}");
        assert_eq!(self.header("X-Request-Id"), body["request_id"].as_str(), "{text}");
        body
    }

    /// What the description of a refusal says, in lower case.
    pub(crate) fn description(&self) -> String {
        self.json()["error_description"].as_str().unwrap().to_lowercase()
    }
}

pub(crate) fn values<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

/// How reading an answer ended otherwise.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection ended before the first byte of an answer.
    Closed,
    /// The connection ended or was reset within an answer; what had come of the body.
    Cut(usize),
    /// No byte came for [`DEADLINE`].
    TimedOut,
    /// The answer is not HTTP/1.1.
    Malformed(#[expect(dead_code, reason = "shown by Debug when a test fails")] String),
}

/// One connection to the gateway.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("no connection to the gateway")
    }

    /// `None` if nobody listens any more.
    pub(crate) fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self { reader: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// Sends bytes; an end that was closed by the gateway shows when the answer is read.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        drop(self.stream().write_all(bytes.as_ref()));
        self
    }

    /// Sends bytes and tells whether they could be sent.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream().write_all(bytes)
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) {
        drop(self.stream().shutdown(Shutdown::Write));
    }

    /// Whether the gateway closes the connection without another byte.
    pub(crate) fn is_closed_by_gateway(&mut self) -> bool {
        matches!(self.rest(), Some(rest) if rest.is_empty())
    }

    /// Everything up to the end of the connection; `None` if it does not end.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => Some(rest),
            Err(error) if is_reset(&error) => Some(rest),
            Err(_) => None,
        }
    }

    /// Reads exactly so many bytes.
    pub(crate) fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads the answer to a request that was not HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer("GET").unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Reads the answer to a request of this method, 1xx answers before it included.
    pub(crate) fn try_answer(&mut self, method: &str) -> Result<Answer, ReadError> {
        let mut answer = self.head(method)?;
        let body = match answer.framing {
            Framing::None => Vec::new(),
            Framing::Length(length) => {
                let mut body = Vec::new();
                let read = self.reader.by_ref().take(length).read_to_end(&mut body);
                read.map_err(|error| cut(&error, body.len()))?;
                if body.len() as u64 != length {
                    return Err(ReadError::Cut(body.len()));
                }
                body
            }
            Framing::Chunked => self.chunks()?,
            Framing::Close => {
                let mut body = Vec::new();
                let read = self.reader.read_to_end(&mut body);
                read.map_err(|error| cut(&error, body.len()))?;
                body
            }
        };
        answer.body = body;
        Ok(answer)
    }

    /// Reads the head of an answer; the body stays unread.
    pub(crate) fn head(&mut self, method: &str) -> Result<Answer, ReadError> {
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.one_head()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let framing = framing(method, status, &headers)?;
            return Ok(Answer { status, headers, body: Vec::new(), framing, interim });
        }
    }

    fn one_head(&mut self) -> Result<(u16, Vec<(String, String)>), ReadError> {
        let line = match self.line() {
            Err(ReadError::Cut(0)) => return Err(ReadError::Closed),
            other => other?,
        };
        let malformed = |what: &str| ReadError::Malformed(format!("{what}: {line:?}"));
        let status = line.strip_prefix("HTTP/1.1 ").ok_or_else(|| malformed("status line"))?;
        let digits = status.get(..3).ok_or_else(|| malformed("status"))?;
        if !matches!(status.get(3..4), None | Some(" ")) {
            return Err(malformed("status"));
        }
        let status = digits.parse().map_err(|_| malformed("status"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let malformed = || ReadError::Malformed(format!("header line: {line:?}"));
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(malformed());
            }
            headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// A line without its CRLF; a bare LF or CR is malformed.
    fn line(&mut self) -> Result<String, ReadError> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) => {}
            Err(error) => return Err(cut(&error, line.len())),
        }
        if line.last() != Some(&b'\n') {
            return Err(ReadError::Cut(line.len()));
        }
        let text = String::from_utf8(line).map_err(|e| ReadError::Malformed(e.to_string()))?;
        match text.strip_suffix("\r\n") {
            Some(line) if !line.contains(['\r', '\0']) => Ok(line.to_owned()),
            _ => Err(ReadError::Malformed(format!("line: {text:?}"))),
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let line = self.line().map_err(|error| within_body(error, body.len()))?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| ReadError::Malformed(format!("chunk size: {line:?}")))?;
            if size == 0 {
                // Trailers are dropped in both directions.
                let end = self.line().map_err(|error| within_body(error, body.len()))?;
                return if end.is_empty() {
                    Ok(body)
                } else {
                    Err(ReadError::Malformed(format!("trailer: {end:?}")))
                };
            }
            let before = body.len();
            let read = self.reader.by_ref().take(size).read_to_end(&mut body);
            read.map_err(|error| cut(&error, body.len()))?;
            if (body.len() - before) as u64 != size {
                return Err(ReadError::Cut(body.len()));
            }
            if !self.line().map_err(|error| within_body(error, body.len()))?.is_empty() {
                return Err(ReadError::Malformed("no CRLF after a chunk".to_owned()));
            }
        }
    }
}

fn within_body(error: ReadError, length: usize) -> ReadError {
    if matches!(error, ReadError::Cut(_)) { ReadError::Cut(length) } else { error }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn cut(error: &std::io::Error, length: usize) -> ReadError {
    if is_reset(error) { ReadError::Cut(length) } else { ReadError::TimedOut }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn framing(method: &str, status: u16, headers: &[(String, String)]) -> Result<Framing, ReadError> {
    let lengths = values(headers, "Content-Length");
    let encodings = values(headers, "Transfer-Encoding");
    let malformed = |what: &str| Err(ReadError::Malformed(format!("{what}: {headers:?}")));
    if lengths.len() > 1 || encodings.len() > 1 || (!lengths.is_empty() && !encodings.is_empty()) {
        return malformed("framing said twice");
    }
    if method == "HEAD" || status == 101 || status == 204 || status == 304 {
        if matches!(status, 101 | 204) && !(lengths.is_empty() && encodings.is_empty()) {
            return malformed("an answer that has no body says how long it is");
        }
        return Ok(Framing::None);
    }
    match (encodings.first(), lengths.first()) {
        (Some(&"chunked"), _) => Ok(Framing::Chunked),
        (Some(_), _) => malformed("unknown coding"),
        (None, Some(length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).or_else(|_| malformed("length"))
        }
        (None, Some(_)) => malformed("length"),
        (None, None) => Ok(Framing::Close),
    }
}

/// A request that is written line by line as told.
pub(crate) struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Duration,
}

impl Request {
    pub(crate) fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        Self {
            address,
            method: method.to_owned(),
            target: target.to_owned(),
            host: Some("shop.test".to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: DEADLINE,
        }
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// A body with its Content-Length.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// The bytes that go over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if let Some(host) = &self.host {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it on a connection of its own and reads the answer.
    #[track_caller]
    pub(crate) fn send(self) -> Answer {
        match self.try_send() {
            Ok(answer) => answer,
            Err(error) => panic!("{} {}: no answer: {error:?}", self.method, self.target),
        }
    }

    pub(crate) fn try_send(&self) -> Result<Answer, ReadError> {
        let mut connection = Connection::open(self.address);
        connection.stream().set_read_timeout(Some(self.timeout)).unwrap();
        connection.send(self.bytes()).try_answer(&self.method)
    }

    /// Sends it on a connection that is already open.
    #[track_caller]
    pub(crate) fn send_on(self, connection: &mut Connection) -> Answer {
        connection.send(self.bytes());
        connection
            .try_answer(&self.method)
            .unwrap_or_else(|error| panic!("{} {}: {error:?}", self.method, self.target))
    }
}
