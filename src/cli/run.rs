//! `wxgate run`: the gateway itself.

use std::process::ExitCode;

use super::configuration::{Arguments, load};
use super::print;
use crate::config;
use crate::observe::logger;
use crate::serve::{self, Ended, ServeError, Source};

/// Runs the gateway until it is told to stop.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let loaded = match load(arguments, "; nothing was started") {
        Err(status) => return status,
        Ok(loaded) => loaded,
    };
    if let Err(error) = logger::init(loaded.config.log.level, crate::clock::system_unix_millis) {
        print::complain(format_args!("wxgate: {error}\n"));
    }
    let path = arguments.config.clone();
    let again = path.clone();
    let source = Source { path, loaded, reread: Box::new(move || config::load(&again)) };
    end(serve::run(source, |_| {}))
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
