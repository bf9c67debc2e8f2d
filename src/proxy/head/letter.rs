//! A second reader of requests, written from RFC 9112 alone: no leniency that it allows is used.
//!
//! It is in no gateway. Tests and the fuzzer hold it beside the gate (`beside.rs`).
#![expect(clippy::indexing_slicing, reason = "it is held beside the gate in tests only")]

/// What a reader makes of a head.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Vec<u8>,
    /// As it is written: in any form.
    pub(super) target: Vec<u8>,
    /// HTTP/1.1, not HTTP/1.0.
    pub(super) is_latest: bool,
    pub(super) lines: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the head.
    pub(super) length: usize,
    pub(super) body: Body,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// A chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) content: Vec<u8>,
    /// Bytes until the end of the body.
    pub(super) length: usize,
    /// Digits of the longest size.
    pub(super) digits: usize,
    /// Bytes of the longest extensions of a chunk.
    pub(super) extensions: usize,
    /// Bytes of all trailers, without the ends of their lines.
    pub(super) trailers: usize,
}

impl Request {
    /// Every value of a field.
    pub(super) fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = |line: &&(Vec<u8>, Vec<u8>)| line.0.eq_ignore_ascii_case(name.as_bytes());
        self.lines.iter().filter(named).map(|(_, value)| value.as_slice()).collect()
    }

    /// Path and query, whatever form the target has (section 3.2).
    pub(super) fn origin_form(&self) -> Option<Vec<u8>> {
        let target = std::str::from_utf8(&self.target).ok()?;
        if target.starts_with('/') {
            return Some(target.into());
        }
        let is_refused = matches!(&self.method[..], b"CONNECT" | b"TRACE");
        if is_refused || (self.method == b"OPTIONS" && target == "*") {
            return Some(b"/".to_vec());
        }
        let (scheme, rest) = target.split_once("://")?;
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return None;
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        // An authority without a host is no URI of HTTP (RFC 9110 section 4.2.1).
        let is_this = !authority.is_empty() && self.values("host") == [authority.as_bytes()];
        is_this.then(|| format!("/{path}").into_bytes())
    }

    /// Whether it asks for a WebSocket (RFC 6455 section 4.1).
    pub(super) fn is_handshake(&self) -> bool {
        let lists = |name, wanted: &str| {
            let all = self.values(name).join(&b","[..]).to_ascii_lowercase();
            let text = String::from_utf8_lossy(&all).into_owned();
            text.split(',').any(|item| item.trim_matches([' ', '\t']) == wanted)
        };
        self.method == b"GET"
            && self.is_latest
            && lists("connection", "upgrade")
            && lists("upgrade", "websocket")
            && self.values("upgrade").len() == 1
            && self.body == Body::Length(0)
    }
}

/// Reads the head that these bytes begin with; `None` where it is not whole or not well written.
pub(super) fn read(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let mut lines = split_lines(&bytes[..end])?.into_iter();
    let mut parts = lines.next()?.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let is_latest = version == b"HTTP/1.1";
    if !(is_latest || version == b"HTTP/1.0") || parts.next().is_some() || !is_token(method) {
        return None;
    }
    if target.is_empty() || !target.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) {
        return None;
    }
    let mut request = Request {
        method: method.into(),
        target: target.into(),
        is_latest,
        lines: lines.map(field).collect::<Option<Vec<_>>>()?,
        length: end + 4,
        body: Body::Length(0),
    };
    match request.values("host").len() {
        1 => {}
        0 if !is_latest => {}
        _ => return None,
    }
    request.body = body(&request)?;
    Some(request)
}

/// Section 6.3; what section 6.1 lets a server refuse is refused.
fn body(request: &Request) -> Option<Body> {
    let codings = request.values("transfer-encoding");
    match (&codings[..], &request.values("content-length")[..]) {
        ([], []) => Some(Body::Length(0)),
        ([], [digits]) => {
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
            number.parse().ok().map(Body::Length)
        }
        ([coding], []) if request.is_latest && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(Body::Chunked)
        }
        _ => None,
    }
}

/// Lines that end in CRLF and hold neither CR nor LF.
fn split_lines(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    loop {
        let at = rest.windows(2).position(|two| two == b"\r\n");
        let line = &rest[..at.unwrap_or(rest.len())];
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return None;
        }
        lines.push(line);
        match at {
            Some(at) => rest = &rest[at + 2..],
            None => return Some(lines),
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..))
}

fn field(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |at| at + 1);
    let value = &value[start..end];
    (is_token(name) && is_text(value)).then(|| (name.into(), value.into()))
}

/// Reads a chunked body (section 7.1); `None` where it is not whole or not well written. What the
/// extensions and trailers say is not looked at, only that they are text.
pub(super) fn read_chunks(bytes: &[u8]) -> Option<Chunks> {
    let mut read = Chunks { content: Vec::new(), length: 0, digits: 0, extensions: 0, trailers: 0 };
    let line = |length: &mut usize| {
        let rest = &bytes[*length..];
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        *length += end + 2;
        is_text(&rest[..end]).then_some(&rest[..end])
    };
    loop {
        let text = line(&mut read.length)?;
        let at = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
        let (digits, extensions) = text.split_at(at);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        read.digits = read.digits.max(digits.len());
        read.extensions = read.extensions.max(extensions.len().saturating_sub(1));
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let end = read.length.checked_add(usize::try_from(size).ok()?)?;
        read.content.extend_from_slice(bytes.get(read.length..end)?);
        if bytes.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        read.length = end + 2;
    }
    loop {
        match line(&mut read.length)?.len() {
            0 => return Some(read),
            length => read.trailers += length,
        }
    }
}
