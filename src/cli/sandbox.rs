//! `wxgate sandbox`: the stand-in WeChat alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::print;
use crate::clock::Clock;
use crate::sandbox;
use crate::secret::Secret;

/// Why the sandbox ended.
#[derive(Debug, thiserror::Error)]
enum SandboxError {
    /// The address cannot be listened on.
    #[error("the sandbox cannot listen on {listen}: {cause}; choose another with --listen")]
    Listen {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The listener failed while running.
    #[error("the sandbox stopped: {0}")]
    Serve(#[from] std::io::Error),
}

/// The sandbox's address and apps.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8900")]
    listen: SocketAddr,
    /// An app it knows; may be repeated
    #[arg(long = "app", value_name = "APPID:SECRET", num_args = 1.., value_parser = app)]
    apps: Vec<App>,
}

/// An appid and its secret.
type App = (String, Secret<String>);

/// The message never repeats the text: a secret stands in it.
fn app(text: &str) -> Result<App, &'static str> {
    match text.split_once(':') {
        Some((appid, secret)) if !appid.is_empty() && !secret.is_empty() => {
            Ok((appid.to_owned(), Secret::new(secret.to_owned())))
        }
        _ => Err("write it as APPID:SECRET"),
    }
}

/// Runs the sandbox until SIGTERM or SIGINT; without apps for the demo's.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::complain(format_args!("wxgate: the system refused a runtime: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(arguments.listen, arguments.apps)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("wxgate: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(listen: SocketAddr, mut apps: Vec<App>) -> Result<(), SandboxError> {
    if apps.is_empty() {
        let secret = Secret::new(sandbox::DEMO_SECRET.to_owned());
        apps.push((sandbox::DEMO_APPID.to_owned(), secret));
    }
    let listener =
        TcpListener::bind(listen).await.map_err(|cause| SandboxError::Listen { listen, cause })?;
    let address = listener.local_addr()?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    print::answer(format_args!("sandbox WeChat on http://{address}"));
    for (appid, _) in &apps {
        print::answer(format_args!(
            "a login code: curl -s http://{address}/sandbox/login \
             -d '{{\"appid\":\"{appid}\",\"user\":\"alice\"}}'"
        ));
    }
    tokio::select! {
        served = sandbox::serve(listener, apps, Clock::system()) => Ok(served?),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
