//! HTTP/2 frame by frame, right and wrong (RFC 9113), with headers as plain literals (RFC 7541).

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::tls::{NAME, Stream, connect};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// `ACK` of SETTINGS and PING.
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A setting.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(value.to_be_bytes());
    bytes
}

/// A header block of literals that are not indexed.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let mut left = text.len();
            if left < 127 {
                bytes.push(left as u8);
            } else {
                bytes.push(127);
                left -= 127;
                while left >= 128 {
                    bytes.push((left % 128 + 128) as u8);
                    left /= 128;
                }
                bytes.push(left as u8);
            }
            bytes.extend(text.bytes());
        }
    }
    bytes
}

/// The pseudo-headers of a request to this path, and more fields.
pub(crate) fn request<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", method), (":scheme", "https"), (":authority", NAME), (":path", path)];
    fields.extend(more);
    fields
}

/// What became of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// GOAWAY or the end of the connection.
    ConnectionError,
    /// RST_STREAM.
    StreamError,
    /// 200.
    Served,
    /// Another status.
    Answered,
    /// Nothing yet.
    Nothing,
}

/// A connection on which the prefaces were exchanged.
pub(crate) struct Raw {
    stream: Stream,
}

impl Raw {
    /// Begins with the preface and empty settings.
    pub(crate) fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let mut begin = PREFACE.to_vec();
        begin.extend(frame(SETTINGS, 0, 0, &[]));
        Self::open_with(address, config, &begin)
    }

    /// Begins with these bytes instead.
    pub(crate) fn open_with(address: SocketAddr, config: &Arc<ClientConfig>, begin: &[u8]) -> Self {
        let mut raw = Self { stream: connect(address, config).unwrap() };
        raw.send(begin);
        raw
    }

    /// Sends bytes; tells whether they could be sent.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Gives up sending where the gateway takes nothing for so long.
    pub(crate) fn limit_sending(&mut self, limit: Duration) {
        self.stream.sock.set_write_timeout(Some(limit)).unwrap();
    }

    /// The next frame: kind, flags, stream and payload; `None` at the end of the connection or
    /// where nothing comes for `patience`.
    pub(crate) fn read(&mut self, patience: Duration) -> Result<(u8, u8, u32, Vec<u8>), bool> {
        self.stream.sock.set_read_timeout(Some(patience)).unwrap();
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        Ok((head[3], head[4], stream, payload))
    }

    /// The error tells whether the connection ended.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), bool> {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        self.stream
            .read_exact(bytes)
            .map_err(|error| !matches!(error.kind(), TimedOut | WouldBlock))
    }

    /// Reads until it is known what became of this stream, or nothing comes any more.
    pub(crate) fn outcome(&mut self, stream: u32, patience: Duration) -> Outcome {
        loop {
            match self.read(patience) {
                Err(true) => return Outcome::ConnectionError,
                Err(false) => return Outcome::Nothing,
                Ok((GOAWAY, _, _, payload)) if payload[4..8] != [0; 4] => {
                    return Outcome::ConnectionError;
                }
                Ok((RST_STREAM, _, its, _)) if its == stream => return Outcome::StreamError,
                // `:status: 200` is the eighth entry of the static table.
                Ok((HEADERS, _, its, payload)) if its == stream => {
                    let served = payload.first() == Some(&0x88);
                    return if served { Outcome::Served } else { Outcome::Answered };
                }
                Ok(_) => {}
            }
        }
    }
}
