//! `POST decrypt`: what WeChat encrypted for the user's mini program, opened with the session_key
//! that never leaves the gateway.
//!
//! CBC has no integrity: who holds an `encryptedData` can change parts of it. So what is opened
//! here is handed back to its client and becomes nobody's identity.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::refusal::{InputError, Refusal};
use super::{Answer, Endpoints, Request, body};
use crate::session::Verified;
use crate::wechat::{decrypt, signature_fits};

/// The fields of the body that count, by WeChat's names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encrypted {
    encrypted_data: Option<String>,
    iv: Option<String>,
    raw_data: Option<String>,
    signature: Option<String>,
}

#[derive(Serialize)]
struct Decrypted {
    data: Map<String, Value>,
    /// Whether WeChat's signature of `rawData` was shown, and fits.
    signed: bool,
}

pub(super) async fn answer(endpoints: &Endpoints, request: Request<'_>) -> Answer {
    if let Err(refusal) = endpoints.check_login_limit(&request) {
        return refusal.into_answer(request.request_id);
    }
    let open =
        async |caller: &Verified| Ok(Answer::json(&open(endpoints, caller, &request).await?));
    endpoints.for_caller(&request, open).await
}

async fn open(
    endpoints: &Endpoints,
    caller: &Verified,
    request: &Request<'_>,
) -> Result<Decrypted, Refusal> {
    let sent: Encrypted = body::object(request.body)?;
    let (Some(encrypted_data), Some(iv)) = (sent.encrypted_data, sent.iv) else {
        return Err(InputError::NoEncryptedData.into());
    };
    let signed = match (sent.raw_data, sent.signature) {
        (Some(raw_data), Some(signature)) => Some((raw_data, signature)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(InputError::HalfSigned.into()),
    };
    let key = endpoints.session_key(caller).await?;
    // Before the signature: what is malformed is the client's fault under any key.
    let data = decrypt(&key, caller.identity.appid.as_str(), &encrypted_data, &iv)?;
    if let Some((raw_data, signature)) = &signed
        && !signature_fits(&key, raw_data, signature)
    {
        return Err(Refusal::SignatureWrong);
    }
    Ok(Decrypted { data, signed: signed.is_some() })
}
