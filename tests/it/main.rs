//! What wxgate promises, tried on the real binary and on the library's face.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod config_errors;
mod config_reference;
mod config_sample;
mod config_values;
