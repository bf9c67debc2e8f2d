//! `POST phone`: the code of the getPhoneNumber button for the user's number, which the session
//! keeps, sealed, from then on.

use serde::{Deserialize, Serialize};

use super::refusal::{InputError, Refusal};
use super::{Answer, Endpoints, Request, body, log_session_error};
use crate::identity;
use crate::session::Verified;
use crate::wechat::{Flaw, WechatError, is_code};

/// The field of the body that counts.
#[derive(Deserialize)]
struct Press {
    code: Option<String>,
}

/// WeChat's own names, and a token whose scope has `phone`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    phone_number: &'a str,
    pure_phone_number: &'a str,
    country_code: &'a str,
    #[serde(rename = "access_token")]
    access_token: &'a str,
    #[serde(rename = "expires_in")]
    expires_in: u64,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    if let Err(refusal) = endpoints.check_login_limit(&request) {
        return refusal.into_answer(request.request_id);
    }
    let exchange = async |caller: &Verified| exchange(endpoints, caller, &request).await;
    endpoints.for_caller(&request, exchange).await
}

async fn exchange(
    endpoints: &Endpoints,
    caller: &Verified,
    request: &Request<'_>,
) -> Result<Answer, Refusal> {
    let code = body::object::<Press>(request.body)?.code.ok_or(InputError::NoCode)?;
    if !is_code(&code) {
        return Err(InputError::BadCode.into());
    }
    let (appid, openid) = (caller.identity.appid.as_str(), caller.identity.openid.as_str());
    let phone = endpoints.wechat.phone(appid, openid, &code).await?;
    let number = identity::Phone::parse(&phone.phone_number)
        .map_err(|_| WechatError::Malformed(Flaw::Field("phoneNumber")))?;
    let kept = endpoints.sessions.keep_phone(caller, &number).await;
    let issued = kept.inspect_err(log_session_error)?;
    let answer = Answer::json(&Body {
        phone_number: &phone.phone_number,
        pure_phone_number: &phone.pure_phone_number,
        country_code: &phone.country_code,
        access_token: issued.token(),
        expires_in: issued.expires_in.as_secs(),
    });
    Ok(request.browser.keep(answer, issued.token(), issued.expires_in))
}
