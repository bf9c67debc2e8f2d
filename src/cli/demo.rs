//! `wxgate demo`: gateway, sandbox WeChat and a demo backend in one process, with nothing to
//! configure.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use tokio::net::TcpListener;

use super::print;
use super::run::end;
use crate::clock::Clock;
use crate::config;
use crate::observe::logger;
use crate::sandbox::{self, DEMO_APPID, DEMO_SECRET};
use crate::secret::Secret;
use crate::serve::{self, Listening, Source, Start};

/// Addresses of the demo.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Address of the gateway
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the operators' listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Address of the sandbox WeChat
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8900")]
    sandbox: SocketAddr,
}

/// Where the two stand-ins listen.
struct StandIns {
    sandbox: SocketAddr,
    backend: SocketAddr,
}

/// Runs the demo until it is told to stop.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if let Err(error) = logger::init(log::LevelFilter::Warn, crate::clock::system_unix_millis) {
        print::complain(format_args!("wxgate: {error}\n"));
    }
    // The stand-ins have a thread of their own, and end with the process.
    let stand_ins =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&format!("the system refused a runtime: {error}")),
        };
    let places = match stand_ins.block_on(start(arguments.sandbox)) {
        Ok(places) => places,
        Err(error) => return failed(&error),
    };
    let text = configuration(arguments, &places);
    let reread = move || config::parse(Path::new("demo"), &text, &|_| None);
    let loaded = match reread() {
        Ok(loaded) => loaded,
        Err(problems) => return failed(&problems.to_string()),
    };
    let source = Source { path: "demo".into(), loaded, reread: Box::new(reread) };
    end(serve::run(source, Start::Fresh, |listening| introduce(listening, &places)))
}

fn failed(why: &str) -> ExitCode {
    print::complain(format_args!("wxgate: {why}\n"));
    ExitCode::FAILURE
}

async fn start(sandbox: SocketAddr) -> Result<StandIns, String> {
    let bind = async |address: SocketAddr, option: &str| {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            format!("cannot listen on {address}: {error}; choose another address with {option}")
        })?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok::<_, String>((listener, address))
    };
    let (wechat, sandbox) = bind(sandbox, "--sandbox").await?;
    let (pages, backend) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "nothing").await?;
    let apps = vec![(DEMO_APPID.to_owned(), Secret::new(DEMO_SECRET.to_owned()))];
    tokio::spawn(sandbox::serve(wechat, apps, Clock::system()));
    tokio::spawn(sandbox::backend::serve(pages));
    Ok(StandIns { sandbox, backend })
}

fn configuration(arguments: &Arguments, places: &StandIns) -> String {
    let Arguments { listen, admin, .. } = arguments;
    let StandIns { sandbox, backend } = places;
    format!(
        r#"
[server]
listen = ["{listen}"]
[admin]
listen = "{admin}"
[log]
level = "warn"
access = "off"
[wechat]
api_base = "http://{sandbox}"
[session]
store = "memory"
[[apps]]
appid = "{DEMO_APPID}"
secret = "{DEMO_SECRET}"
[[upstreams]]
name = "demo"
servers = ["{backend}"]
[[routes]]
path = "/"
upstream = "demo"
auth = "required"
[[routes]]
path = "/public/"
upstream = "demo"
auth = "public"
"#
    )
}

/// Three lines to type, and what they show.
fn introduce(listening: &Listening, places: &StandIns) {
    let (Some(gateway), admin, sandbox) =
        (listening.clients.first(), listening.admin, places.sandbox)
    else {
        return;
    };
    let login = format!("{{\"appid\":\"{DEMO_APPID}\",\"user\":\"alice\"}}");
    print::answer(format_args!(
        r#"wxgate demo is running; end it with Ctrl-C.

  gateway  http://{gateway}   what your mini program would talk to
  admin    http://{admin}   metrics, health
  sandbox  http://{sandbox}   plays WeChat

Log in as WeChat's user alice, call a backend that is not changed by one line, forge a header:

CODE=$(curl -s http://{sandbox}/sandbox/login -d '{login}' | sed 's/.*"code":"//; s/".*//')
TOKEN=$(curl -s http://{gateway}/wx/auth -H 'Content-Type: application/json' -d "{{\"code\":\"$CODE\"}}" | sed 's/.*"access_token":"//; s/".*//')
curl -s http://{gateway}/hello -H "Authorization: Bearer $TOKEN" -H 'X-WX-OPENID: forged'; echo

The last line shows the headers that the backend saw: X-WX-OPENID holds alice's openid, once."#
    ));
}
