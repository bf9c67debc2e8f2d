//! The command line: what an operator types, and what is printed for it.
//!
//! Exit status: 0 done, 1 failed while running, 2 wrong usage or invalid configuration. A new
//! command is one variant of [`Command`], its line in [`run`], and a file.

mod check;
mod configuration;
mod demo;
mod explain;
mod keygen;
mod print;
mod run;
mod sandbox;
mod schema;
mod sessions;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wrong usage or an invalid configuration.
const INVALID: u8 = 2;

/// The auth gateway in front of WeChat Mini Program backends.
#[derive(Parser)]
#[command(name = "wxgate", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::Options),
    /// Load and validate a configuration; print every problem with its place and mend
    Check(configuration::Arguments),
    /// Tell which route a request takes, what is asked of it, and what its backend sees
    Explain(explain::Options),
    /// Run gateway, sandbox WeChat and a demo backend in one process; nothing to configure
    Demo(demo::Arguments),
    /// Run the sandbox WeChat alone
    Sandbox(sandbox::Arguments),
    /// Print a fresh signing key
    Keygen(keygen::Arguments),
    /// Print the JSON Schema of gateway.toml, for editors
    Schema,
    /// List, show and end the sessions of a gateway that runs
    Sessions(sessions::Arguments),
}

/// Runs the command that `arguments` name, the program's own name first, to its end.
///
/// Returns the exit status of the process; everything there is to say was printed.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match CommandLine::try_parse_from(arguments) {
        Err(error) => print::usage(&error),
        Ok(CommandLine { command }) => match command {
            Command::Run(arguments) => run::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Explain(arguments) => explain::run(arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Sandbox(arguments) => sandbox::run(arguments),
            Command::Keygen(arguments) => keygen::run(&arguments),
            Command::Schema => schema::run(),
            Command::Sessions(arguments) => sessions::run(&arguments),
        },
    }
}
