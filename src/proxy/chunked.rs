//! Where a chunked body ends (RFC 9112 section 7.1), and that it is chunked to the letter.
//!
//! The bytes themselves are decoded by whoever reads the body. This page only watches them go by,
//! so that the gateway knows the first byte of the next request itself and so that no body passes
//! whose end another parser could see elsewhere: no bare LF, no sign or white space in a size, no
//! endless extension or trailer.

/// Why a chunked body is refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("a chunked body is not written as RFC 9112 says")]
pub(crate) struct BadChunk;

/// Longest chunk-size line, extensions included. Nothing known sends more than a signature.
const MAX_SIZE_LINE: u16 = 256;
/// Longest trailer section; trailers are dropped, so nobody needs more.
const MAX_TRAILERS: u16 = 8 * 1024;
/// Digits of a chunk size: 2^60 is more than any body.
const MAX_SIZE_DIGITS: u8 = 15;

/// A machine that is fed the bytes of a chunked body and says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkedEnd {
    state: State,
    /// Size of the chunk being read, then the bytes of it that are still to come.
    size: u64,
    digits: u8,
    /// Bytes of the current size line or of all trailers.
    line: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Bytes,
    BytesCr,
    BytesLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl ChunkedEnd {
    /// At the first byte of the body.
    pub(crate) const fn new() -> Self {
        Self { state: State::Size, size: 0, digits: 0, line: 0 }
    }

    /// Whether the last byte of the body has gone by.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next bytes and says how many of them belong to this body; fewer than given only
    /// when the body ends among them.
    ///
    /// # Errors
    /// [`BadChunk`] for anything that is not exactly a chunked body.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        self.advance_with(bytes, |_| {})
    }

    /// As [`ChunkedEnd::advance`], and gives the content of the chunks to `take`, piece by piece.
    ///
    /// # Errors
    /// [`BadChunk`] for anything that is not exactly a chunked body.
    pub(crate) fn advance_with(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, BadChunk> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if self.state == State::Done {
                break;
            }
            if self.state == State::Bytes {
                let here = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
                self.size -= here as u64;
                let (content, after) = rest.split_at_checked(here).unwrap_or((rest, &[]));
                take(content);
                rest = after;
                if self.size == 0 {
                    self.state = State::BytesCr;
                }
                continue;
            }
            self.step(byte)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match (self.state, byte) {
            (State::Size, digit) if digit.is_ascii_hexdigit() => self.digit(digit)?,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, octet) if is_text(octet) => {
                self.count(MAX_SIZE_LINE)?;
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                (self.digits, self.line) = (0, 0);
                if self.size == 0 { State::TrailerStart } else { State::Bytes }
            }
            (State::BytesCr, b'\r') => State::BytesLf,
            (State::BytesLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, octet) if is_text(octet) => {
                self.count(MAX_TRAILERS)?;
                State::Trailer
            }
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(BadChunk),
        };
        Ok(())
    }

    fn digit(&mut self, digit: u8) -> Result<State, BadChunk> {
        let value = char::from(digit).to_digit(16).ok_or(BadChunk)?;
        self.digits += 1;
        if self.digits > MAX_SIZE_DIGITS {
            return Err(BadChunk);
        }
        self.size = self.size * 16 + u64::from(value);
        Ok(State::Size)
    }

    fn count(&mut self, limit: u16) -> Result<(), BadChunk> {
        self.line += 1;
        if self.line > limit { Err(BadChunk) } else { Ok(()) }
    }
}

/// A byte of an extension or a trailer: no control but the tab.
const fn is_text(octet: u8) -> bool {
    octet == b'\t' || (octet >= 0x20 && octet != 0x7f)
}

/// The content of a chunked body that [`ChunkedEnd`] found whole and well written.
pub(crate) fn decode(body: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) {
        let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        match rest.get(start..end) {
            Some(chunk) if size > 0 => content.extend_from_slice(chunk),
            _ => break,
        }
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    content
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn end_of(body: &[u8]) -> Result<Option<usize>, BadChunk> {
        let mut end = ChunkedEnd::new();
        let taken = end.advance(body)?;
        Ok(end.is_done().then_some(taken))
    }

    #[test]
    fn the_end_is_found_to_the_byte_and_what_follows_is_left() {
        for (body, end) in [
            (&b"0\r\n\r\n"[..], Some(5)),
            (b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1", Some(15)),
            (b"a;name=value\r\n0123456789\r\n0\r\n\r\n", Some(31)),
            (b"1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n", Some(25)),
            (b"5\r\nhel", None),
            (b"0\r\n", None),
        ] {
            assert_eq!(end_of(body), Ok(end), "{:?}", body.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for body in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-1\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"\r\n",
            b";x\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n\x00: b\r\n\r\n",
            b"5;\x00\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"1000000000000000\r\n",
            b"fffffffffffffffff\r\n",
        ] {
            assert_eq!(end_of(body), Err(BadChunk), "{:?}", body.escape_ascii().to_string());
        }
        let mut long = b"1;".to_vec();
        long.extend(std::iter::repeat_n(b'a', 300));
        assert_eq!(end_of(&long), Err(BadChunk));
    }

    #[test]
    fn the_content_is_what_the_chunks_hold() {
        assert_eq!(decode(b"5;a=b\r\nhello\r\n7\r\n, world\r\n0\r\nA: b\r\n\r\n"), b"hello, world");
        assert_eq!(decode(b"0\r\n\r\n"), b"");
    }

    #[test]
    fn a_split_at_any_byte_changes_nothing() {
        let body =
            b"5;ext=\"1\"\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\nC: d\r\n\r\nrest";
        let whole = end_of(body).unwrap();
        for at in 0..body.len() {
            let mut end = ChunkedEnd::new();
            let (first, second) = body.split_at(at);
            let taken = end.advance(first).unwrap() + end.advance(second).unwrap();
            assert_eq!(end.is_done().then_some(taken), whole, "split at {at}");
        }
    }
}
