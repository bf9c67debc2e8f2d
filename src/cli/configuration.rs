//! `-c FILE`, and what is printed where that file is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{self, Loaded};

use super::{INVALID, print};

/// Where the configuration stands.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(short, long = "config", value_name = "FILE", default_value = "gateway.toml")]
    pub(super) config: PathBuf,
}

/// Loads the configuration and prints its warnings.
///
/// # Errors
/// The exit status of an invalid one, after every problem and `outcome` were printed.
pub(super) fn load(arguments: &Arguments, outcome: &str) -> Result<Loaded, ExitCode> {
    match config::load(&arguments.config) {
        Ok(loaded) => {
            print::complain(&loaded.warnings);
            Ok(loaded)
        }
        Err(problems) => {
            let count = counted(problems.len(), "problem");
            print::complain(format_args!("{problems}{count}{outcome}\n"));
            Err(ExitCode::from(INVALID))
        }
    }
}

/// `1 route`, `2 routes`
pub(super) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
