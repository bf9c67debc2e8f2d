//! The one place that prints: answers to standard output, everything else to standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Prints the answer of a command, and says whether that worked: a reader that went away early
/// (`wxgate schema | head`) has what it wanted, a full disk has not.
pub(super) fn answer(text: impl Display) -> ExitCode {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("wxgate: standard output cannot be written: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Prints what went wrong, or a warning; `text` ends its own lines.
pub(super) fn complain(text: impl Display) {
    // Without standard error there is nobody left to tell.
    write!(io::stderr().lock(), "{text}").ok();
}

/// Prints what clap has to say: help and version are answers, the rest is wrong usage.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    error.print().ok();
    ExitCode::from(if error.use_stderr() { super::INVALID } else { 0 })
}
