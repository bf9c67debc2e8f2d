//! The reader of heads beside a second one that was written from RFC 9112 alone: whatever the fast
//! lane takes, both read alike.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::proxy::fast;

/// What a reader makes of a head.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    method: Vec<u8>,
    target: Vec<u8>,
    lines: Vec<(Vec<u8>, Vec<u8>)>,
    body: u64,
}

/// What the fast lane takes; `None`: refused, or left to the full lane.
fn lane(bytes: &[u8]) -> Option<Read> {
    let length = Scan::default().find_end(bytes, 32 * 1024).ok()??;
    let read = with_head(&bytes[..length], |head, window| {
        fast::body_length(&head, window, length).map(|body| Read {
            method: head.method.into(),
            target: head.target.into(),
            lines: head
                .headers
                .0
                .iter()
                .map(|line| (line.name.into(), line.value.into()))
                .collect(),
            body,
        })
    });
    read.ok()?
}

/// Reads a head to the letter of RFC 9112: no leniency that it allows is used.
fn by_the_letter(bytes: &[u8]) -> Option<Read> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let mut lines = Vec::new();
    let mut rest = &bytes[..end];
    loop {
        let at = rest.windows(2).position(|two| two == b"\r\n");
        let line = &rest[..at.unwrap_or(rest.len())];
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            return None;
        }
        lines.push(line);
        match at {
            Some(at) => rest = &rest[at + 2..],
            None => break,
        }
    }
    let mut parts = lines[0].split(|byte| *byte == b' ');
    let (method, target) = (parts.next()?, parts.next()?);
    if parts.next()? != b"HTTP/1.1" || parts.next().is_some() || !is_token(method) {
        return None;
    }
    if target.is_empty() || !target.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) {
        return None;
    }
    let fields = lines[1..].iter().map(|line| field(line)).collect::<Option<Vec<_>>>()?;
    let values = |name: &[u8]| -> Vec<&[u8]> {
        let named = fields.iter().filter(|(its, _)| its.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    };
    let elsewhere = [&b"transfer-encoding"[..], b"upgrade", b"expect"];
    if values(b"host").len() != 1 || elsewhere.iter().any(|name| !values(name).is_empty()) {
        return None;
    }
    let body = match values(b"content-length")[..] {
        [] => 0,
        [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).unwrap().parse().ok()?
        }
        _ => return None,
    };
    Some(Read { method: method.into(), target: target.into(), lines: fields, body })
}

fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

fn field(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |at| at + 1);
    let value = &value[start..end];
    let is_text = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..);
    (is_token(name) && value.iter().all(is_text)).then(|| (name.into(), value.into()))
}

const FIRST: [&str; 8] = [
    "GET / HTTP/1.1",
    "POST /a?b=c HTTP/1.1",
    "GET http://a/x HTTP/1.1",
    "GET /%2e%2e/ HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET / HTTP/1.0",
    "get / HTTP/1.1",
];

const LINES: [&str; 16] = [
    "Host: a",
    "Host: a",
    "Host: b",
    "Content-Length: 5",
    "Content-Length: 05",
    "content-length: +5",
    "Content-Length: 5, 5",
    "Content-Length:",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "X: \t padded \t ",
    " folded",
    "X-Empty:",
    "Cookie: a=1; b=\u{e9}",
];

const NASTY: [u8; 16] = [
    b'\r', b'\n', b' ', b'\t', b':', 0, 0x7f, 0x80, b',', b';', b'/', b'0', b'5', b'-', b'_', b'H',
];

fn head() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec(0..LINES.len(), 0..5);
    let change = (any::<Index>(), 0..3_u8, prop::sample::select(&NASTY[..]));
    let changes = prop::collection::vec(change, 0..3);
    (0..FIRST.len(), lines, changes).prop_map(|(first, lines, changes)| {
        let mut text = format!("{}\r\nHost: a\r\n", FIRST[first]);
        // One Host is what most heads have; another one comes by chance.
        for line in lines.into_iter().filter(|line| *line > 0) {
            text.push_str(LINES[line]);
            text.push_str("\r\n");
        }
        let mut bytes = text.into_bytes();
        bytes.extend(b"\r\n");
        for (at, how, byte) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes.extend(b"12345GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_the_fast_lane_takes_reads_the_same_by_the_letter(bytes in head()) {
        if let Some(mut taken) = lane(&bytes) {
            let expected = by_the_letter(&bytes);
            prop_assert!(expected.is_some(), "{}", bytes.escape_ascii());
            let expected = expected.unwrap();
            if !expected.target.starts_with(b"/") {
                // An absolute or asterisk form, which is brought into origin form.
                taken.target.clone_from(&expected.target);
            }
            prop_assert_eq!(taken, expected, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn plain_requests_are_taken_with_the_body_that_they_announce() {
    let head = b"POST /a?b=c HTTP/1.1\r\nHost: a:80\r\nX:  y \r\nContent-Length: 5\r\n\r\nhello";
    let taken = lane(head).unwrap();
    assert_eq!((taken.body, taken.target.as_slice()), (5, &b"/a?b=c"[..]));
    assert_eq!(Some(taken), by_the_letter(head));
}
