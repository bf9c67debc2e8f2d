//! `wxgate keygen`: a fresh signing key.

use std::process::ExitCode;

use super::print;
use crate::session;

/// Which kind of key.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The algorithm that the key is for
    #[arg(long, value_name = "ALG", default_value = "HS256")]
    alg: Algorithm,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Algorithm {
    #[value(name = "HS256")]
    Hs256,
    #[value(name = "EdDSA")]
    EdDsa,
}

/// Prints a key to standard output, for a file that `session.signing_keys` names.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let algorithm = match arguments.alg {
        Algorithm::Hs256 => session::Algorithm::Hs256,
        Algorithm::EdDsa => session::Algorithm::EdDsa,
    };
    match session::keygen(algorithm) {
        Ok(key) => print::answer(key.expose().trim_end()),
        Err(error) => {
            print::complain(format_args!("wxgate: no key could be made: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
