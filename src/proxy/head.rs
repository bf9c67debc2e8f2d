//! One request head: read under a deadline, bounded, and exactly as RFC 9112 writes it.
//!
//! This is the gate in front of both lanes. What two parsers could read differently does not pass:
//! a bare LF, a folded line, a second Host, a Content-Length beside a Transfer-Encoding. So what
//! the gateway decides about is what the upstream sees.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::Poll;
use std::time::Duration;

use super::alarm::Deadline;
use super::chunked::ChunkedEnd;
use super::connection::{Connection, Window};
use super::drain::Drain;
use crate::endpoints::Refusal;

/// Longest request line: method, target and version.
pub(crate) const MAX_REQUEST_LINE: usize = 8 * 1024;
/// Most header lines of a request.
pub(crate) const MAX_HEADERS: usize = 100;
/// Longest method that anything registered has (UPDATEREDIRECTREF), and some room.
const MAX_METHOD: usize = 24;

/// Bounds on a request head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head; more: 431.
    pub(crate) max_bytes: usize,
    /// From the first byte of the head to the last; longer: 408.
    pub(crate) timeout: Duration,
    /// Until the first byte comes; longer: closed without a word.
    pub(crate) idle: Duration,
}

/// How reading a head ended without one.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// The client went away, or never said anything.
    Closed,
    /// What came is refused; the connection cannot be used further.
    Refused(Refusal),
}

impl From<Refusal> for NoHead {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The headers of a request, as they were parsed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers<'a>(pub(crate) &'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    /// Every value of a header, in order.
    pub(crate) fn get_all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |line| line.name.eq_ignore_ascii_case(name))
            .map(|line| line.value)
    }

    /// The first value of a header, if it is text. `name` is lower case.
    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        self.get_all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a comma-separated header holds a token.
    pub(crate) fn lists(self, name: &str, token: &str) -> bool {
        let is_it = |item: &[u8]| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
        self.get_all(name).any(|value| match memchr::memchr(b',', value) {
            // Nearly always there is one item.
            None => is_it(value),
            Some(_) => value.split(|byte| *byte == b',').any(is_it),
        })
    }
}

/// A request head that passed the gate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestHead<'a> {
    /// Upper-case letters, `-` or `_`.
    pub(crate) method: &'a str,
    /// Path and query: begins with `/`.
    pub(crate) target: &'a str,
    /// Host and port as the client wrote them; empty only in HTTP/1.0 and where the client sent
    /// no Host.
    pub(crate) host: &'a str,
    /// HTTP/1.0, 1.1 or 2.
    pub(crate) version: http::Version,
    /// In the client's order.
    pub(crate) headers: Headers<'a>,
}

impl RequestHead<'_> {
    /// Whether this asks for a WebSocket (RFC 6455 section 4.1). Nothing about authentication
    /// hangs on it.
    pub(crate) fn is_websocket(&self) -> bool {
        self.method == "GET"
            && self.version == http::Version::HTTP_11
            && self.headers.get_all("upgrade").count() == 1
            && self.headers.lists("connection", "upgrade")
            && self.headers.lists("upgrade", "websocket")
            // What has a body is not a handshake: its end would be lost in the open stream.
            && self.headers.get_all("transfer-encoding").next().is_none()
            && self.headers.get_all("content-length").all(|length| length == b"0")
    }
}

/// Reads until the first byte of [`Connection::ahead`] begins a whole head; returns its length.
pub(crate) async fn read_head(
    connection: &mut Connection,
    limits: HeadLimits,
    drain: &mut Drain,
) -> Result<usize, NoHead> {
    if connection.ahead().is_empty() {
        first_byte(connection, limits.idle, drain).await?;
    }
    // A total, empty lines before the request line included.
    let mut deadline = Deadline::after(limits.timeout);
    skip_empty_lines(connection, &mut deadline).await?;
    // Another protocol, TLS mostly, is told so at once.
    if !connection.ahead().first().is_some_and(|byte| is_method_byte(*byte)) {
        return Err(malformed("no method"));
    }
    let mut scan = Scan::default();
    loop {
        if let Some(length) = scan.find_end(connection.ahead(), limits.max_bytes)? {
            return Ok(length);
        }
        match connection.read_ahead_until(&mut deadline).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Refusal::RequestTimeout.into());
            }
            Err(_) | Ok(0) => return Err(NoHead::Closed),
            Ok(_) => {}
        }
    }
}

/// A connection that stands idle while the process drains is closed, but not at once: a request
/// may be on its way already, and would be lost.
pub(crate) const LAST_CALL: Duration = Duration::from_millis(500);

async fn first_byte(
    connection: &mut Connection,
    limit: Duration,
    drain: &mut Drain,
) -> Result<(), NoHead> {
    let mut told = false;
    let mut deadline = Deadline::after(limit);
    poll_fn(|context| {
        match connection.poll_read_ahead(context) {
            Poll::Ready(Ok(1..)) => return Poll::Ready(Ok(())),
            Poll::Ready(_) => return Poll::Ready(Err(NoHead::Closed)),
            Poll::Pending => {}
        }
        if !told && drain.poll_begun(context).is_ready() {
            told = true;
            deadline.bring_forward(LAST_CALL);
        }
        connection.poll_deadline(context, deadline.get()).map(|()| Err(NoHead::Closed))
    })
    .await
}

/// RFC 9112 section 2.2: an empty line before a request line is skipped; a few, not endlessly.
async fn skip_empty_lines(
    connection: &mut Connection,
    deadline: &mut Deadline,
) -> Result<(), NoHead> {
    for _ in 0..4 {
        while connection.ahead().len() < 2 {
            if connection.ahead().first().is_some_and(|byte| *byte != b'\r') {
                return Ok(());
            }
            match connection.read_ahead_until(deadline).await {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return Err(Refusal::RequestTimeout.into());
                }
                Ok(0) | Err(_) => return Err(NoHead::Closed),
            }
        }
        if !connection.ahead().starts_with(b"\r\n") {
            return Ok(());
        }
        connection.skip(2);
    }
    Err(malformed("more empty lines than a request may begin with"))
}

fn malformed(what: &'static str) -> NoHead {
    NoHead::Refused(Refusal::Malformed(what))
}

/// Looks at each byte of a head once, however it was cut up on its way.
#[derive(Debug, Default)]
struct Scan {
    line_start: usize,
    searched: usize,
}

impl Scan {
    fn find_end(&mut self, ahead: &[u8], max_bytes: usize) -> Result<Option<usize>, NoHead> {
        while let Some(found) =
            ahead.get(self.searched..).and_then(|rest| memchr::memchr(b'\n', rest))
        {
            let end = self.searched + found;
            self.check_request_line(end)?;
            check_length(end, max_bytes)?;
            let line = ahead.get(self.line_start..end).unwrap_or_default();
            // A lone LF ends a line for some parsers and not for others.
            let Some((b'\r', line)) = line.split_last() else {
                return Err(malformed("a line that ends in a bare LF"));
            };
            (self.line_start, self.searched) = (end + 1, end + 1);
            if line.is_empty() {
                return Ok(Some(self.searched));
            }
        }
        self.check_request_line(ahead.len())?;
        // Of a request line that is not whole nobody knows which of its limits it will break.
        if self.line_start > 0 {
            check_length(ahead.len(), max_bytes)?;
        }
        self.searched = ahead.len();
        Ok(None)
    }

    /// `seen` bytes, a last LF left out; the CR before it is not of the line.
    fn check_request_line(&self, seen: usize) -> Result<(), NoHead> {
        if self.line_start == 0 && seen > MAX_REQUEST_LINE + 1 {
            return Err(Refusal::UriTooLong.into());
        }
        Ok(())
    }
}

fn check_length(seen: usize, max_bytes: usize) -> Result<(), NoHead> {
    if seen >= max_bytes { Err(Refusal::HeaderFieldsTooLarge.into()) } else { Ok(()) }
}

/// Parses a head that [`read_head`] found, checks it, and gives it to `then` together with the
/// window that lets exactly this request be read.
pub(crate) fn with_head<R>(
    bytes: &[u8],
    then: impl FnOnce(RequestHead<'_>, Window) -> R,
) -> Result<R, Refusal> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeaderFieldsTooLarge),
        Ok(_) | Err(_) => return Err(Refusal::Malformed("not an HTTP request")),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::Malformed("not an HTTP request"));
    };
    let headers = Headers(request.headers);
    let version = if version == 0 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    check_bytes(bytes)?;
    check_method(method)?;
    let host = host(headers, version)?;
    let target = origin_form(method, target, host)?;
    let head = RequestHead { method, target, host, version, headers };
    let window = window(&head, bytes.len() as u64)?;
    Ok(then(head, window))
}

/// CR only before LF: httparse lets a lone CR pass where it skips white space.
fn check_bytes(bytes: &[u8]) -> Result<(), Refusal> {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'\r', rest) {
        if rest.get(at + 1) != Some(&b'\n') {
            return Err(Refusal::Malformed("a lone CR"));
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    Ok(())
}

/// Path and query of a target.
pub(crate) fn split_target(target: &str) -> (&str, Option<&str>) {
    let at = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
    match target.split_at_checked(at) {
        Some((path, query)) => (path, query.get(1..)),
        None => (target, None),
    }
}

/// A method of letters; CONNECT and TRACE are methods too, and refused with 405 later.
pub(crate) fn check_method(method: &str) -> Result<(), Refusal> {
    if method.len() <= MAX_METHOD && method.bytes().all(is_method_byte) {
        Ok(())
    } else {
        Err(Refusal::Malformed("not a method"))
    }
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

/// The one Host of a request (RFC 9112 section 3.2).
fn host(headers: Headers<'_>, version: http::Version) -> Result<&str, Refusal> {
    let mut hosts = headers.get_all("host");
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if version == http::Version::HTTP_10 => return Ok(""),
        (None, _) => return Err(Refusal::Malformed("no Host")),
        (Some(_), Some(_)) => return Err(Refusal::Malformed("more than one Host")),
    };
    match std::str::from_utf8(host) {
        Ok(host) if is_authority(host) => Ok(host),
        _ => Err(Refusal::Malformed("a Host that is no host")),
    }
}

/// `host[:port]`, a name, an IPv4 or a bracketed IPv6 address; no user information.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, after)) => {
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => {
            let at = memchr::memchr(b':', text.as_bytes()).unwrap_or(text.len());
            let host = text.get(..at).unwrap_or_default();
            let port = text.get(at + 1..);
            let is_name =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let mut last = b'.';
            for byte in host.bytes() {
                // An empty label would be another host to who routes and the same to who resolves.
                if !is_name(byte) || (byte == b'.' && last == b'.') {
                    return false;
                }
                last = byte;
            }
            (host, port)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    !host.is_empty() && host.len() <= 255 && port.is_none_or(is_port)
}

/// A byte that the gate lets pass in a query, and Pingora does not.
pub(crate) const fn is_unwise(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

/// The target as path and query (RFC 9112 section 3.2): an absolute form is taken if it names the
/// host that the request is for.
pub(crate) fn origin_form<'a>(
    method: &str,
    target: &'a str,
    host: &str,
) -> Result<&'a str, Refusal> {
    // RFC 3986 knows none of these in a target; parsers behind us read them in different ways.
    let is_foreign = |byte: u8| byte <= b' ' || byte == 0x7f || byte == b'#';
    // Nor these, but in a query clients write them as they are (WHATWG URL section 1.3 for the
    // backquote), and it is passed as it came.
    let is_unwise = |byte: u8| is_unwise(byte) || byte == b'`';
    let (path, _) = split_target(target);
    if target.bytes().any(is_foreign) || path.bytes().any(is_unwise) {
        return Err(Refusal::Malformed("a request target with a byte that no URI may hold"));
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    if matches!(method, "CONNECT" | "TRACE") || (method == "OPTIONS" && target == "*") {
        // The first two are refused by their method; `OPTIONS *` asks about the gateway itself.
        return Ok("/");
    }
    let absolute = ["http://", "https://"].iter().find_map(|scheme| {
        target
            .get(..scheme.len())
            .filter(|start| start.eq_ignore_ascii_case(scheme))
            .and_then(|_| target.get(scheme.len()..))
    });
    let Some(rest) = absolute else {
        return Err(Refusal::Malformed("a request target that is no path"));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    // To the letter: who spells one host in two ways may mean two. `http:///` names no host, even
    // where HTTP/1.0 sends none.
    if authority.is_empty() || authority != host {
        return Err(Refusal::Malformed("a request target of another host"));
    }
    match path {
        "" => Ok("/"),
        path if path.starts_with('/') => Ok(path),
        _ => Err(Refusal::Malformed("a request target without a path")),
    }
}

/// How far this request reaches (RFC 9112 section 6.3), or why that cannot be said.
fn window(head: &RequestHead<'_>, length: u64) -> Result<Window, Refusal> {
    let mut codings = head.headers.get_all("transfer-encoding");
    let mut lengths = head.headers.get_all("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) if head.is_websocket() => Ok(Window::Open),
        (None, None) => Ok(Window::Bytes(length)),
        (None, Some(digits)) => {
            if lengths.next().is_some() {
                return Err(Refusal::Malformed("more than one Content-Length"));
            }
            let body = content_length(digits)?;
            // One spelling for each number: `010` is eight to some parsers.
            if digits.len() > 1 && digits.first() == Some(&b'0') {
                return Err(not_a_length());
            }
            if head.is_websocket() {
                return Ok(Window::Open);
            }
            length.checked_add(body).map(Window::Bytes).ok_or_else(not_a_length)
        }
        (Some(_), Some(_)) => {
            Err(Refusal::Malformed("Content-Length together with Transfer-Encoding"))
        }
        (Some(coding), None) => {
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            if is_chunked && head.version == http::Version::HTTP_11 {
                Ok(Window::Chunked(length, ChunkedEnd::new()))
            } else {
                Err(Refusal::Malformed("a Transfer-Encoding that is not `chunked`"))
            }
        }
    }
}

fn not_a_length() -> Refusal {
    Refusal::Malformed("a Content-Length that is no number")
}

/// `1*DIGIT`, and nothing else that a number parser would take.
pub(crate) fn content_length(digits: &[u8]) -> Result<u64, Refusal> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(not_a_length());
    }
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(not_a_length)
}

#[cfg(any(test, fuzzing))]
pub(crate) mod beside;
#[cfg(any(test, fuzzing))]
mod letter;

#[cfg(test)]
mod tests;
