//! The life of a request, from the first byte of its head to the line in the access log.
//!
//! `gateway.rs` takes a connection (`socket.rs`: plain or TLS). `http1.rs` reads a head (`head.rs`,
//! `connection.rs`), has it admitted (`admit.rs`) and carries the decision out: by an answer of our
//! own, through the fast lane (`fast/`) or the full one (`full.rs`). `http2.rs` does the same for
//! each stream, without the fast lane.

mod admit;
mod alarm;
mod answering;
mod attempt;
mod bridge;
mod browser;
mod chunked;
mod client;
mod connection;
mod cors;
mod credential;
mod drain;
mod exchange;
mod explain;
mod fast;
mod forward;
mod full;
mod gateway;
mod head;
mod http1;
mod http2;
mod http2_head;
mod kept;
mod opening;
mod pace;
mod passage;
mod redirect;
mod reject;
mod rewrite;
mod rules;
mod socket;
mod spare;
mod upgrade;
mod verify;

pub use explain::{Answered, Explanation, HeaderSeen, Outcome, Removed, explain};
pub use full::FullLane;
pub use gateway::{Door, Gateway, serve};
pub use rules::{Counts, Rules};

/// Reads bytes as the gate reads them and to the letter of RFC 9112: for the fuzzer alone.
///
/// # Errors
/// In words where the two do not agree.
#[cfg(fuzzing)]
pub fn compare_readers(bytes: &[u8]) -> Result<(), String> {
    head::beside::compare(bytes)
}
