//! Requests of browsers: what they say of themselves, and when one without a session is sent to
//! the login instead of being refused.

use std::fmt;

use url::form_urlencoded;

use super::client::Client;
use super::credential;
use super::head::RequestHead;
use super::rules::Rules;
use crate::config::{AppKind, TokenSource};
use crate::endpoints::{Browser, Refusal, Shown, check_return_to};
use crate::route::table::Route;

/// What a browser says with a request for one of the gateway's own endpoints, kept for as long as
/// its body is read.
pub(crate) struct FromBrowser {
    query: String,
    cookies: String,
    scheme: String,
    host: String,
    origin: Option<String>,
    /// The cookie that the token stood in.
    cookie: Option<String>,
}

impl fmt::Debug for FromBrowser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Codes and tokens stand in queries and cookies.
        formatter.debug_struct("FromBrowser").finish_non_exhaustive()
    }
}

impl FromBrowser {
    /// Reads a head. Tokens are looked for in `places`.
    pub(crate) fn of(head: &RequestHead<'_>, client: &Client, places: &[TokenSource]) -> Self {
        let cookies: Vec<&str> = head
            .headers
            .get_all("cookie")
            .filter_map(|value| std::str::from_utf8(value).ok())
            .collect();
        let cookie = match credential::place(head, places) {
            Some(TokenSource::Cookie(name)) => Some(name.clone()),
            Some(TokenSource::Authorization | TokenSource::Header(_) | TokenSource::Query(_))
            | None => None,
        };
        Self {
            query: head.target.split_once('?').map_or("", |(_, query)| query).to_owned(),
            cookies: cookies.join("; "),
            scheme: client.forwarded_proto.to_string(),
            host: client.host(head.host).to_owned(),
            origin: head.headers.text("origin").map(ToOwned::to_owned),
            cookie,
        }
    }

    /// As the endpoints take it.
    pub(crate) fn as_told(&self) -> Browser<'_> {
        Browser {
            query: &self.query,
            cookies: &self.cookies,
            scheme: &self.scheme,
            host: &self.host,
            origin: self.origin.as_deref(),
            shown: self.cookie.as_deref().map_or(Shown::Deliberately, Shown::InCookie),
        }
    }
}

/// Where a browser is sent that asks for a page and has no session, or none that is still good:
/// to the login of the one app with web pages whose users the route lets through. With several
/// such apps nobody can know which is meant, and the refusal stands.
pub(crate) fn login(
    rules: &Rules,
    head: &RequestHead<'_>,
    route: &Route,
    path: &str,
    refusal: &Refusal,
) -> Option<String> {
    let has_no_session = matches!(
        refusal,
        Refusal::Unauthorized
            | Refusal::TokenInvalid
            | Refusal::TokenExpired
            | Refusal::TokenRevoked
    );
    let places = &rules.config.session.token_from;
    // Who shows a token elsewhere than in a cookie is a program.
    let is_browser = matches!(credential::place(head, places), None | Some(TokenSource::Cookie(_)));
    let wants_page = head.method == "GET" && !head.is_websocket() && accepts_html(head);
    if !(has_no_session && is_browser && wants_page) {
        return None;
    }
    let written = rules.config.routes.iter().find(|written| written.name == *route.name)?;
    let allowed = written.allow.as_ref().map_or(&[][..], |allow| &allow.appids);
    let mut apps = rules.config.apps.iter().filter(|app| {
        app.kind != AppKind::MiniProgram && (allowed.is_empty() || allowed.contains(&app.appid))
    });
    let (Some(app), None) = (apps.next(), apps.next()) else {
        return None;
    };
    let query = head.target.split_once('?').map(|(_, query)| {
        credential::query_without(query, places).unwrap_or_else(|| query.to_owned())
    });
    // A query that the login would refuse (too long, or odd) is worth less than the page.
    let wished = query.map(|query| format!("{path}?{query}"));
    let return_to =
        wished.as_deref().into_iter().chain([path]).find(|to| check_return_to(to).is_ok());
    let return_to = return_to.unwrap_or("/");
    let address = format!("{}/oauth/login?", rules.config.login.prefix);
    let query_at = address.len();
    let mut location = form_urlencoded::Serializer::for_suffix(address, query_at);
    location.append_pair("appid", &app.appid).append_pair("return_to", return_to);
    Some(location.finish())
}

fn accepts_html(head: &RequestHead<'_>) -> bool {
    head.headers
        .get_all("accept")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|range| range.split(|byte| *byte == b';').next())
        .any(|range| range.trim_ascii().eq_ignore_ascii_case(b"text/html"))
}
