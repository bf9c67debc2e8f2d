//! The gate beside a second reader that was written from RFC 9112 alone: whatever passes, both read
//! alike, and what is refused has a reason.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use proptest::prelude::*;
use proptest::sample::Index;

use super::beside::compare;

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
    fn what_passes_the_gate_reads_the_same_by_the_letter(bytes in head()) {
        if let Err(difference) = compare(&bytes) {
            prop_assert!(false, "{}: {difference}", bytes.escape_ascii());
        }
    }
}

#[test]
fn what_the_fuzzer_begins_with_reads_the_same_by_the_letter() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/head");
    let mut count = 0;
    for seed in std::fs::read_dir(corpus).unwrap() {
        let seed = seed.unwrap().path();
        if let Err(difference) = compare(&std::fs::read(&seed).unwrap()) {
            panic!("{}: {difference}", seed.display());
        }
        count += 1;
    }
    assert!(count >= 20, "{count} seeds");
}
