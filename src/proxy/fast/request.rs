//! Which requests the fast lane takes.

use crate::proxy::connection::Window;
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
