//! Open what WeChat encrypted for an app, and check what it signed.
//!
//! AES uses the bytes of session_key; SHA-1 and HMAC use its base64 text. CBC has no integrity:
//! who holds an `encryptedData` can change its first 16 bytes through the `iv`. So nothing that
//! was opened here may become an identity.

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut as _, KeyIvInit as _};
use hmac::{Hmac, Mac as _};
use serde_json::{Map, Value};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::json;
use super::watermark::{WatermarkError, check_watermark};
use crate::secret::Secret;

/// Why an `encryptedData` could not be opened, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// session_key, iv or data is not standard base64 with its `=`; a `+` that a form turned
    /// into a space is the commonest cause.
    #[error("not in base64")]
    Base64,
    /// session_key is not 16 bytes: 24 or 32 would mean another cipher.
    #[error("session_key is not 16 bytes")]
    KeyLength,
    /// The iv is not 16 bytes.
    #[error("iv is not 16 bytes")]
    IvLength,
    /// The data is empty or no multiple of 16 bytes.
    #[error("encryptedData is not a multiple of 16 bytes")]
    DataLength,
    /// The padding is wrong: nearly always a session_key that another login replaced.
    #[error("the padding is wrong; session_key does not fit the data")]
    Padding,
    /// What came out is no JSON object in UTF-8: a session_key that does not fit, with padding
    /// that is right by chance.
    #[error("no JSON object came out; session_key does not fit the data")]
    Json,
    /// The data was not encrypted for this app.
    #[error(transparent)]
    Watermark(#[from] WatermarkError),
}

/// Opens an `encryptedData` that WeChat made for this app and session_key. Costs a few
/// microseconds; the caller bounds the length of the data.
///
/// # Errors
/// The first check that fails.
pub fn decrypt(
    session_key: &Secret<String>,
    appid: &str,
    encrypted_data: &str,
    iv: &str,
) -> Result<Map<String, Value>, DecryptError> {
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| DecryptError::Base64);
    let key = Secret::new(decode(session_key.expose())?);
    let iv = decode(iv)?;
    let mut data = decode(encrypted_data)?;
    let key: &[u8; 16] = key.expose().as_slice().try_into().map_err(|_| DecryptError::KeyLength)?;
    let iv: [u8; 16] = iv.try_into().map_err(|_| DecryptError::IvLength)?;
    if data.is_empty() || data.len() % 16 != 0 {
        return Err(DecryptError::DataLength);
    }
    let plain = Decryptor::<Aes128>::new(key.into(), &iv.into())
        .decrypt_padded_mut::<Pkcs7>(&mut data)
        .map_err(|_| DecryptError::Padding)?;
    let fields = json::object(plain).ok_or(DecryptError::Json)?;
    check_watermark(&fields, appid)?;
    Ok(fields)
}

/// Whether `signature` is what WeChat signed these bytes of `rawData` with: lower-case hex of
/// the SHA-1 of both. Takes the same time wherever they differ.
pub fn signature_fits(session_key: &Secret<String>, raw_data: &str, signature: &str) -> bool {
    let mut hash = Sha1::new();
    hash.update(raw_data.as_bytes());
    hash.update(session_key.expose().as_bytes());
    hex(&hash.finalize()).as_bytes().ct_eq(signature.as_bytes()).into()
}

/// The `signature` that WeChat wants with calls about a session_key: lower-case hex of
/// HMAC-SHA256 over the body, which is empty for a GET.
pub(super) fn sign(session_key: &Secret<String>, body: &[u8]) -> String {
    let key = session_key.expose().as_bytes();
    // A key of any length will do, so that there is always a MAC.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| hex(&mac.chain_update(body).finalize().into_bytes()))
        .unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use libaes::Cipher;
    use proptest::prelude::*;

    use super::*;

    fn vectors() -> Vec<Value> {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/vectors/wechat.json")).unwrap();
        file.get("vectors").unwrap().as_array().unwrap().clone()
    }

    fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
        vector.get(field).unwrap().as_str().unwrap()
    }

    fn class(error: DecryptError) -> &'static str {
        match error {
            DecryptError::Base64 => "base64",
            DecryptError::KeyLength => "key_length",
            DecryptError::IvLength => "iv_length",
            DecryptError::DataLength => "data_length",
            DecryptError::Padding => "padding",
            DecryptError::Json => "json",
            DecryptError::Watermark(WatermarkError::Missing) => "watermark_missing",
            DecryptError::Watermark(WatermarkError::Appid) => "watermark_appid",
        }
    }

    #[test]
    fn every_vector_has_the_result_that_stands_beside_it() {
        let mut seen = 0;
        for vector in vectors() {
            let good = vector.pointer("/expect/ok").unwrap().as_bool().unwrap();
            let id = text(&vector, "id");
            let key = || Secret::new(text(&vector, "session_key").to_owned());
            match text(&vector, "kind") {
                "decrypt" => {
                    let (data, iv) = (text(&vector, "encryptedData"), text(&vector, "iv"));
                    match decrypt(&key(), text(&vector, "appid"), data, iv) {
                        Ok(fields) => {
                            let plain = vector.pointer("/expect/json");
                            assert_eq!(Some(&Value::Object(fields)), plain, "{id}");
                        }
                        Err(error) => {
                            let wanted = vector.pointer("/expect/error").and_then(Value::as_str);
                            assert_eq!(Some(class(error)), wanted, "{id}");
                        }
                    }
                }
                "signature_sha1" => {
                    let (raw, signature) = (text(&vector, "rawData"), text(&vector, "signature"));
                    assert_eq!(signature_fits(&key(), raw, signature), good, "{id}");
                }
                "hmac_sha256" => {
                    let signed = sign(&key(), text(&vector, "body").as_bytes());
                    assert_eq!(signed == text(&vector, "signature"), good, "{id}");
                }
                // Message push does not pass through the gateway.
                "message_push_sha1" => continue,
                kind => assert_eq!(kind, "", "{id} is of a new kind"),
            }
            seen += 1;
        }
        assert_eq!(seen, 26);
    }

    #[test]
    fn a_signature_fits_whole_or_not_at_all() {
        let key = Secret::new("HyVFkGl5F5OQWJZZaNzBBg==".to_owned());
        let mut hash = Sha1::new();
        hash.update(b"{}HyVFkGl5F5OQWJZZaNzBBg==");
        let right = hex(&hash.finalize());
        assert!(signature_fits(&key, "{}", &right));
        assert!(!signature_fits(&key, "{} ", &right));
        assert!(!signature_fits(&key, "{}", &right.to_uppercase()));
        assert!(!signature_fits(&key, "{}", right.get(..39).unwrap()));
        assert!(!signature_fits(&key, "{}", ""));
    }

    /// What an independent AES and the words of the documentation make of the same bytes.
    fn oracle(key: &[u8; 16], iv: &[u8; 16], data: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut cipher = Cipher::new_128(key);
        cipher.set_auto_padding(false);
        let mut plain = cipher.cbc_decrypt(iv, data);
        let pad = usize::from(*plain.last().unwrap());
        if pad == 0 || pad > 16 || !plain.iter().rev().take(pad).all(|byte| *byte as usize == pad) {
            return Err("padding");
        }
        plain.truncate(plain.len() - pad);
        Ok(plain)
    }

    const APPID: &str = "wx4f4bc4dec97d474b";

    fn agrees(key: [u8; 16], iv: [u8; 16], data: &[u8]) -> Result<(), TestCaseError> {
        let expected = oracle(&key, &iv, data).and_then(|plain| {
            let value: Value = serde_json::from_slice(&plain).map_err(|_| "json")?;
            if !value.is_object() {
                return Err("json");
            }
            match value.pointer("/watermark/appid").and_then(Value::as_str) {
                None => Err("watermark_missing"),
                Some(APPID) => Ok(value),
                Some(_) => Err("watermark_appid"),
            }
        });
        let key = Secret::new(STANDARD.encode(key));
        let opened = decrypt(&key, APPID, &STANDARD.encode(data), &STANDARD.encode(iv));
        prop_assert_eq!(opened.map(Value::Object).map_err(class), expected);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

        /// Honest data, then one bit of data, key or iv flipped: both implementations must
        /// come to the same end, good or bad.
        #[test]
        fn it_agrees_with_another_aes_whatever_bit_is_flipped(
            key: [u8; 16],
            iv: [u8; 16],
            name in "\\PC{0,40}",
            appid in prop_oneof![9 => Just(APPID), 1 => Just("wx0000000000000000")],
            flip: usize,
        ) {
            let plain = serde_json::json!({"nickName": name, "watermark": {"appid": appid}});
            let data = Cipher::new_128(&key).cbc_encrypt(&iv, plain.to_string().as_bytes());
            agrees(key, iv, &data)?;

            let mut all = [data.as_slice(), &key, &iv].concat();
            let at = flip % (all.len() * 8);
            *all.get_mut(at / 8).unwrap() ^= 1 << (at % 8);
            let (data, rest) = all.split_at(data.len());
            let (key, iv) = rest.split_at(16);
            agrees(key.try_into().unwrap(), iv.try_into().unwrap(), data)?;
        }
    }
}
