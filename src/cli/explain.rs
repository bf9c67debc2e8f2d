//! `wxgate explain`: which route a request takes, what is asked of it, and what its backend sees.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::configuration::{self, load};
use super::{INVALID, print};
use crate::serve::{self, Answered, Explained, Explanation, Outcome, Question};
use crate::session::Keys;

/// What `wxgate explain` is given.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    configuration: configuration::Arguments,
    /// The method, e.g. GET
    method: String,
    /// `https://HOST/PATH?QUERY`, or `/PATH?QUERY` for any host
    url: String,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The user who sends it, logged in; no token is needed
    #[arg(long = "as", value_name = "OPENID")]
    user: Option<String>,
    /// The app that the user is logged in to; the first one if not given
    #[arg(long, value_name = "APPID", requires = "user")]
    appid: Option<String>,
    /// Where the request comes from
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    client: IpAddr,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `Name: value`. The message does not repeat it: a token may stand in it.
fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    if text.contains(['\r', '\n']) {
        return Err("a header is one line");
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// Explains one request by the configuration, without a running gateway.
pub(super) fn run(arguments: Options) -> ExitCode {
    let as_json = arguments.json;
    let loaded = match load(&arguments.configuration, "") {
        Err(status) => return status,
        Ok(loaded) => loaded,
    };
    let question = match question(arguments) {
        Ok(question) => question,
        Err(why) => return refuse(why),
    };
    let asked = asked(&question);
    match serve::explain(loaded.config, question) {
        Ok(explained) if as_json => {
            let mut shown = json!(explained.explanation);
            if let Some(shown) = shown.as_object_mut() {
                let known = explained.keys == Keys::Known;
                shown.insert("signing_keys_known".to_owned(), Value::from(known));
            }
            print::answer(format_args!("{shown:#}"))
        }
        Ok(explained) => print::answer(text(&asked, &explained).trim_end()),
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(why: &str) -> ExitCode {
    print::complain(format_args!("wxgate: {why}\n"));
    ExitCode::from(INVALID)
}

/// The request in one line. A token may stand in its query.
fn asked(question: &Question) -> String {
    let Question { method, scheme, target, headers, .. } = question;
    let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map_or("", |(_, host)| host);
    match target.split_once('?') {
        Some((path, _)) => format!("{method} {scheme}://{host}{path}?…"),
        None => format!("{method} {scheme}://{host}{target}"),
    }
}

fn question(arguments: Options) -> Result<Question, &'static str> {
    let Options { method, url, mut headers, user, appid, client, .. } = arguments;
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => ("https", rest),
        Some(("http", rest)) => ("http", rest),
        Some(_) => return Err("the URL begins with http:// or https://, or is a path"),
        None => ("http", url.as_str()),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if host.is_empty() && !target.starts_with('/') {
        return Err("the URL has no path: write https://api.example.com/api/me, or /api/me");
    }
    if [method.as_str(), host, target].iter().any(|part| part.contains(char::is_whitespace)) {
        return Err("method and URL hold no white space");
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let host = if host.is_empty() { "localhost" } else { host };
        headers.insert(0, ("Host".to_owned(), host.to_owned()));
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    let target = format!("{slash}{target}");
    let user = user.map(|openid| (openid, appid));
    Ok(Question { method, scheme, target, headers, client, user })
}

/// One line of the page: a word, what it is, and why.
fn line(page: &mut String, topic: &str, what: &str) {
    // Writing to a String does not fail.
    writeln!(page, "{topic:<10} {what}").ok();
}

fn text(asked: &str, explained: &Explained) -> String {
    let Explained { explanation, keys } = explained;
    let mut page = String::new();
    line(&mut page, "request", asked);
    if let Some(path) = &explanation.routed_path {
        line(&mut page, "routed as", path);
    }
    if let Some(route) = &explanation.route {
        line(&mut page, "route", &route.name);
        line(&mut page, "  host", &route.host);
        line(&mut page, "  path", &route.path);
        line(&mut page, "  method", &route.method);
        policy(&mut page, &route.config);
    }
    token(&mut page, explanation, *keys);
    match &explanation.outcome {
        Outcome::Forwarded { .. } => forwarded(&mut page, explanation),
        Outcome::Answered(Answered { error: Some(error), .. })
            if error == "invalid_token" && *keys == Keys::Unknown =>
        {
            line(&mut page, "answer", "hangs on the token; 401 if it is not good");
        }
        Outcome::Answered(answered) => answer(&mut page, answered),
        Outcome::Own { endpoint } => {
            line(&mut page, "answer", &format!("the gateway's own {endpoint}; never forwarded"));
        }
        Outcome::Vouched { openid } => {
            let who = openid.as_deref().unwrap_or("nobody");
            line(&mut page, "answer", &format!("200: may pass, as {who}"));
        }
    }
    page
}

/// What the route asks.
fn policy(page: &mut String, route: &Value) {
    let shown = |key: &str| route.get(key).filter(|value| !value.is_null());
    let auth = shown("auth").and_then(Value::as_str).unwrap_or_default();
    line(page, "auth", auth);
    if let Some(rate) = shown("rate_limit") {
        let part = |key: &str| rate.get(key).map(written).unwrap_or_default();
        let (count, period, burst) = (part("count"), part("period"), part("burst"));
        let by = part("key");
        line(page, "  rate", &format!("{count} in {period} by {by}, {burst} at once"));
    }
    for (key, topic) in [
        ("allow", "  allow"),
        ("deny_openids_file", "  deny"),
        ("strip_prefix", "  strip"),
        ("cors", "  cors"),
        ("request_headers", "  request"),
        ("response_headers", "  answer"),
    ] {
        let value = shown(key).map(written).unwrap_or_default();
        if !value.is_empty() {
            line(page, topic, &value);
        }
    }
    if shown("cookie_bridge") == Some(&Value::Bool(true)) {
        line(page, "  cookies", "the backend's are kept in the session, and sent along");
    }
}

/// A value in one line: lists and tables without quotes.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(written).collect::<Vec<_>>().join(", "),
        Value::Object(table) => {
            let said = |value: &Value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(table) => !table.is_empty(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
            };
            let pairs = table.iter().filter(|(_, value)| said(value));
            let pairs = pairs.map(|(key, value)| format!("{key} {}", written(value)));
            pairs.collect::<Vec<_>>().join("; ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn token(page: &mut String, explanation: &Explanation, keys: Keys) {
    let auth = explanation.route.as_ref().and_then(|route| route.config.get("auth"));
    let is_public = auth.and_then(Value::as_str) == Some("public");
    let Some(place) = &explanation.token_in else {
        line(page, "token", "none");
        return;
    };
    let caller = match &explanation.outcome {
        Outcome::Forwarded { openid, .. } | Outcome::Vouched { openid } => openid.as_deref(),
        Outcome::Answered(_) | Outcome::Own { .. } => None,
    };
    let verdict = match (caller, keys) {
        (Some(openid), _) => format!("good, of {openid}; whether it was revoked is not known here"),
        (None, Keys::Known) if is_public => "not read on a public route".to_owned(),
        (None, Keys::Unknown) if is_public => {
            "not read on a public route; taken off if it is the gateway's".to_owned()
        }
        (None, Keys::Known) => "see below".to_owned(),
        (None, Keys::Unknown) => {
            "cannot be judged: the signing key is not known here; try --as OPENID".to_owned()
        }
    };
    line(page, "token", &format!("in {place}: {verdict}"));
}

fn answer(page: &mut String, answered: &Answered) {
    let Answered { status, error, description, headers } = answered;
    let error = error.as_deref().map(|error| format!(" {error}")).unwrap_or_default();
    let why = description.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    line(page, "answer", &format!("{status}{error}{why}; nothing is forwarded"));
    for (name, value) in headers {
        line(page, "", &format!("{name}: {value}"));
    }
}

fn forwarded(page: &mut String, explanation: &Explanation) {
    let Outcome::Forwarded { request_line, headers, removed, timeouts, answer_headers, .. } =
        &explanation.outcome
    else {
        return;
    };
    if let Some(route) = &explanation.route {
        upstream(page, &route.upstream);
        let [connect, read, write] = timeouts;
        let body = route.config.get("max_body_bytes").and_then(Value::as_u64);
        let body = body.map_or("any size".to_owned(), |bytes| format!("at most {bytes} bytes"));
        let limits = format!("body {body}; connect {connect}, read {read}, write {write}");
        line(page, "limits", &limits);
    }
    line(page, "forwarded", request_line);
    let width = headers.iter().map(|it| it.name.len() + it.value.len() + 2).max().unwrap_or(0);
    for header in headers {
        let text = format!("{}: {}", header.name, header.value);
        let by = if header.by_gateway { "gateway" } else { "client" };
        line(page, "", &format!("{text:<width$}  {by}", width = width.min(60)));
    }
    let width = removed.iter().map(|it| it.name.len()).max().unwrap_or(0);
    for (index, header) in removed.iter().enumerate() {
        let topic = if index == 0 { "taken off" } else { "" };
        line(page, topic, &format!("{:<width$}  {}", header.name, header.why));
    }
    for (index, (name, value)) in answer_headers.iter().enumerate() {
        let topic = if index == 0 { "answer" } else { "" };
        line(page, topic, &format!("{name}: {value}"));
    }
}

fn upstream(page: &mut String, upstream: &Value) {
    let shown = |key: &str| upstream.get(key).map(written).unwrap_or_default();
    let servers = upstream.get("servers").and_then(Value::as_array).into_iter().flatten();
    let servers = servers.map(|server| {
        let address = server.get("address").map(written).unwrap_or_default();
        match server.get("weight").and_then(Value::as_u64) {
            Some(weight) if weight != 1 => format!("{address} (weight {weight})"),
            Some(_) | None => address,
        }
    });
    let servers = servers.collect::<Vec<_>>().join(", ");
    let tls = if upstream.get("tls").is_some_and(|tls| !tls.is_null()) { ", TLS" } else { "" };
    let (name, balance, retries) = (shown("name"), shown("balance"), shown("retries"));
    line(page, "upstream", &format!("{name}: {servers} ({balance}{tls}, retries {retries})"));
}
