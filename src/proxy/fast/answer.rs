//! The head of a backend's answer: where the body behind it ends, and what of it the client gets.
//!
//! A backend is trusted with what it says, not with how it frames it: where two readers could
//! disagree about the end of an answer it is refused with 502, since the client would take the
//! rest for the next one.

use std::mem::MaybeUninit;

use crate::proxy::answering::{After, Changes, Nominated, is_hop_by_hop};
use crate::proxy::head::{Headers, content_length};
use crate::proxy::rewrite::{write_line, write_number};
use crate::proxy::upgrade::is_event_stream;

/// Most header lines of an answer: as many as the full lane takes.
const MAX_HEADERS: usize = 256;
/// Longest head of an answer.
const MAX_BYTES: usize = 64 * 1024;

/// What came is no answer that can be passed on.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("the upstream's answer is not HTTP/1")]
pub(super) struct Malformed;

/// Where the body of an answer ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, whatever the head says.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What the gateway adds to an answer or needs to know to read it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// An answer to HEAD has no body.
    pub(super) is_head: bool,
    /// Whether the client's connection stays open.
    pub(super) after: After,
    /// What of it is changed.
    pub(super) changes: Changes<'a>,
    /// Names the request.
    pub(super) request_id: &'a str,
}

/// The head of an answer, as far as the gateway acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnswerHead {
    /// Below 200 another head follows.
    pub(super) status: u16,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// Whether the upstream's connection may carry another request, if the body ends cleanly.
    pub(super) keeps_alive: bool,
    /// Whether it is an event stream: one that a kicked session's end closes.
    pub(super) is_event_stream: bool,
}

/// Finds the end of a head, looking at each byte once however it was cut up.
#[derive(Debug, Default)]
pub(super) struct Scan {
    seen: usize,
}

impl Scan {
    /// The length of the head, once it is whole.
    pub(super) fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some(at) = bytes.get(self.seen..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let line = bytes.get(self.seen..self.seen + at).unwrap_or_default();
            self.seen += at + 1;
            // Some backends end lines with a bare LF; written anew, they end in CRLF.
            if matches!(line, b"" | b"\r") {
                return Ok(Some(self.seen));
            }
        }
        if bytes.len() > MAX_BYTES { Err(Malformed) } else { Ok(None) }
    }
}

/// Reads a whole head and writes it as the client gets it.
pub(super) fn rewrite(
    bytes: &[u8],
    out: &mut Vec<u8>,
    asked: &Asked<'_>,
) -> Result<AnswerHead, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        bytes,
        &mut lines,
    );
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {
            write_anew(&answer, out, asked)
        }
        Ok(_) | Err(_) => mend(bytes, out, asked),
    }
}

/// The same for a head with what a proxy mends (RFC 9112 sections 5.1 and 5.2): white space before
/// a colon, and lines that go on in the next one.
fn mend(bytes: &[u8], out: &mut Vec<u8>, asked: &Asked<'_>) -> Result<AnswerHead, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut answer, bytes, &mut lines);
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) | Err(_) => return Err(Malformed),
    }
    let values: Vec<_> = answer.headers.iter().map(|line| unfolded(line.value)).collect();
    let lines = answer.headers.iter().zip(&values);
    let mut lines: Vec<_> =
        lines.map(|(line, value)| httparse::Header { name: line.name, value }).collect();
    let httparse::Response { version, code, reason, .. } = answer;
    let answer = httparse::Response { version, code, reason, headers: &mut lines };
    let head = write_anew(&answer, out, asked)?;
    // Whoever writes so may mean something else by it.
    Ok(AnswerHead { keeps_alive: false, ..head })
}

/// A value in one line.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(&b' ')
}

fn write_anew(
    answer: &httparse::Response<'_, '_>,
    out: &mut Vec<u8>,
    asked: &Asked<'_>,
) -> Result<AnswerHead, Malformed> {
    let (Some(status @ 100..), Some(version)) = (answer.code, answer.version) else {
        return Err(Malformed);
    };
    let headers = Headers(answer.headers);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(answer.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    if status < 200 {
        // A change of protocol that nobody asked for.
        if status == 101 {
            return Err(Malformed);
        }
        write_lines(out, headers, None, asked.changes);
        out.extend_from_slice(b"\r\n");
        let (keeps_alive, is_event_stream) = (true, false);
        return Ok(AnswerHead { status, framing: Framing::Empty, keeps_alive, is_event_stream });
    }
    let said = Said::read(headers)?;
    let framing = said.framing(status, asked.is_head);
    let length = said.length.filter(|_| status != 204 && !said.chunked);
    write_lines(out, headers, length, asked.changes);
    write_ours(out, headers, asked, framing);
    let keeps_alive = version == 1 && said.keeps_alive(headers);
    let is_event_stream = headers.get_all("content-type").any(is_event_stream);
    Ok(AnswerHead { status, framing, keeps_alive, is_event_stream })
}

/// What a head says of the body's end.
#[derive(Debug, Clone, Copy)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    /// Said more than once, or in two ways: read as RFC 9112 section 6.3 says, but whoever wrote
    /// it may mean something else, so nothing more is read from that connection.
    doubtful: bool,
}

impl Said {
    fn read(headers: Headers<'_>) -> Result<Self, Malformed> {
        let mut said = Self { length: None, chunked: false, doubtful: false };
        for coding in headers.get_all("transfer-encoding") {
            if said.chunked || !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed);
            }
            said.chunked = true;
        }
        let values = headers.get_all("content-length");
        for digits in values.flat_map(|value| value.split(|byte| *byte == b',')) {
            let length = content_length(digits.trim_ascii()).map_err(|_| Malformed)?;
            match said.length {
                Some(first) if first != length => return Err(Malformed),
                Some(_) => said.doubtful = true,
                None => said.length = Some(length),
            }
        }
        said.doubtful |= said.chunked && said.length.is_some();
        Ok(said)
    }

    fn framing(self, status: u16, is_head: bool) -> Framing {
        match self {
            _ if is_head || matches!(status, 204 | 304) => Framing::Empty,
            Self { chunked: true, .. } => Framing::Chunked,
            Self { length: Some(length), .. } => Framing::Length(length),
            Self { length: None, .. } => Framing::UntilClose,
        }
    }

    fn keeps_alive(self, headers: Headers<'_>) -> bool {
        !self.doubtful && !headers.lists("connection", "close")
    }
}

/// Writes the headers that pass; the length is written once, however often it was said.
fn write_lines(out: &mut Vec<u8>, headers: Headers<'_>, length: Option<u64>, changes: Changes<'_>) {
    let mut length = length;
    let nominated = Nominated::of(headers);
    for line in headers.0 {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if let Some(length) = length.take() {
                out.extend_from_slice(line.name.as_bytes());
                out.extend_from_slice(b": ");
                write_number(out, length);
                out.extend_from_slice(b"\r\n");
            }
        } else if !(is_hop_by_hop(line.name, nominated)
            || is("transfer-encoding")
            || changes.drop(line.name))
        {
            write_line(out, line.name.as_bytes(), line.value);
        }
    }
}

/// Writes what the gateway says itself, and the end of the head.
fn write_ours(out: &mut Vec<u8>, headers: Headers<'_>, asked: &Asked<'_>, framing: Framing) {
    let lacks = |name: &str| headers.get_all(name).next().is_none();
    for (name, value) in asked.changes.lines() {
        write_line(out, name.as_bytes(), value.as_bytes());
    }
    if lacks("x-request-id") {
        write_line(out, b"X-Request-Id", asked.request_id.as_bytes());
    }
    if lacks("date") {
        write_line(out, b"Date", crate::clock::http_date().as_bytes());
    }
    if matches!(framing, Framing::Chunked | Framing::UntilClose) {
        write_line(out, b"Transfer-Encoding", b"chunked");
    }
    let connection: &[u8] = match asked.after {
        After::KeepAlive => b"keep-alive",
        After::Close => b"close",
    };
    write_line(out, b"Connection", connection);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn read(head: &str, is_head: bool) -> Result<(AnswerHead, String), Malformed> {
        let mut out = Vec::new();
        let asked =
            Asked { is_head, after: After::KeepAlive, changes: Changes::none(), request_id: "r1" };
        let head = rewrite(head.as_bytes(), &mut out, &asked)?;
        Ok((head, String::from_utf8(out).unwrap()))
    }

    fn framing(head: &str, is_head: bool) -> Result<(Framing, bool), Malformed> {
        read(head, is_head).map(|(head, _)| (head.framing, head.keeps_alive))
    }

    #[test]
    fn the_end_of_an_answer_is_where_rfc_9112_says() {
        use Framing::{Chunked, Empty, Length, UntilClose};
        for (lines, is_head, expected) in [
            ("200 OK\r\nContent-Length: 5\r\n", false, (Length(5), true)),
            ("200 OK\r\nContent-Length: 0\r\n", false, (Length(0), true)),
            ("200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n", false, (Length(5), false)),
            ("200 OK\r\nContent-Length: 5, 5\r\n", false, (Length(5), false)),
            ("200 OK\r\nTransfer-Encoding: Chunked\r\n", false, (Chunked, true)),
            (
                "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                false,
                (Chunked, false),
            ),
            ("200 OK\r\n", false, (UntilClose, true)),
            (
                "200 OK\r\nConnection: foo, Close\r\nContent-Length: 5\r\n",
                false,
                (Length(5), false),
            ),
            ("200 OK\r\nContent-Length: 5\r\n", true, (Empty, true)),
            ("200 OK\r\nTransfer-Encoding: chunked\r\n", true, (Empty, true)),
            ("204 No Content\r\nContent-Length: 5\r\n", false, (Empty, true)),
            ("304 Not Modified\r\nContent-Length: 5\r\n", false, (Empty, true)),
            ("599\r\nContent-Length: 5\r\n", false, (Length(5), true)),
        ] {
            assert_eq!(framing(&format!("HTTP/1.1 {lines}\r\n"), is_head), Ok(expected), "{lines}");
        }
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(framing(old, false), Ok((Length(5), false)));
    }

    #[test]
    fn an_answer_that_can_be_read_in_two_ways_is_none() {
        for lines in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5;\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 0\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length : 2\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\r\n ked\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n : b\r\n",
            "HTTP/1.1 200 OK\r\nA : b\rc\r\n",
            "HTTP/1.1 200 OK\r\nA : b\0c\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n",
            "HTTP/1.1 099 Low\r\n",
            "HTTP/1.1 20 OK\r\n",
            "HTTP/2 200 OK\r\n",
            "ICY 200 OK\r\n",
            "<html>\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n",
        ] {
            assert_eq!(framing(&format!("{lines}\r\n"), false), Err(Malformed), "{lines}");
        }
    }

    #[test]
    fn what_is_about_the_upstreams_connection_ends_here_and_the_rest_passes() {
        let head = "HTTP/1.1 200 Fine\nConnection: x-hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                    Set-Cookie: a=1\r\nset-cookie: b=2\r\nTrailer: X\r\nDate: Thu, 01 Jan 1970\r\n\
                    x-request-id: theirs\r\ncontent-LENGTH: 005\r\n\r\n";
        assert_eq!(
            read(head, false).unwrap().1,
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nDate: Thu, 01 Jan 1970\r\n\
             x-request-id: theirs\r\ncontent-LENGTH: 5\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn what_a_proxy_mends_is_mended_and_the_connection_is_not_used_again() {
        let head = "HTTP/1.1 200 OK\r\nX-A : b\r\nX-B: c\r\n  d \r\n\te\r\nX-C:\r\n f\r\n\
                    Content-Length\t: 5\r\nDate: x\r\nX-Request-Id: y\r\n\r\n";
        let (head, text) = read(head, false).unwrap();
        assert_eq!((head.framing, head.keeps_alive), (Framing::Length(5), false));
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nX-A: b\r\nX-B: c d e\r\nX-C: f\r\nContent-Length: 5\r\n\
             Date: x\r\nX-Request-Id: y\r\nConnection: keep-alive\r\n\r\n"
        );
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n";
        assert_eq!(framing(chunked, false), Ok((Framing::Chunked, false)));
        let many = |count: usize| format!("HTTP/1.1 204 No\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(framing(&many(256), false), Ok((Framing::Empty, true)));
        assert_eq!(framing(&many(257), false), Err(Malformed));
    }

    #[test]
    fn an_interim_answer_passes_without_framing_of_its_own() {
        let head = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\n\r\n";
        let (head, text) = read(head, false).unwrap();
        assert_eq!(head.status, 103);
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_was_cut() {
        let head = b"HTTP/1.1 200 OK\r\nA: b\n\r\nrest\r\n\r\n";
        for at in 0..head.len() {
            let (first, _) = head.split_at(at);
            let mut scan = Scan::default();
            let found = scan.find_end(first).unwrap().or(scan.find_end(head).unwrap());
            assert_eq!(found, Some(24), "cut at {at}");
        }
        assert_eq!(Scan::default().find_end(&vec![b'a'; MAX_BYTES + 1]), Err(Malformed));
    }
}
