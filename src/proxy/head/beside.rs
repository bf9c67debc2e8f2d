//! The gate beside the reader of `letter.rs`: what either makes of the same bytes.
//!
//! It is in no gateway. The tests call it, and the fuzzer (`fuzz/`) does.
#![expect(clippy::indexing_slicing, reason = "it is called by tests only")]

use super::letter::{self, Body, Request};
use super::{MAX_HEADERS, MAX_METHOD, Scan, with_head};
use crate::proxy::chunked::{self, ChunkedEnd};
use crate::proxy::connection::Window;
use crate::proxy::fast;

/// Low, so that a fuzzer gets there.
const MAX_BYTES: usize = 2 * 1024;
/// What `chunked.rs` allows.
const MOST_DIGITS: usize = 15;
const MOST_EXTENSIONS: usize = 256;
const MOST_TRAILERS: usize = 8 * 1024;

/// Reads what a client sent, request by request, as the gate does and to the letter of RFC 9112.
///
/// # Errors
/// In words where the two do not agree: a request that passes the gate and reads otherwise to the
/// letter, goes to another lane than it should or ends elsewhere; or one that is refused, although
/// nothing is wrong with it.
pub(crate) fn compare(bytes: &[u8]) -> Result<(), String> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // An empty line before a request line is dropped before either of them reads.
        if let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
            continue;
        }
        match compare_next(rest)? {
            Some(length) => rest = &rest[length..],
            None => break,
        }
    }
    Ok(())
}

/// Somewhere in the middle, for the same bytes always there.
fn cut(bytes: &[u8]) -> usize {
    let sum = bytes.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
    sum % (bytes.len() + 1)
}

/// Compares the first request; tells its length if it is whole and another may follow.
fn compare_next(bytes: &[u8]) -> Result<Option<usize>, String> {
    let by_the_letter = letter::read(bytes);
    let length = match (find_end(bytes)?, &by_the_letter) {
        (Ok(Some(length)), _) => length,
        (Ok(None), None) => return Ok(None),
        (Ok(None), Some(_)) => return Err("the end of the head was not found".to_owned()),
        (Err(()), request) => return refused(request.as_ref()),
    };
    let head = &bytes[..length];
    let read = with_head(head, |head, window| {
        let lane = fast::body_length(&head, window, length);
        let Some(request) = &by_the_letter else {
            return Err(format!("{head:?} passed and is none"));
        };
        let lines = head.headers.0.iter();
        let same = [
            ("length", request.length == length),
            ("method", request.method == head.method.as_bytes()),
            ("target", request.origin_form().as_deref() == Some(head.target.as_bytes())),
            ("version", request.is_latest == (head.version == http::Version::HTTP_11)),
            (
                "host",
                request.values("host").first().map_or(&b""[..], |it| it) == head.host.as_bytes(),
            ),
            (
                "lines",
                lines.map(|line| (line.name.as_bytes(), line.value)).eq(request
                    .lines
                    .iter()
                    .map(|(name, value)| (name.as_slice(), value.as_slice()))),
            ),
            ("window", is_window(request, window)),
            ("lane", lane == fast_body(request)),
        ];
        match same.iter().find(|(_, is_same)| !is_same) {
            Some((what, _)) => Err(format!("{what}: {head:?}, {window:?}, {lane:?}; {request:?}")),
            None => Ok(window),
        }
    });
    let Ok(window) = read else {
        return refused(by_the_letter.as_ref());
    };
    match window? {
        Window::Open => Ok(None),
        Window::Bytes(all) => Ok(usize::try_from(all).ok().filter(|all| *all <= bytes.len())),
        Window::Chunked(..) => {
            let end = compare_chunks(&bytes[length..])?;
            Ok(end.map(|end| length + end))
        }
    }
}

/// Where the head ends, in one piece and in two.
fn find_end(bytes: &[u8]) -> Result<Result<Option<usize>, ()>, String> {
    let whole = Scan::default().find_end(bytes, MAX_BYTES).map_err(drop);
    let mut scan = Scan::default();
    let mut pieces = scan.find_end(&bytes[..cut(bytes)], MAX_BYTES).map_err(drop);
    if pieces == Ok(None) {
        pieces = scan.find_end(bytes, MAX_BYTES).map_err(drop);
    }
    if whole == pieces { Ok(whole) } else { Err(format!("{whole:?}; in two pieces {pieces:?}")) }
}

fn refused(request: Option<&Request>) -> Result<Option<usize>, String> {
    match request.filter(|request| is_plain(request)) {
        Some(request) => Err(format!("refused without a reason: {request:?}")),
        None => Ok(None),
    }
}

/// Whether the gate has no reason of its own, beside those of RFC 9112, to refuse a request.
fn is_plain(request: &Request) -> bool {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let in_query = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    let in_path = |byte: &u8| in_query(byte) && !b"\"<>`".contains(byte);
    let query = request.target.iter().position(|byte| *byte == b'?');
    let (path, query) = request.target.split_at(query.unwrap_or(request.target.len()));
    let is_host = |host: &[u8]| {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric();
        host.split(|byte| *byte == b'.').all(|label| !label.is_empty() && label.iter().all(is_name))
    };
    let is_length = |digits: &&[u8]| digits.len() <= 18 && (*digits == b"0" || digits[0] != b'0');
    request.length <= MAX_BYTES
        && request.lines.len() <= MAX_HEADERS
        && request.method.len() <= MAX_METHOD
        && request.method.iter().all(is_method)
        && path.iter().all(in_path)
        && query.iter().all(in_query)
        && request.origin_form().is_some()
        && request.values("host").iter().all(|host| host.len() <= 255 && is_host(host))
        && request.values("content-length").iter().all(is_length)
}

fn is_window(request: &Request, window: Window) -> bool {
    match (window, request.body) {
        (Window::Open, _) => request.is_handshake(),
        (Window::Bytes(all), Body::Length(body)) => {
            !request.is_handshake() && all.checked_sub(body) == Some(request.length as u64)
        }
        (Window::Chunked(head, _), Body::Chunked) => head == request.length as u64,
        (Window::Bytes(_), Body::Chunked) | (Window::Chunked(..), Body::Length(_)) => false,
    }
}

/// The length of the body of a request that the fast lane is to take.
fn fast_body(request: &Request) -> Option<u64> {
    let elsewhere = ["transfer-encoding", "upgrade", "expect"];
    let stays = request.is_latest && elsewhere.iter().all(|name| request.values(name).is_empty());
    match request.body {
        Body::Length(length) if stays => Some(length),
        Body::Length(_) | Body::Chunked => None,
    }
}

/// Compares where a chunked body ends and what it holds; tells where if it is whole.
fn compare_chunks(body: &[u8]) -> Result<Option<usize>, String> {
    let (first, second) = body.split_at(cut(body));
    let (mut end, mut content) = (ChunkedEnd::new(), Vec::new());
    let mut taken = 0;
    let mut fate = Ok(());
    for piece in [first, second] {
        if fate.is_ok() && !end.is_done() {
            let read = end.advance_with(piece, |part| content.extend_from_slice(part));
            fate = read.map(|count| taken += count);
        }
    }
    match (fate, letter::read_chunks(body)) {
        (Ok(()), Some(chunks)) if end.is_done() => {
            let decoded = chunked::decode(&body[..taken]);
            if taken == chunks.length && content == chunks.content && decoded == content {
                Ok(Some(taken))
            } else {
                Err(format!("{taken} {content:?} {decoded:?}; {chunks:?}"))
            }
        }
        (Ok(()), None) if !end.is_done() => Ok(None),
        (Ok(()), chunks) => Err(format!("{end:?}; {chunks:?}")),
        (Err(_), None) => Ok(None),
        (Err(_), Some(chunks)) => {
            let is_beyond = chunks.digits > MOST_DIGITS
                || chunks.extensions > MOST_EXTENSIONS
                || chunks.trailers > MOST_TRAILERS;
            if is_beyond { Ok(None) } else { Err(format!("refused without a reason: {chunks:?}")) }
        }
    }
}
