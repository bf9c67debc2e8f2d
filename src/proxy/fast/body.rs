//! The body of an answer on its way to the client: streamed, and cut off where it breaks off.

use bytes::Buf;

use super::answer::Framing;
use super::relay::Relay;
use crate::proxy::chunked::ChunkedEnd;
use crate::proxy::reject::Failure;

/// Passes the body of an answer on, behind the head in `reply`; counts the bytes of its content in
/// `bytes_out`. An error before anything was written leaves `reply` as it is.
pub(super) async fn stream(
    relay: &mut Relay<'_>,
    reply: &mut Vec<u8>,
    framing: Framing,
    bytes_out: &mut u64,
) -> Result<(), Failure> {
    match framing {
        Framing::Empty => write(relay, reply).await,
        Framing::Length(length) => known_length(relay, reply, length, bytes_out).await,
        Framing::Chunked => chunked(relay, reply, bytes_out).await,
        Framing::UntilClose => until_close(relay, reply, bytes_out).await,
    }
}

async fn write(relay: &mut Relay<'_>, reply: &mut Vec<u8>) -> Result<(), Failure> {
    let written = relay.write(reply).await;
    reply.clear();
    written
}

async fn known_length(
    relay: &mut Relay<'_>,
    reply: &mut Vec<u8>,
    length: u64,
    bytes_out: &mut u64,
) -> Result<(), Failure> {
    let mut left = length;
    loop {
        let here = relay.inbox.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if reply.is_empty() {
            relay.pass_on(here).await?;
        } else {
            // The head and the first of the body leave in one packet.
            reply.extend_from_slice(relay.inbox.get(..here).unwrap_or_default());
            relay.inbox.advance(here);
            write(relay, reply).await?;
        }
        left -= here as u64;
        *bytes_out += here as u64;
        if left == 0 {
            return Ok(());
        }
        if relay.read_answer(left).await? == 0 {
            return Err(Failure::UpstreamClosed);
        }
    }
}

/// Chunks are written anew, one for what each read brings: extensions and trailers end here.
async fn chunked(
    relay: &mut Relay<'_>,
    reply: &mut Vec<u8>,
    bytes_out: &mut u64,
) -> Result<(), Failure> {
    let mut machine = ChunkedEnd::new();
    loop {
        let mut size = 0;
        let mut ahead = machine;
        let taken = ahead
            .advance_with(&relay.inbox, |content| size += content.len())
            .map_err(|_| Failure::UpstreamMalformed)?;
        if size > 0 {
            begin_chunk(reply, size);
            let copied = machine.advance_with(&relay.inbox, |content| {
                reply.extend_from_slice(content);
            });
            copied.map_err(|_| Failure::UpstreamMalformed)?;
            reply.extend_from_slice(b"\r\n");
        }
        machine = ahead;
        relay.inbox.advance(taken);
        if machine.is_done() {
            reply.extend_from_slice(LAST_CHUNK);
        }
        write(relay, reply).await?;
        *bytes_out += size as u64;
        if machine.is_done() {
            return Ok(());
        }
        if relay.read_answer(0).await? == 0 {
            return Err(Failure::UpstreamClosed);
        }
    }
}

/// A body that ends with its connection becomes a chunked one, so that the client's connection
/// goes on, and so that what breaks off can be told from what is whole.
async fn until_close(
    relay: &mut Relay<'_>,
    reply: &mut Vec<u8>,
    bytes_out: &mut u64,
) -> Result<(), Failure> {
    loop {
        let size = relay.inbox.len();
        if size > 0 {
            begin_chunk(reply, size);
            reply.extend_from_slice(&relay.inbox);
            reply.extend_from_slice(b"\r\n");
            relay.inbox.clear();
        }
        write(relay, reply).await?;
        *bytes_out += size as u64;
        if relay.read_answer(0).await? == 0 {
            reply.extend_from_slice(LAST_CHUNK);
            return write(relay, reply).await;
        }
    }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn begin_chunk(reply: &mut Vec<u8>, size: usize) {
    reply.extend_from_slice(format!("{size:x}\r\n").as_bytes());
}
