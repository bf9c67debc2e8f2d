//! Encrypt and sign as WeChat does. Written from WeChat's documents and its sample values, apart
//! from what the gateway decrypts with, so that each is a judge of the other.

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::Encryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockEncryptMut as _, KeyIvInit as _};
use hmac::{Hmac, Mac as _};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::answer::random;

/// An encryptedData and its iv, in base64.
pub(super) struct Sealed {
    pub(super) encrypted_data: String,
    pub(super) iv: String,
}

/// AES-128-CBC with PKCS#7 under a session_key and a fresh iv; `None` unless the key is
/// 16 bytes in base64.
pub(super) fn seal(session_key: &str, plain: &str) -> Option<Sealed> {
    seal_with(session_key, random(), plain)
}

fn seal_with(session_key: &str, iv: [u8; 16], plain: &str) -> Option<Sealed> {
    let key: [u8; 16] = STANDARD.decode(session_key).ok()?.try_into().ok()?;
    // Padding fills the last block, or adds a whole one.
    let mut buffer = vec![0; (plain.len() / 16 + 1) * 16];
    buffer.get_mut(..plain.len())?.copy_from_slice(plain.as_bytes());
    let sealed = Encryptor::<Aes128>::new(&key.into(), &iv.into())
        .encrypt_padded_mut::<Pkcs7>(&mut buffer, plain.len())
        .ok()?;
    Some(Sealed { encrypted_data: STANDARD.encode(sealed), iv: STANDARD.encode(iv) })
}

/// The `signature` of a rawData: SHA-1 over it and the session_key's base64 text.
pub(super) fn signature(session_key: &str, raw_data: &str) -> String {
    hex(&Sha1::digest(format!("{raw_data}{session_key}")))
}

/// Whether `signature` is HMAC-SHA256 over nothing, with the session_key's base64 text.
pub(super) fn signs_nothing(session_key: &str, signature: &str) -> bool {
    mac(session_key, b"").is_some_and(|right| right == signature)
}

fn mac(session_key: &str, body: &[u8]) -> Option<String> {
    let mac = Hmac::<Sha256>::new_from_slice(session_key.as_bytes()).ok()?;
    Some(hex(&mac.chain_update(body).finalize().into_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn it_makes_the_very_bytes_that_wechat_made() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/vectors/wechat.json")).unwrap();
        let mut seen = 0;
        for vector in file.get("vectors").unwrap().as_array().unwrap() {
            let text = |field: &str| vector.get(field).unwrap().as_str().unwrap();
            let plain = vector.pointer("/expect/plaintext").and_then(Value::as_str);
            let good = vector.pointer("/expect/ok").unwrap().as_bool().unwrap();
            match (text("kind"), plain) {
                ("decrypt", Some(plain)) => {
                    let iv = STANDARD.decode(text("iv")).unwrap().try_into().unwrap();
                    let sealed = seal_with(text("session_key"), iv, plain).unwrap();
                    assert_eq!(sealed.encrypted_data, text("encryptedData"), "{}", text("id"));
                }
                ("signature_sha1", _) => {
                    let made = signature(text("session_key"), text("rawData"));
                    assert_eq!(made == text("signature"), good, "{}", text("id"));
                }
                ("hmac_sha256", _) => {
                    let made = mac(text("session_key"), text("body").as_bytes()).unwrap();
                    assert_eq!(made == text("signature"), good, "{}", text("id"));
                }
                _ => continue,
            }
            seen += 1;
        }
        assert!(seen >= 12, "{seen}");
    }
}
