//! Answers as WeChat writes them, and those of the sandbox's own pages.

use std::collections::HashMap;
use std::fmt::Write as _;

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
    pub(super) const GRANT_TYPE: Self = Self(40002, "invalid grant_type");
    pub(super) const APPID: Self = Self(40013, "invalid appid");
    pub(super) const CODE: Self = Self(40029, "invalid code");
    pub(super) const URL: Self = Self(40066, "invalid url");
    pub(super) const SECRET: Self = Self(40125, "invalid appsecret");
    pub(super) const CODE_USED: Self = Self(40163, "code been used");
    pub(super) const NO_APPID: Self = Self(41002, "appid missing");
    pub(super) const NO_SECRET: Self = Self(41004, "appsecret missing");
    pub(super) const NO_CODE: Self = Self(41008, "missing code");
    pub(super) const NOT_GET: Self = Self(43001, "require GET method");
    pub(super) const NOT_POST: Self = Self(43002, "require POST method");
    pub(super) const BODY: Self = Self(47001, "data format error");
}

/// What a fault may name without an errmsg of its own.
pub(super) fn errmsg(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system error",
        0 => "ok",
        40001 => "invalid credential, access_token is invalid or not latest",
        40003 => "invalid openid",
        40013 => Wrong::APPID.1,
        40014 => "invalid access_token",
        40029 => Wrong::CODE.1,
        40125 => Wrong::SECRET.1,
        40163 => Wrong::CODE_USED.1,
        40164 => "invalid ip, not in whitelist",
        40226 => "code blocked",
        40243 => "appsecret frozen",
        41002 => Wrong::NO_APPID.1,
        41004 => Wrong::NO_SECRET.1,
        41008 => Wrong::NO_CODE.1,
        42001 => "access_token expired",
        45009 => "reach max api daily quota limit",
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        50002 => "user limited",
        61004 => "access clientip is not registered",
        87009 => "invalid signature",
        _ => "sandbox fault",
    }
}

/// WeChat's way: HTTP 200 and text/plain for good and bad, the trace id at the end of errmsg.
pub(super) fn wechat(result: Result<Value, Wrong>) -> Response {
    let body = match result {
        Ok(value) => value,
        Err(Wrong(errcode, says)) => refusal(errcode, says),
    };
    ([(CONTENT_TYPE, "text/plain")], body.to_string()).into_response()
}

/// `{"errcode", "errmsg"}` with a trace id that is another each time.
pub(super) fn refusal(errcode: i64, says: &str) -> Value {
    json!({"errcode": errcode, "errmsg": format!("{says}, rid: {}", rid())})
}

fn rid() -> String {
    let clock = u32::try_from(Clock::system().unix_seconds()).unwrap_or_default();
    let [a, b, c, d, e, f, g, h] = random::<8>();
    let (left, right) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let mut rid = String::with_capacity(26);
    // Writing to a String does not fail.
    let _written = write!(rid, "{clock:08x}-{left:08x}-{right:08x}");
    rid
}

/// Random bytes. A machine without a source of them gets zeros: nothing here is secret, and
/// codes that are equal are told apart nowhere but in tests.
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
