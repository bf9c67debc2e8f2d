//! The parameters of a request's body: JSON, or a form where an endpoint takes one.

use serde::de::DeserializeOwned;

use super::answer::Refusal;
use super::{Request, invalid};

/// How a body is written, by its `Content-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/json`, and what says nothing of itself.
    Json,
    /// `application/x-www-form-urlencoded`
    UrlEncoded,
}

impl Form {
    /// # Errors
    /// 400 for any other type.
    pub(super) fn of(request: &Request<'_>) -> Result<Self, Refusal> {
        let media_type = request.content_type.unwrap_or("application/json");
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(Self::Json)
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Self::UrlEncoded)
        } else {
            Err(invalid("Content-Type must be application/json"))
        }
    }
}

/// Reads a JSON object. A repeated or wrongly typed member is an error; unknown ones are passed
/// over, since clients send more than they need.
///
/// # Errors
/// 400 that says what is wrong and repeats nothing of the body.
pub(super) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("the body is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a member is missing, repeated or of a wrong type",
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => "it is not JSON",
        };
        invalid(format!("the body cannot be read: {what}"))
    })
}

/// Reads a form's fields in order, `+` and `%` decoded.
pub(super) fn fields(body: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(body).into_owned().collect()
}
