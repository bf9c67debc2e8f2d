//! WeChat's login pages: who are you, and may this app know it? A browser can click through
//! them, and a test can follow the same links.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::World;
use super::answer::Params;
use super::sns::{Consent, Person};
use super::users::{NAME_RULE, is_name};

/// Remembers who used this browser, as WeChat knows whose phone it is: a silent login asks
/// nothing.
const WHO: &str = "sandbox_user";

/// What a page was asked for.
struct Asked {
    appid: String,
    redirect_uri: Url,
    scope: &'static str,
    state: String,
}

impl Asked {
    /// Reads the parameters as strictly as WeChat does.
    ///
    /// # Errors
    /// What WeChat's page would say instead.
    fn read(world: &World, query: &str, scopes: &[&'static str]) -> Result<Self, &'static str> {
        const ORDER: [&str; 5] = ["appid", "redirect_uri", "response_type", "scope", "state"];
        let places = url::form_urlencoded::parse(query.as_bytes())
            .filter_map(|(name, _)| ORDER.iter().position(|known| *known == name));
        // Any other order is refused just so, a trap that people fall into.
        if !places.is_sorted() {
            return Err("Scope 参数错误或没有 Scope 权限 (parameters out of order)");
        }
        let params = Params::read(Some(query));
        let appid = params.or_empty("appid").to_owned();
        if !world.apps.knows(&appid) {
            return Err("AppID 参数错误 (no such app)");
        }
        let redirect_uri = Url::parse(params.or_empty("redirect_uri"))
            .ok()
            .filter(|uri| matches!(uri.scheme(), "http" | "https"))
            .ok_or("redirect_uri 参数错误 (no http or https address)")?;
        if params.or_empty("response_type") != "code" {
            return Err("response_type 参数错误 (must be `code`)");
        }
        let scope = scopes.iter().find(|scope| **scope == params.or_empty("scope"));
        let scope = scope.copied().ok_or("Scope 参数错误或没有 Scope 权限 (not of this page)")?;
        let state = params.or_empty("state").to_owned();
        if state.len() > 128 {
            return Err("state 参数错误 (over 128 bytes)");
        }
        Ok(Self { appid, redirect_uri, scope, state })
    }

    /// Where the browser is sent back to.
    fn back(&self, code: Option<&str>) -> Response {
        let mut url = self.redirect_uri.clone();
        if let Some(code) = code {
            url.query_pairs_mut().append_pair("code", code);
        }
        // Who refuses comes back with the state alone.
        url.query_pairs_mut().append_pair("state", &self.state);
        (StatusCode::FOUND, [(LOCATION, url.to_string())]).into_response()
    }
}

/// The page inside WeChat.
pub(super) async fn authorize(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let asked =
        Asked::read(&world, &query.unwrap_or_default(), &["snsapi_base", "snsapi_userinfo"]);
    match asked {
        Err(says) => refusal_page(says),
        Ok(asked) => match known_user(&headers) {
            Some(user) if asked.scope == "snsapi_base" => {
                let code = allow(&world, &asked, &user, Person::Real);
                asked.back(Some(&code))
            }
            user => question_page(&asked, &user.unwrap_or_else(|| "alice".to_owned())),
        },
    }
}

/// The QR code, which is scanned by clicking.
pub(super) async fn qrconnect(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match Asked::read(&world, &query.unwrap_or_default(), &["snsapi_login"]) {
        Err(says) => refusal_page(says),
        Ok(asked) => {
            question_page(&asked, &known_user(&headers).unwrap_or_else(|| "alice".to_owned()))
        }
    }
}

/// `GET /sandbox/consent`: the buttons of the pages. `decision` is `allow`, `refuse`, or
/// `snapshot` for a virtual user.
pub(super) async fn consent(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let scopes = ["snsapi_base", "snsapi_userinfo", "snsapi_login"];
    let asked = match Asked::read(&world, &query, &scopes) {
        Ok(asked) => asked,
        Err(says) => return refusal_page(says),
    };
    let params = Params::read(Some(&query));
    let user = params.or_empty("user");
    if !is_name(user) {
        return refusal_page(NAME_RULE);
    }
    let mut back = match params.or_empty("decision") {
        "allow" => asked.back(Some(&allow(&world, &asked, user, Person::Real))),
        "snapshot" => {
            return asked.back(Some(&allow(&world, &asked, "(snapshot)", Person::Virtual)));
        }
        "refuse" => asked.back(None),
        _ => return refusal_page("decision must be allow, refuse or snapshot"),
    };
    let who = utf8_percent_encode(user, NON_ALPHANUMERIC);
    let cookie = format!("{WHO}={who}; Path=/; HttpOnly; SameSite=Lax");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        back.headers_mut().insert(SET_COOKIE, cookie);
    }
    back
}

/// Makes the code that goes back with the browser.
fn allow(world: &World, asked: &Asked, user: &str, person: Person) -> String {
    let now = world.clock.unix_millis();
    let mut state = world.lock();
    let openid = state.users.visit(&asked.appid, user);
    let consent = Consent { appid: asked.appid.clone(), openid, scope: asked.scope, person };
    if asked.scope == "snsapi_login" {
        state.web.qr_codes.issue(consent, now)
    } else {
        state.web.codes.issue(consent, now)
    }
}

fn known_user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, who) = pairs.find(|(name, _)| name.trim() == WHO)?;
    let who = percent_decode_str(who.trim()).decode_utf8().ok()?;
    is_name(&who).then(|| who.into_owned())
}

/// What WeChat says to a browser that was sent there wrongly.
fn refusal_page(says: &str) -> Response {
    page("This login cannot begin", &format!("<p id=\"error\">{}</p>", escape(says)))
}

fn question_page(asked: &Asked, user: &str) -> Response {
    let (title, wants) = match asked.scope {
        "snsapi_base" => ("Who are you?", "learns which user this is, and nothing else"),
        "snsapi_userinfo" => ("Allow this login?", "learns who you are, your name and picture"),
        _ => ("Scan to log in", "logs you in; whoever clicks below has scanned its QR code"),
    };
    let hidden: String = [
        ("appid", asked.appid.as_str()),
        ("redirect_uri", asked.redirect_uri.as_str()),
        ("response_type", "code"),
        ("scope", asked.scope),
        ("state", &asked.state),
    ]
    .iter()
    .map(|(name, value)| {
        format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value))
    })
    .collect();
    let (appid, scope, user) = (escape(&asked.appid), asked.scope, escape(user));
    let back = escape(&asked.redirect_uri.origin().ascii_serialization());
    page(
        title,
        &format!(
            "<p><code>{appid}</code> {wants}.<br><span class=\"soft\">Asked for \
             <code>{scope}</code> by {back}</span></p>\
             <form action=\"/sandbox/consent\">{hidden}\
             <label for=\"user\">User, any name</label>\
             <input id=\"user\" name=\"user\" value=\"{user}\" autocomplete=\"off\">\
             <button id=\"allow\" name=\"decision\" value=\"allow\">Allow</button>\
             <button id=\"refuse\" name=\"decision\" value=\"refuse\">Refuse</button>\
             <button id=\"snapshot\" name=\"decision\" value=\"snapshot\">\
             Come back as the virtual user of a snapshot page</button></form>"
        ),
    )
}

fn page(title: &str, body: &str) -> Response {
    let html = include_str!("page.html").replace("{title}", title).replace("{body}", body);
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
