//! Answers as WeChat writes them, and those of the sandbox's own pages.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clock::Clock;

/// A refusal of WeChat: errcode and how its errmsg begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) i64, pub(super) &'static str);

impl Wrong {
    pub(super) const CREDENTIAL: Self =
        Self(40001, "invalid credential, access_token is invalid or not latest");
    pub(super) const GRANT_TYPE: Self = Self(40002, "invalid grant_type");
    pub(super) const OPENID: Self = Self(40003, "invalid openid");
    pub(super) const APPID: Self = Self(40013, "invalid appid");
    pub(super) const CODE: Self = Self(40029, "invalid code");
    pub(super) const REFRESH_TOKEN: Self = Self(40030, "invalid refresh_token");
    pub(super) const URL: Self = Self(40066, "invalid url");
    pub(super) const SECRET: Self = Self(40125, "invalid appsecret");
    pub(super) const CODE_USED: Self = Self(40163, "code been used");
    pub(super) const NO_TOKEN: Self = Self(41001, "access_token missing");
    pub(super) const NO_APPID: Self = Self(41002, "appid missing");
    pub(super) const NO_REFRESH_TOKEN: Self = Self(41003, "refresh_token missing");
    pub(super) const NO_SECRET: Self = Self(41004, "appsecret missing");
    pub(super) const NO_CODE: Self = Self(41008, "missing code");
    pub(super) const NO_OPENID: Self = Self(41009, "missing openid");
    pub(super) const TOKEN_EXPIRED: Self = Self(42001, "access_token expired");
    pub(super) const REFRESH_TOKEN_EXPIRED: Self = Self(42002, "refresh_token expired");
    pub(super) const NOT_GET: Self = Self(43001, "require GET method");
    pub(super) const NOT_POST: Self = Self(43002, "require POST method");
    pub(super) const BODY: Self = Self(47001, "data format error");
    pub(super) const UNAUTHORIZED: Self = Self(48001, "api unauthorized");
    pub(super) const SIG_METHOD: Self = Self(87008, "invalid sig_method");
    pub(super) const SIGNATURE: Self = Self(87009, "invalid signature");
}

/// What an ordered fault may name besides the above.
const BY_ORDER_ONLY: [Wrong; 11] = [
    Wrong(-1, "system error"),
    Wrong(0, "ok"),
    Wrong(40014, "invalid access_token"),
    Wrong(40164, "invalid ip, not in whitelist"),
    Wrong(40226, "code blocked"),
    Wrong(40243, "appsecret frozen"),
    Wrong(45009, "reach max api daily quota limit"),
    Wrong(45011, "api minute-quota reach limit, must slower, retry next minute"),
    Wrong(48004, "api forbidden"),
    Wrong(50002, "user limited"),
    Wrong(61004, "access clientip is not registered"),
];

const BY_MISTAKE: [Wrong; 23] = [
    Wrong::CREDENTIAL,
    Wrong::GRANT_TYPE,
    Wrong::OPENID,
    Wrong::APPID,
    Wrong::CODE,
    Wrong::REFRESH_TOKEN,
    Wrong::URL,
    Wrong::SECRET,
    Wrong::CODE_USED,
    Wrong::NO_TOKEN,
    Wrong::NO_APPID,
    Wrong::NO_REFRESH_TOKEN,
    Wrong::NO_SECRET,
    Wrong::NO_CODE,
    Wrong::NO_OPENID,
    Wrong::TOKEN_EXPIRED,
    Wrong::REFRESH_TOKEN_EXPIRED,
    Wrong::NOT_GET,
    Wrong::NOT_POST,
    Wrong::BODY,
    Wrong::UNAUTHORIZED,
    Wrong::SIG_METHOD,
    Wrong::SIGNATURE,
];

/// How the errmsg of an errcode begins.
pub(super) fn errmsg(errcode: i64) -> &'static str {
    let mut known = BY_MISTAKE.iter().chain(&BY_ORDER_ONLY);
    known.find(|wrong| wrong.0 == errcode).map_or("sandbox fault", |wrong| wrong.1)
}

/// WeChat's way: HTTP 200 and text/plain for good and bad, the trace id at the end of errmsg.
pub(super) fn wechat(result: Result<Value, Wrong>) -> Response {
    let body = match result {
        Ok(value) => value,
        Err(Wrong(errcode, says)) => refusal(errcode, says),
    };
    ([(CONTENT_TYPE, "text/plain")], body.to_string()).into_response()
}

/// What WeChat says where there is nothing more to say.
pub(super) fn ok() -> Value {
    json!({"errcode": 0, "errmsg": "ok"})
}

/// `{"errcode", "errmsg"}` with a trace id that is another each time.
pub(super) fn refusal(errcode: i64, says: &str) -> Value {
    json!({"errcode": errcode, "errmsg": format!("{says}, rid: {}", rid())})
}

fn rid() -> String {
    let clock = u32::try_from(Clock::system().unix_seconds()).unwrap_or_default();
    let [a, b, c, d, e, f, g, h] = random::<8>();
    let (left, right) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    format!("{clock:08x}-{left:08x}-{right:08x}")
}

/// Random bytes; zeros, and a line in the log, on a machine that has none to give. Nothing that
/// the sandbox keeps is worth more.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        log::error!("sandbox: no random bytes: {error}");
    }
    bytes
}

/// The parameters of a query or a form; of equal ones the first counts.
pub(super) struct Params(HashMap<String, String>);

impl Params {
    pub(super) fn read(query: Option<&str>) -> Self {
        let mut params = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            params.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(params)
    }

    /// A parameter; empty if it is not there.
    pub(super) fn or_empty(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A parameter that must be there and not empty.
    pub(super) fn get(&self, name: &str, missing: Wrong) -> Result<&str, Wrong> {
        match self.0.get(name) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) | None => Err(missing),
        }
    }
}

/// Refuses a method as WeChat does: with an errcode.
pub(super) fn only(method: &Method, wanted: &Method) -> Result<(), Wrong> {
    if method == wanted {
        Ok(())
    } else if wanted == Method::GET {
        Err(Wrong::NOT_GET)
    } else {
        Err(Wrong::NOT_POST)
    }
}

/// A request to one of the sandbox's own pages that cannot be understood: a 400 that says why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadOrder(pub(super) String);

impl IntoResponse for BadOrder {
    fn into_response(self) -> Response {
        own(StatusCode::BAD_REQUEST, &json!({"error": self.0}))
    }
}

/// Reads the JSON of one of the sandbox's own pages.
///
/// # Errors
/// What is wrong with it.
pub(super) fn order<T: DeserializeOwned>(body: &Bytes) -> Result<T, BadOrder> {
    serde_json::from_slice(body).map_err(|error| BadOrder(error.to_string()))
}

/// An answer of one of the sandbox's own pages.
pub(super) fn own(status: StatusCode, body: &Value) -> Response {
    (status, axum::Json(body)).into_response()
}
