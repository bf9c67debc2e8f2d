//! `wxgate schema`: what editors need to complete and check gateway.toml.

use std::process::ExitCode;

use super::print;

/// Prints the JSON Schema.
pub(super) fn run() -> ExitCode {
    print::answer(format_args!("{:#}", crate::config::schema()))
}
