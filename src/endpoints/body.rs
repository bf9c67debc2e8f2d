//! What clients send to the gateway's own endpoints, read.

use serde::de::DeserializeOwned;

use super::refusal::InputError;

/// The fields of a body that is a JSON object. Fields that the endpoint does not know are let
/// pass; one that stands there twice is an error, so that nobody may choose which counts.
///
/// # Errors
/// `NotJson` for anything else.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, InputError> {
    // serde would take an array of the fields' values for the object.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(InputError::NotJson);
    }
    serde_json::from_slice(body).map_err(|_| InputError::NotJson)
}
