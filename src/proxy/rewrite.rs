//! The head of a request, written anew as the upstream gets it: what passes of the client's lines,
//! then what the gateway says. Nothing of a client's head reaches an upstream but through here and,
//! for HTTP/2, through `rewritten` of `http2.rs`; what passes is `forward.rs`'s to decide.

use std::borrow::Cow;

use super::answering::After;
use super::connection::Window;
use super::forward::{Fate, Forward};
use super::head::{RequestHead, is_unwise};
use crate::endpoints::Refusal;

/// Longest head that Pingora reads, less a little: past it, it would answer without a word.
const MOST_FOR_PINGORA: usize = 1024 * 1024 - 512;

/// Writes the head of a request with a body of this many bytes.
pub(crate) fn write(out: &mut Vec<u8>, head: &RequestHead<'_>, forward: &Forward, body: u64) {
    write_request_line(out, head.method, &forward.target, " HTTP/1.1\r\n");
    write_passing(out, head, forward, body);
    for (name, value) in forward.lasting_additions() {
        write_line(out, name.as_bytes(), value.as_bytes());
    }
    for (name, value) in forward.late_additions() {
        write_line(out, name.as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a head for Pingora, which reads it as if the client had sent it, and takes it over but
/// for what is new with each attempt. `window` is that of the client's head, which has `length`
/// bytes; returned is that of the new one.
///
/// # Errors
/// 431 where the new head is larger than Pingora reads.
pub(crate) fn write_for_pingora(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    forward: &Forward,
    (window, length): (Window, usize),
    after: After,
) -> Result<Window, Refusal> {
    let is_http_1_0 = head.version == http::Version::HTTP_10;
    let version = if is_http_1_0 { " HTTP/1.0\r\n" } else { " HTTP/1.1\r\n" };
    write_request_line(out, head.method, &encoded(&forward.target), version);
    let body = match window {
        Window::Bytes(bytes) => bytes.saturating_sub(length as u64),
        // Such a length is 0 or not there.
        Window::Chunked(..) | Window::Open => 0,
    };
    write_passing(out, head, forward, body);
    match window {
        Window::Bytes(_) if is_http_1_0 && after == After::KeepAlive => {
            write_line(out, b"Connection", b"keep-alive");
        }
        Window::Bytes(_) => {}
        Window::Chunked(..) => write_line(out, b"Transfer-Encoding", b"chunked"),
        Window::Open => {
            write_line(out, b"Connection", b"Upgrade");
            write_line(out, b"Upgrade", b"websocket");
        }
    }
    for (name, value) in forward.lasting_additions() {
        write_line(out, name.as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if out.len() > MOST_FOR_PINGORA {
        return Err(Refusal::HeaderFieldsTooLarge);
    }
    let written = out.len() as u64;
    Ok(match window {
        Window::Bytes(_) => Window::Bytes(written.saturating_add(body)),
        Window::Chunked(_, end) => Window::Chunked(written, end),
        Window::Open => Window::Open,
    })
}

fn write_request_line(out: &mut Vec<u8>, method: &str, target: &str, version: &str) {
    for part in [method, " ", target, version] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes what passes of the client's lines. `Expect` was met by the gateway.
fn write_passing(out: &mut Vec<u8>, head: &RequestHead<'_>, forward: &Forward, body: u64) {
    for line in head.headers.0 {
        let name = line.name.as_bytes();
        if name.eq_ignore_ascii_case(b"host") {
            write_line(out, name, forward.host.as_bytes());
        } else if name.eq_ignore_ascii_case(b"content-length") {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            write_number(out, body);
            out.extend_from_slice(b"\r\n");
        } else if !name.eq_ignore_ascii_case(b"expect") {
            match forward.fate(name, line.value) {
                Fate::Pass => write_line(out, name, line.value),
                Fate::Drop(_) => {}
                Fate::Replace(value) => write_line(out, name, &value),
            }
        }
    }
}

/// A target as Pingora can hold it: with the bytes encoded that it takes in no query. Whoever
/// decodes the query reads what the client wrote.
pub(crate) fn encoded(target: &str) -> Cow<'_, str> {
    if !target.bytes().any(is_unwise) {
        return Cow::Borrowed(target);
    }
    Cow::Owned(target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E"))
}

/// One header line.
pub(crate) fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    // As many as the largest has.
    let mut digits = [0; 20];
    let mut rest = number;
    let mut first = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        // The remainder is below 10, so nothing is cut off.
        *digit = b'0' + (rest % 10) as u8;
        first = at;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 7, 10, 200, 65_536, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn a_query_is_encoded_only_where_it_must_be() {
        assert!(matches!(encoded("/a?b=`c"), Cow::Borrowed("/a?b=`c")));
        assert_eq!(encoded("/a?b=\"<c>"), "/a?b=%22%3Cc%3E");
    }
}
