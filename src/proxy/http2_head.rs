//! The head of an HTTP/2 request, held to what HTTP/1 is held to: what would be refused there is
//! refused here, so that nobody gets past a rule by speaking a newer protocol.

use pingora::http::RequestHeader;

use super::head::{
    Headers, MAX_HEADERS, MAX_REQUEST_LINE, RequestHead, check_method, content_length,
    is_authority, origin_form,
};
use crate::endpoints::Refusal;

/// What RFC 9113 section 8.2.2 forbids: HTTP/2 frames its messages itself.
const CONNECTION_SPECIFIC: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// What stands around a header line in HTTP/1 (`: ` and CRLF), so that both count alike.
const AROUND_A_LINE: usize = 4;

/// Checks a head and gives it to `then`. A head of more than `max_bytes` is refused.
pub(crate) fn with_http2_head<R>(
    request: &RequestHeader,
    max_bytes: usize,
    then: impl FnOnce(RequestHead<'_>) -> R,
) -> Result<R, Refusal> {
    let method = request.method.as_str();
    check_method(method)?;
    let target = std::str::from_utf8(request.raw_path())
        .map_err(|_| Refusal::Malformed("a request target that is no text"))?;
    if method.len() + target.len() > MAX_REQUEST_LINE {
        return Err(Refusal::UriTooLong);
    }
    let lines: Vec<httparse::Header<'_>> = request
        .headers
        .iter()
        .map(|(name, value)| httparse::Header { name: name.as_str(), value: value.as_bytes() })
        .collect();
    let of_line = |line: &httparse::Header<'_>| line.name.len() + line.value.len() + AROUND_A_LINE;
    let bytes: usize = method.len() + target.len() + lines.iter().map(of_line).sum::<usize>();
    if lines.len() > MAX_HEADERS || bytes > max_bytes {
        return Err(Refusal::HeaderFieldsTooLarge);
    }
    let headers = Headers(&lines);
    if CONNECTION_SPECIFIC.iter().any(|name| headers.get_all(name).next().is_some()) {
        return Err(Refusal::Malformed("a header that HTTP/2 does not have"));
    }
    // RFC 9113 section 8.2.1: malformed; an HTTP/1 upstream would read another value.
    if lines.iter().any(|line| line.value.trim_ascii().len() != line.value.len()) {
        return Err(Refusal::Malformed("white space around a header's value"));
    }
    let mut lengths = headers.get_all("content-length");
    if let Some(length) = lengths.next() {
        content_length(length)?;
    }
    if lengths.next().is_some() {
        return Err(Refusal::Malformed("more than one Content-Length"));
    }
    let host = host(request, headers)?;
    let target = origin_form(method, target, host)?;
    Ok(then(RequestHead { method, target, host, version: http::Version::HTTP_2, headers }))
}

/// The one authority: `:authority`, and a `Host` that says the same or is not there.
fn host<'a>(request: &'a RequestHeader, headers: Headers<'a>) -> Result<&'a str, Refusal> {
    let mut hosts = headers.get_all("host").map(std::str::from_utf8);
    let written = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Malformed("more than one Host"));
    }
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let host = match (authority, written) {
        (Some(authority), None) => authority,
        (Some(authority), Some(Ok(host))) if authority.eq_ignore_ascii_case(host) => authority,
        (None, Some(Ok(host))) => host,
        (None, None) => return Err(Refusal::Malformed("no :authority")),
        (_, Some(_)) => return Err(Refusal::Malformed("a Host that is not the :authority")),
    };
    if is_authority(host) { Ok(host) } else { Err(Refusal::Malformed("a Host that is no host")) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn status(method: &str, uri: &str, lines: &[(&'static str, &str)]) -> u16 {
        let mut builder =
            http::Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        let request = RequestHeader::from(builder.body(()).unwrap().into_parts().0);
        match with_http2_head(&request, 32 * 1024, |head| head.host.to_owned()) {
            Ok(host) => {
                assert_eq!(host, "api.example.com");
                200
            }
            Err(refusal) => refusal.into_answer("id").status,
        }
    }

    #[test]
    fn the_authority_is_the_host_and_there_is_one() {
        let here = "https://api.example.com/x";
        assert_eq!(status("GET", here, &[]), 200);
        assert_eq!(status("GET", here, &[("host", "API.example.com")]), 200);
        assert_eq!(status("GET", "/x", &[("host", "api.example.com")]), 200);
        assert_eq!(status("GET", "/x", &[]), 400);
        assert_eq!(status("GET", here, &[("host", "other.example.com")]), 400);
        assert_eq!(
            status("GET", "/x", &[("host", "api.example.com"), ("host", "api.example.com")]),
            400
        );
        assert_eq!(status("GET", "/x", &[("host", "api.example.com, evil")]), 400);
    }

    #[test]
    fn what_http_1_refuses_is_refused() {
        let here = "https://api.example.com/x";
        assert_eq!(status("get", here, &[]), 400);
        assert_eq!(status("GET", here, &[("connection", "close")]), 400);
        assert_eq!(status("POST", here, &[("transfer-encoding", "chunked")]), 400);
        assert_eq!(status("POST", here, &[("content-length", "5, 5")]), 400);
        assert_eq!(status("POST", here, &[("content-length", "+5")]), 400);
        assert_eq!(status("POST", here, &[("content-length", "5"), ("content-length", "5")]), 400);
        for padded in [" x", "x ", "\tx", "x\t", " "] {
            assert_eq!(status("GET", here, &[("x-padded", padded)]), 400, "{padded:?}");
        }
        assert_eq!(status("GET", here, &[("x-empty", ""), ("x-inner", "a \tb")]), 200);
        assert_eq!(status("GET", &format!("{here}{}", "a".repeat(9000)), &[]), 414);
        assert_eq!(status("GET", here, &[("x-long", &"a".repeat(33_000))]), 431);
        assert_eq!(status("GET", here, &vec![("x-many", "a"); 101]), 431);
    }
}
