//! Which requests the fast lane takes, and how it writes their heads for the upstream.

use crate::proxy::connection::Window;
use crate::proxy::forward::{Fate, Forward};
use crate::proxy::head::RequestHead;

/// The length of the body if the fast lane takes such a request: HTTP/1.1, a body of known length
/// or none, nothing that changes the connection. `length` is that of the head.
pub(crate) fn body_length(head: &RequestHead<'_>, window: Window, length: usize) -> Option<u64> {
    const ELSEWHERE: [&str; 3] = ["transfer-encoding", "upgrade", "expect"];
    let goes_elsewhere = head
        .headers
        .0
        .iter()
        .any(|line| ELSEWHERE.iter().any(|name| line.name.eq_ignore_ascii_case(name)));
    if head.version != http::Version::HTTP_11 || head.host.is_empty() || goes_elsewhere {
        return None;
    }
    match window {
        Window::Bytes(bytes) => bytes.checked_sub(length as u64),
        Window::Chunked(..) | Window::Open => None,
    }
}

/// Writes the head as the upstream gets it.
pub(crate) fn write(out: &mut Vec<u8>, head: &RequestHead<'_>, forward: &Forward, body: u64) {
    for part in [head.method, " ", &forward.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for line in head.headers.0 {
        let name = line.name.as_bytes();
        if name.eq_ignore_ascii_case(b"host") {
            write_line(out, name, forward.host.as_bytes());
        } else if name.eq_ignore_ascii_case(b"content-length") {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            write_number(out, body);
            out.extend_from_slice(b"\r\n");
        } else {
            match forward.fate(name, line.value) {
                Fate::Pass => write_line(out, name, line.value),
                Fate::Drop(_) => {}
                Fate::Replace(value) => write_line(out, name, &value),
            }
        }
    }
    forward
        .additions()
        .for_each(|(name, value)| write_line(out, name.as_bytes(), value.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// One header line.
pub(super) fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
pub(super) fn write_number(out: &mut Vec<u8>, number: u64) {
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
    use crate::proxy::chunked::ChunkedEnd;
    use crate::proxy::head::Headers;

    fn taken(version: http::Version, lines: &[(&str, &str)], window: Window) -> Option<u64> {
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        let head = RequestHead {
            method: "GET",
            target: "/",
            host: "a",
            version,
            headers: Headers(&lines),
        };
        body_length(&head, window, 40)
    }

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 7, 10, 200, 65_536, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn only_what_is_exactly_known_is_taken() {
        const V11: http::Version = http::Version::HTTP_11;
        let host = ("Host", "a");
        assert_eq!(taken(V11, &[host], Window::Bytes(40)), Some(0));
        assert_eq!(taken(V11, &[host, ("Content-Length", "7")], Window::Bytes(47)), Some(7));
        assert_eq!(taken(http::Version::HTTP_10, &[host], Window::Bytes(40)), None);
        for name in ["Upgrade", "EXPECT", "transfer-encoding"] {
            assert_eq!(taken(V11, &[host, (name, "x")], Window::Bytes(40)), None, "{name}");
        }
        assert_eq!(taken(V11, &[host], Window::Open), None);
        assert_eq!(taken(V11, &[host], Window::Chunked(40, ChunkedEnd::new())), None);
        assert_eq!(taken(V11, &[host], Window::Bytes(39)), None);
    }
}
