//! Reads answers off a connection, one after the other, and the number that each carries.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What came and was not read yet.
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

fn wrong(what: &str, bytes: &[u8]) -> io::Error {
    let shown = &bytes[..bytes.len().min(300)];
    io::Error::other(format!("{what}: {}", shown.escape_ascii()))
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(16 * 1024) }
    }

    /// The number of the next answer.
    pub(crate) async fn read(&mut self, stream: &mut TcpStream) -> io::Result<u64> {
        loop {
            let head = self.until(stream, b"\r\n\r\n").await?;
            if head.starts_with(b"HTTP/1.1 103") {
                continue;
            }
            if !head.starts_with(b"HTTP/1.1 200") {
                return Err(wrong("not an answer", &head));
            }
            let lower = head.to_ascii_lowercase();
            let body = match find(&lower, b"content-length: ") {
                Some(at) => {
                    let digits = lower[at + 16..].split(|byte| *byte == b'\r').next().unwrap();
                    let length = number(digits).ok_or_else(|| wrong("a length", &head))?;
                    self.exactly(stream, length as usize).await?
                }
                None => self.chunked(stream).await?,
            };
            let digits = body.split(|byte| *byte == b';').next().unwrap();
            return number(digits).ok_or_else(|| wrong("no number", &body));
        }
    }

    async fn chunked(&mut self, stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(stream, b"\r\n").await?;
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap_or("");
            let size = usize::from_str_radix(digits, 16).map_err(|_| wrong("a chunk", &line))?;
            let chunk = self.exactly(stream, size + 2).await?;
            if !chunk.ends_with(b"\r\n") {
                return Err(wrong("a chunk's end", &chunk));
            }
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn until(&mut self, stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.bytes, end) {
                return Ok(self.bytes.drain(..at + end.len()).collect());
            }
            self.more(stream).await?;
        }
    }

    async fn exactly(&mut self, stream: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < count {
            self.more(stream).await?;
        }
        Ok(self.bytes.drain(..count).collect())
    }

    async fn more(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(wrong("closed within", &self.bytes)),
            _ => Ok(()),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
