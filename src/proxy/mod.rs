//! The life of a request, from the first byte of its head to the line in the access log.
//!
//! `http1.rs` reads a head (`head.rs`, `connection.rs`), has it admitted (`admit.rs`) and carries
//! the decision out: by an answer of our own, through the fast lane (`fast/`) or the full one (`full.rs`).

mod admit;
mod alarm;
mod answering;
mod attempt;
mod chunked;
mod client;
mod connection;
mod credential;
mod drain;
mod exchange;
mod fast;
mod forward;
mod full;
mod head;
mod http1;
mod reject;
mod rules;
mod upgrade;

pub use full::FullLane;
pub use http1::{Gateway, serve};
pub use rules::{Counts, Rules};
