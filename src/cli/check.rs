//! `wxgate check`: is this configuration good, and if not, what must be mended?

use std::process::ExitCode;

use super::configuration::{Arguments, counted, load};
use super::print;

/// Loads the configuration as `wxgate run` would, and starts nothing.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match load(arguments, "") {
        Err(status) => status,
        Ok(loaded) => print::answer(format_args!(
            "{}: ok ({}, {})",
            arguments.config.display(),
            counted(loaded.config.upstreams.len(), "upstream"),
            counted(loaded.config.routes.len(), "route"),
        )),
    }
}
