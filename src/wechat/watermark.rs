//! The watermark: by it WeChat says for which app something was made.

use serde_json::{Map, Value};

/// Why a watermark does not say that something was made for this app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatermarkError {
    /// There is no watermark with an appid.
    #[error("the watermark is missing")]
    Missing,
    /// It was made for another app.
    #[error("the watermark is of another app")]
    Appid,
}

/// Whether what holds these fields was made for this app.
///
/// # Errors
/// Why not.
pub(super) fn check_watermark(
    fields: &Map<String, Value>,
    appid: &str,
) -> Result<(), WatermarkError> {
    let mark = fields.get("watermark").and_then(Value::as_object);
    match mark.and_then(|mark| mark.get("appid")).and_then(Value::as_str) {
        None => Err(WatermarkError::Missing),
        Some(marked) if marked == appid => Ok(()),
        Some(_) => Err(WatermarkError::Appid),
    }
}
