//! `wxgate sessions`: who is logged in to a gateway that runs, and out with them; a client of its
//! admin listener.

mod admin_api;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{INVALID, print};
use crate::config;
use admin_api::{AdminApi, AdminError, Filter};

/// What is to be done with sessions.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// List the open sessions
    List(List),
    /// Show one session
    Show(Show),
    /// End sessions: their tokens are refused and their open connections closed, on every node
    Kick(Kick),
}

/// Where the gateway is. WXGATE_ADMIN_TOKEN holds the admin token, unless the configuration does.
#[derive(Args)]
struct Place {
    /// The gateway's configuration: its admin.listen and admin.token
    #[arg(short, long, value_name = "FILE", default_value = "gateway.toml")]
    config: PathBuf,
    /// The admin listener itself, such as http://127.0.0.1:9090; no configuration is read
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
}

#[derive(Args)]
struct List {
    /// Only sessions of this user
    #[arg(long)]
    openid: Option<String>,
    /// Only sessions of this app
    #[arg(long)]
    appid: Option<String>,
    /// The most sessions to list; 0: all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Print JSON, as the admin API has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Show {
    /// The session's id
    #[arg(value_parser = sid, allow_hyphen_values = true)]
    sid: String,
    /// Print JSON, as the admin API has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Kick {
    /// The session's id
    #[arg(value_parser = sid, required_unless_present = "openid", allow_hyphen_values = true)]
    sid: Option<String>,
    /// Every session of this user, with every app
    #[arg(long, conflicts_with = "sid")]
    openid: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl Order {
    const fn place(&self) -> &Place {
        match self {
            Self::List(list) => &list.place,
            Self::Show(show) => &show.place,
            Self::Kick(kick) => &kick.place,
        }
    }
}

/// What the id of a session is made of; anything else would be another address of the API.
fn sid(text: &str) -> Result<String, &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("an id of a session is letters, digits, `_` and `-`, as `wxgate sessions list` has it")
    }
}

/// Asks the gateway and prints what it says.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let api = match find(arguments.order.place()) {
        Ok(api) => api,
        Err(status) => return status,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::complain(format_args!("wxgate: the system refused a runtime: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(carry_out(&api, &arguments.order)) {
        Ok(status) => status,
        Err(error) => {
            print::complain(format_args!("wxgate: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// The admin listener that is meant, and its token.
fn find(place: &Place) -> Result<AdminApi, ExitCode> {
    let invalid = |text: String| {
        print::complain(text);
        ExitCode::from(INVALID)
    };
    let from_environment = std::env::var("WXGATE_ADMIN_TOKEN").ok().filter(|it| !it.is_empty());
    let (url, token) = match &place.admin {
        Some(url) => (url.clone(), from_environment),
        None => {
            let admin = config::load(&place.config).map_err(|problems| {
                invalid(format!(
                    "{problems}nothing was asked\n   hint: --admin URL names the admin listener \
                     without the configuration\n"
                ))
            })?;
            let admin = admin.config.admin;
            let configured = admin.token.map(|token| token.expose().clone());
            (admin_api::url_of(admin.listen), configured.or(from_environment))
        }
    };
    AdminApi::new(&url, token).map_err(|error| invalid(format!("wxgate: {error}\n")))
}

async fn carry_out(api: &AdminApi, order: &Order) -> Result<ExitCode, AdminError> {
    match order {
        Order::List(list) => {
            let filter = Filter {
                openid: list.openid.as_deref(),
                appid: list.appid.as_deref(),
                limit: if list.limit == 0 { usize::MAX } else { list.limit },
            };
            let (sessions, more) = api.list(filter).await?;
            let printed = if list.json {
                print::answer(table::json(&serde_json::json!({ "sessions": sessions })))
            } else if sessions.is_empty() {
                print::complain("no session is open\n");
                ExitCode::SUCCESS
            } else {
                print::answer(table::rows(&sessions))
            };
            if more {
                print::complain(format_args!(
                    "the first {}; there are more: --limit 0 lists all\n",
                    sessions.len()
                ));
            }
            Ok(printed)
        }
        Order::Show(show) => {
            let session = api.show(&show.sid).await?;
            let text = if show.json { table::json(&session) } else { table::one(&session) };
            Ok(print::answer(text))
        }
        Order::Kick(Kick { openid: Some(openid), .. }) => {
            api.kick_user(openid).await?;
            Ok(print::answer(format_args!("no session of {openid} is open any more")))
        }
        Order::Kick(kick) => {
            let sid = kick.sid.as_deref().unwrap_or_default();
            api.kick(sid).await?;
            Ok(print::answer(format_args!("{sid} is ended")))
        }
    }
}
