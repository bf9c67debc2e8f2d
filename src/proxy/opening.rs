//! How a client begins HTTP/2: its first frame is its settings (RFC 9113 section 3.4). h2 checks
//! the words before it, but takes any frame for the first.

/// Length of `PRI * HTTP/2.0`, `SM` and their line ends.
const WORDS: u8 = 24;
/// Where the type of the first frame stands, behind its length of three bytes, and its flags.
const KIND: u8 = WORDS + 3;
const FLAGS: u8 = WORDS + 4;

const SETTINGS: u8 = 4;
/// A flag: these are no settings, but ours were read.
const ACK: u8 = 1;

/// GOAWAY on stream 0: no stream was begun, `PROTOCOL_ERROR`.
pub(crate) const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// How many of the first bytes came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opening(u8);

impl Opening {
    /// Takes the next bytes; tells whether they may stand there.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> bool {
        for (position, byte) in (self.0..=FLAGS).zip(bytes) {
            if (position == KIND && *byte != SETTINGS) || (position == FLAGS && byte & ACK != 0) {
                return false;
            }
            self.0 = position + 1;
        }
        true
    }
}
