//! `wxgate run`: the gateway itself.

use std::process::ExitCode;

use super::configuration::{self, load};
use super::print;
use crate::config;
use crate::observe::logger;
use crate::serve::{self, Ended, ServeError, Source, Start};

/// What `wxgate run` is given.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    configuration: configuration::Arguments,
    /// Take the listening sockets over from the running gateway of this configuration, which is
    /// told by SIGQUIT; it finishes what it has and ends
    #[arg(long)]
    upgrade: bool,
}

/// Runs the gateway until it is told to stop.
pub(super) fn run(options: &Options) -> ExitCode {
    let loaded = match load(&options.configuration, "; nothing was started") {
        Err(status) => return status,
        Ok(loaded) => loaded,
    };
    if let Err(error) = logger::init(loaded.config.log.level, crate::clock::system_unix_millis) {
        print::complain(format_args!("wxgate: {error}\n"));
    }
    let path = options.configuration.config.clone();
    let again = path.clone();
    let source = Source { path, loaded, reread: Box::new(move || config::load(&again)) };
    let start = if options.upgrade { Start::Upgrade } else { Start::Fresh };
    end(serve::run(source, start, |_| {}))
}

/// The exit status of a gateway that has ended, after what there is to say was said.
pub(super) fn end(ended: Result<Ended, ServeError>) -> ExitCode {
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::CutOff) => ExitCode::FAILURE,
        Err(error) => {
            print::complain(format_args!("wxgate: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
