//! Read WeChat's answers as WeChat really writes them.
//!
//! The body is JSON whatever its Content-Type says (text/plain occurs), business errors come
//! with HTTP 200, and `errcode` may be missing on success, a number or a string.

use serde_json::{Map, Value};

use super::errcode::{Flaw, Outage, WechatError, error_of};
use super::json;

/// The longest answer that is read. A real one is under 2 KiB.
const LONGEST: usize = 64 * 1024;

/// The JSON object of one answer.
pub(super) struct Answer {
    errcode: i64,
    fields: Map<String, Value>,
}

/// Reads a whole answer within its bounds.
///
/// # Errors
/// `Unavailable` for HTTP 5xx and a broken connection, `Malformed` for what cannot be read.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Answer, WechatError> {
    let status = response.status();
    if status.is_server_error() {
        return Err(WechatError::unavailable(Outage::Status(status.as_u16())));
    }
    if status != reqwest::StatusCode::OK {
        return Err(WechatError::Malformed(Flaw::Status(status.as_u16())));
    }
    let mut body = Vec::new();
    // Counted as it comes: Content-Length may be absent.
    while let Some(chunk) =
        response.chunk().await.map_err(|_| WechatError::unavailable(Outage::Broken))?
    {
        if body.len() + chunk.len() > LONGEST {
            return Err(WechatError::Malformed(Flaw::TooLong));
        }
        body.extend_from_slice(&chunk);
    }
    parse(&body)
}

/// Reads the body of an answer.
///
/// # Errors
/// `Malformed` unless it is one JSON object, no key of which stands twice, whose `errcode`, if
/// any, is a number.
pub(super) fn parse(body: &[u8]) -> Result<Answer, WechatError> {
    let fields = json::object(body).ok_or(WechatError::Malformed(Flaw::NotJson))?;
    let errcode = match fields.get("errcode") {
        None => Some(0),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    let errcode = errcode.ok_or(WechatError::Malformed(Flaw::Errcode))?;
    Ok(Answer { errcode, fields })
}

impl Answer {
    /// The answer, if its errcode is 0.
    ///
    /// # Errors
    /// What its errcode stands for.
    pub(super) fn good(&self) -> Result<&Self, WechatError> {
        if self.errcode == 0 { Ok(self) } else { Err(error_of(self.errcode)) }
    }

    /// A field that must be text.
    ///
    /// # Errors
    /// `Malformed` if it is missing or something else.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, WechatError> {
        text(&self.fields, name)
    }

    /// A field that may be missing, null or empty, all of which mean that there is none.
    ///
    /// # Errors
    /// `Malformed` if it is there and no text.
    pub(super) fn optional_text(&self, name: &'static str) -> Result<Option<&str>, WechatError> {
        optional_text(&self.fields, name)
    }

    /// A field that is a number, or the text of one; missing: none.
    ///
    /// # Errors
    /// `Malformed` if it is there and neither.
    pub(super) fn optional_number(&self, name: &'static str) -> Result<Option<u64>, WechatError> {
        let number = match self.fields.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
        };
        number.map(Some).ok_or(WechatError::Malformed(Flaw::Field(name)))
    }

    /// A field that must be an object.
    ///
    /// # Errors
    /// `Malformed` if it is missing or something else.
    pub(super) fn object(&self, name: &'static str) -> Result<&Map<String, Value>, WechatError> {
        object(&self.fields, name)
    }

    /// The trace id that WeChat's support asks for, from the end of `errmsg`. Nothing else of
    /// `errmsg` is trusted not to repeat what was sent.
    pub(super) fn rid(&self) -> Option<&str> {
        let errmsg = self.fields.get("errmsg")?.as_str()?;
        let (_, tail) = errmsg.rsplit_once("rid:").or_else(|| errmsg.rsplit_once("req_id:"))?;
        let rid = tail.trim().trim_end_matches(']').trim_end();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        ((1..=64).contains(&rid.len()) && rid.bytes().all(plain)).then_some(rid)
    }
}

/// As [`Answer::text`], of an object within an answer.
pub(super) fn text<'a>(
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a str, WechatError> {
    optional_text(fields, name)?.ok_or(WechatError::Malformed(Flaw::Field(name)))
}

fn optional_text<'a>(
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, WechatError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(WechatError::Malformed(Flaw::Field(name)))
        }
    }
}

/// As [`Answer::object`], of an object within an answer.
pub(super) fn object<'a>(
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a Map<String, Value>, WechatError> {
    let object = fields.get(name).and_then(Value::as_object);
    object.ok_or(WechatError::Malformed(Flaw::Field(name)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn errcode(body: &str) -> Result<i64, WechatError> {
        parse(body.as_bytes()).map(|answer| answer.errcode)
    }

    #[test]
    fn errcode_may_be_missing_a_number_or_a_string() {
        assert_eq!(errcode(r#"{"openid":"x"}"#), Ok(0));
        assert_eq!(errcode(r#"{"errcode":0}"#), Ok(0));
        assert_eq!(errcode(r#"{"errcode":40029}"#), Ok(40029));
        assert_eq!(errcode(r#"{"errcode":"40029"}"#), Ok(40029));
        assert_eq!(errcode(r#"{"errcode":"-1"}"#), Ok(-1));
    }

    #[test]
    fn an_errcode_that_is_no_number_is_malformed_and_never_success() {
        for body in [r#"{"errcode":null}"#, r#"{"errcode":"ok"}"#, r#"{"errcode":[0]}"#] {
            assert_eq!(errcode(body), Err(WechatError::Malformed(Flaw::Errcode)), "{body}");
        }
        assert_eq!(errcode(r#"{"errcode":0.5}"#), Err(WechatError::Malformed(Flaw::Errcode)));
    }

    #[test]
    fn what_is_no_json_object_is_malformed() {
        for body in ["", "[]", "<html>", r#"{"openid":"#, "{} x", r#"{"errcode":1,"errcode":0}"#] {
            assert_eq!(errcode(body), Err(WechatError::Malformed(Flaw::NotJson)), "{body}");
        }
    }

    #[test]
    fn the_trace_id_is_found_in_each_form_and_nothing_else_is_taken() {
        let rid = |errmsg: &str| {
            let body = serde_json::json!({"errcode": 40029, "errmsg": errmsg}).to_string();
            parse(body.as_bytes()).unwrap().rid().map(str::to_owned)
        };
        assert_eq!(
            rid("invalid code, rid: 652d44d0-1d0af18b-5b069232").as_deref(),
            Some("652d44d0-1d0af18b-5b069232")
        );
        assert_eq!(rid("invalid code, hints: [ req_id: a1B2-c ]").as_deref(), Some("a1B2-c"));
        assert_eq!(rid("invalid code"), None);
        assert_eq!(rid("rid: 0a1b\nforged line"), None);
        assert_eq!(rid("rid: "), None);
    }
}
