//! Exchange the code of the getPhoneNumber button for the user's phone number.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Inner;
use super::answer::Answer;
use super::client::Parcel;
use super::errcode::{Flaw, WechatError};
use super::watermark::check_watermark;

/// A phone number that WeChat has verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Phone {
    /// With the country's code if it is a foreign one; digits, `+`, `-` and spaces, at most 32.
    pub phone_number: String,
    /// Without the country's code; shaped likewise.
    pub pure_phone_number: String,
    /// The country's code; shaped likewise.
    pub country_code: String,
}

impl fmt::Debug for Phone {
    // A phone number is nobody's business.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Phone").finish_non_exhaustive()
    }
}

impl Inner {
    /// Sends the code with the user's openid, so that WeChat refuses another user's code.
    ///
    /// # Errors
    /// Why there is no access_token, those of the call, and what its errcode stands for.
    pub(super) async fn exchange_phone(
        self: &Arc<Self>,
        appid: &str,
        openid: &str,
        code: &str,
    ) -> Result<Phone, WechatError> {
        let body = json!({"code": code, "openid": openid});
        self.with_token(appid, async |token| {
            let query = [("access_token", token.text().as_str())];
            let parcel = Parcel { appid, query: &query, body: Some(&body) };
            let read = |answer: &Answer| read(answer, appid);
            self.client.call(&self.lines.getuserphonenumber, parcel, read).await
        })
        .await
    }
}

fn read(answer: &Answer, appid: &str) -> Result<Phone, WechatError> {
    let found = answer.object("phone_info")?;
    check_watermark(found, appid)?;
    Ok(Phone {
        phone_number: number(found, "phoneNumber")?,
        pure_phone_number: number(found, "purePhoneNumber")?,
        country_code: number(found, "countryCode")?,
    })
}

/// A number that WeChat writes as text or, sometimes, as a number.
fn number(found: &Map<String, Value>, name: &'static str) -> Result<String, WechatError> {
    let written = match found.get(name) {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            String::new()
        }
    };
    // It may become a header, so that nothing else may pass.
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b' ');
    if (1..=32).contains(&written.len()) && written.bytes().all(plain) {
        Ok(written)
    } else {
        Err(WechatError::Malformed(Flaw::Field(name)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::answer::parse;
    use super::super::watermark::WatermarkError;
    use super::*;

    fn read_json(found: &Value) -> Result<Phone, WechatError> {
        let body = json!({"errcode": 0, "errmsg": "ok", "phone_info": found}).to_string();
        read(&parse(body.as_bytes()).unwrap(), "wx0001")
    }

    #[test]
    fn a_country_code_may_be_a_number_or_text() {
        for country in [json!(86), json!("86")] {
            let phone = read_json(&json!({
                "phoneNumber": "+8613580006666",
                "purePhoneNumber": "13580006666",
                "countryCode": country,
                "watermark": {"timestamp": 1_637_744_274, "appid": "wx0001"},
            }));
            let phone = phone.unwrap();
            assert_eq!(phone.phone_number, "+8613580006666");
            assert_eq!(phone.pure_phone_number, "13580006666");
            assert_eq!(phone.country_code, "86");
            assert!(!format!("{phone:?}").contains("135"));
        }
    }

    #[test]
    fn another_apps_number_is_refused_and_what_is_no_number_is_malformed() {
        let good = |appid: &str, phone: Value| {
            json!({
                "phoneNumber": phone, "purePhoneNumber": "1", "countryCode": "86",
                "watermark": {"appid": appid},
            })
        };
        assert!(read_json(&good("wx0001", json!("135"))).is_ok());
        for (found, field) in [
            (good("wx0001", json!("135\r\nX: y")), "phoneNumber"),
            (good("wx0001", json!("")), "phoneNumber"),
            (good("wx0001", json!(["135"])), "phoneNumber"),
            (good("wx0001", json!("1".repeat(33))), "phoneNumber"),
            (json!("135"), "phone_info"),
        ] {
            let error = read_json(&found).unwrap_err();
            assert_eq!(error, WechatError::Malformed(Flaw::Field(field)), "{found}");
        }
        for (found, why) in [
            (good("wx0002", json!("135")), WatermarkError::Appid),
            (json!({"phoneNumber": "1"}), WatermarkError::Missing),
            (json!({"phoneNumber": "1", "watermark": {"appid": 1}}), WatermarkError::Missing),
        ] {
            assert_eq!(read_json(&found).unwrap_err(), WechatError::Watermark(why), "{found}");
        }
    }
}
