//! The keys that sign tokens: the first of `session.signing_keys` signs, all of them verify.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey as Ed25519;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use hmac::{Hmac, Mac};
use jsonwebtoken::crypto;
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::Sha256;
use zeroize::Zeroize;

use super::vault::Sealer;
use crate::config;
use crate::secret::Secret;

/// An HMAC key must be as long as the hash (RFC 7518, section 3.2).
const LEAST_HMAC_BYTES: usize = 32;

/// Why a signing key cannot be used. Never holds the key.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// An HMAC key of fewer than 32 bytes, white space around it not counted.
    #[error(
        "signing key `{id}` has {bytes} bytes; at least 32 are needed (`wxgate keygen` makes one)"
    )]
    Short {
        /// Its `id`.
        id: String,
        /// Its length.
        bytes: usize,
    },
    /// A key that stands in a public document, word for word.
    #[error("signing key `{id}` is a published example (`wxgate keygen` makes one of your own)")]
    Example {
        /// Its `id`.
        id: String,
    },
    /// A PEM of something else than an Ed25519 private key in PKCS#8.
    #[error("signing key `{id}` is a PEM, but not an Ed25519 private key in PKCS#8")]
    NotEd25519 {
        /// Its `id`.
        id: String,
    },
    /// An `id` that cannot stand in a token's header.
    #[error("a signing key's id must be 1 to 64 letters, digits, `.`, `_` or `-`")]
    Id,
    /// Two keys of one `id`.
    #[error("two signing keys have the id `{id}`")]
    Duplicate {
        /// The `id`.
        id: String,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for a key: {0}")]
    Random(getrandom::Error),
    /// A fresh Ed25519 key could not be written as PEM.
    #[error("an Ed25519 key could not be written as PEM")]
    Pem,
    /// The key file beside the store cannot be read or made.
    #[error("the key file `{}` beside the session store: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// No key is configured, and all nodes of this store need the same.
    #[error("session.signing_keys names no key; with redis all nodes need the same")]
    Needed,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: one secret signs and verifies.
    Hs256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The token header's `alg`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Makes a fresh signing key as text for a key file: 32 random bytes in base64url for HS256, a
/// PKCS#8 PEM for EdDSA.
///
/// # Errors
/// [`KeyError::Random`] if the system gives no random bytes.
pub fn keygen(algorithm: Algorithm) -> Result<Secret<String>, KeyError> {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).map_err(KeyError::Random)?;
    let text = match algorithm {
        Algorithm::Hs256 => Ok(Secret::new(URL_SAFE_NO_PAD.encode(seed))),
        // Without the public key, which makes it PKCS#8 version 1: version 2 (RFC 8410, section 7)
        // is more than OpenSSL 3.0, Node and Python's cryptography read.
        Algorithm::EdDsa => KeypairBytes { secret_key: seed, public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .map(|pem| Secret::new(pem.to_string()))
            .map_err(|_| KeyError::Pem),
    };
    seed.zeroize();
    text
}

/// One key, prepared: nothing of its schedule is computed again per token.
pub(super) struct Key {
    id: String,
    algorithm: Algorithm,
    /// The header of every token that this key signs, as it stands in the token.
    header: String,
    material: Material,
    sealer: Sealer,
}

enum Material {
    Hs256(Hmac<Sha256>),
    EdDsa { sign: EncodingKey, verify: DecodingKey },
}

impl Key {
    /// Reads a key's text: a PKCS#8 PEM of Ed25519, or else the HMAC key itself without the
    /// white space around it.
    fn parse(id: &str, secret: &Secret<String>) -> Result<Self, KeyError> {
        check_id(id)?;
        let text = secret.expose().trim();
        // Any PEM: the text of a public key must never become an HMAC key.
        let (algorithm, (material, sealer)) = if text.starts_with("-----BEGIN") {
            let key = ed25519(text).ok_or_else(|| KeyError::NotEd25519 { id: id.into() })?;
            (Algorithm::EdDsa, key)
        } else {
            (Algorithm::Hs256, (hmac_key(id, text)?, Sealer::derive(text.as_bytes())))
        };
        let header = format!(r#"{{"alg":"{}","typ":"at+jwt","kid":"{id}"}}"#, algorithm.name());
        Ok(Self {
            id: id.into(),
            algorithm,
            header: URL_SAFE_NO_PAD.encode(header),
            material,
            sealer,
        })
    }

    /// The token header's `kid`.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The cipher for what stands in a store.
    pub(super) const fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// How it signs; nothing in a token can choose another way.
    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The first part of every token that this key signs.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    /// The third part of a token whose first two, with the dot between, are `message`. `None`
    /// only if the key were unusable, which `parse` rules out.
    pub(super) fn sign(&self, message: &str) -> Option<String> {
        match &self.material {
            Material::Hs256(prepared) => {
                let mut mac = prepared.clone();
                mac.update(message.as_bytes());
                Some(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
            }
            Material::EdDsa { sign, .. } => {
                crypto::sign(message.as_bytes(), sign, jsonwebtoken::Algorithm::EdDSA).ok()
            }
        }
    }

    /// Whether `signature`, the third part of a token, is this key's for `message`. In constant
    /// time for the bytes of a MAC; base64url that is not canonical is refused.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        match &self.material {
            Material::Hs256(prepared) => {
                let mut given = [0_u8; 33];
                let Ok(length) = URL_SAFE_NO_PAD.decode_slice(signature, &mut given) else {
                    return false;
                };
                let mut mac = prepared.clone();
                mac.update(message.as_bytes());
                given.get(..length).is_some_and(|given| mac.verify_slice(given).is_ok())
            }
            Material::EdDsa { verify, .. } => crypto::verify(
                signature,
                message.as_bytes(),
                verify,
                jsonwebtoken::Algorithm::EdDSA,
            )
            .unwrap_or(false),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

fn check_id(id: &str) -> Result<(), KeyError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&id.len()) && id.bytes().all(plain) { Ok(()) } else { Err(KeyError::Id) }
}

fn ed25519(pem: &str) -> Option<(Material, Sealer)> {
    let key = Ed25519::from_pkcs8_pem(pem).ok()?;
    let der = key.to_pkcs8_der().ok()?;
    let material = Material::EdDsa {
        sign: EncodingKey::from_ed_der(der.as_bytes()),
        verify: DecodingKey::from_ed_der(key.verifying_key().as_bytes()),
    };
    Some((material, Sealer::derive(key.as_bytes())))
}

fn hmac_key(id: &str, text: &str) -> Result<Material, KeyError> {
    let short = || KeyError::Short { id: id.into(), bytes: text.len() };
    if text.len() < LEAST_HMAC_BYTES {
        return Err(short());
    }
    if config::PUBLISHED_KEYS.contains(&text) {
        return Err(KeyError::Example { id: id.into() });
    }
    // HMAC takes keys of any length; the error exists for other constructions.
    Hmac::new_from_slice(text.as_bytes()).map(Material::Hs256).map_err(|_| short())
}

/// The keys in use; never empty.
#[derive(Debug)]
pub(super) struct KeySet {
    signer: Key,
    /// Listed only to verify what they signed before.
    older: Vec<Key>,
}

impl KeySet {
    /// The keys as configured; `None` if none is.
    pub(super) fn configured(keys: &[config::SigningKey]) -> Result<Option<Self>, KeyError> {
        let Some((first, rest)) = keys.split_first() else { return Ok(None) };
        let mut set = Self { signer: Key::parse(&first.id, &first.secret)?, older: Vec::new() };
        for key in rest {
            if set.by_id(&key.id).is_some() {
                return Err(KeyError::Duplicate { id: key.id.clone() });
            }
            set.older.push(Key::parse(&key.id, &key.secret)?);
        }
        Ok(Some(set))
    }

    /// One key that only this process knows and that is gone when it ends.
    pub(super) fn random() -> Result<Self, KeyError> {
        let mut id = [0_u8; 6];
        getrandom::fill(&mut id).map_err(KeyError::Random)?;
        Self::only(&URL_SAFE_NO_PAD.encode(id), &keygen(Algorithm::Hs256)?)
    }

    /// This one key.
    pub(super) fn only(id: &str, secret: &Secret<String>) -> Result<Self, KeyError> {
        Ok(Self { signer: Key::parse(id, secret)?, older: Vec::new() })
    }

    /// The key that signs.
    pub(super) const fn signer(&self) -> &Key {
        &self.signer
    }

    /// The key of this `kid`.
    pub(super) fn by_id(&self, id: &str) -> Option<&Key> {
        self.all().find(|key| key.id == id)
    }

    /// The key whose tokens begin with exactly this header.
    pub(super) fn by_header(&self, header: &str) -> Option<&Key> {
        self.all().find(|key| key.header == header)
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.signer).chain(&self.older)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn parse(text: &str) -> Result<Key, KeyError> {
        Key::parse("k1", &Secret::new(text.to_owned()))
    }

    #[test]
    fn a_key_made_by_keygen_signs_what_it_verifies() {
        for algorithm in [Algorithm::Hs256, Algorithm::EdDsa] {
            let key = parse(keygen(algorithm).unwrap().expose()).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            let signature = key.sign("a.b").unwrap();
            assert!(key.verifies("a.b", &signature));
            assert!(!key.verifies("a.c", &signature));
            assert!(!key.verifies("a.b", &format!("{signature}=")));
            assert!(!key.verifies("a.b", &format!("{signature}AAAA")));
            assert!(!key.verifies("a.b", ""));
        }
    }

    /// What OpenSSL 3.0 and all that is built on it reads (RFC 5958: version 0, no public key).
    #[test]
    fn an_ed25519_key_made_by_keygen_is_pkcs8_of_version_1_and_both_versions_are_taken() {
        let pem = keygen(Algorithm::EdDsa).unwrap();
        let body: String = pem.expose().lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body).unwrap();
        let head = [0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 34, 4, 32];
        let seed = der.strip_prefix(&head).unwrap();
        assert_eq!(seed.len(), 32);
        let key = Ed25519::try_from(seed).unwrap();
        let second = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        assert!(second.len() > pem.expose().len());
        let (one, two) = (parse(pem.expose()).unwrap(), parse(&second).unwrap());
        assert!(two.verifies("a.b", &one.sign("a.b").unwrap()));
    }

    #[test]
    fn keygen_never_repeats_itself() {
        let first = keygen(Algorithm::Hs256).unwrap();
        assert_eq!(first.expose().len(), 43);
        assert_ne!(first.expose(), keygen(Algorithm::Hs256).unwrap().expose());
    }

    #[test]
    fn white_space_around_an_hmac_key_is_no_part_of_it() {
        let bare = parse("0123456789abcdefghijklmnopqrstuv").unwrap();
        let padded = parse(" \n0123456789abcdefghijklmnopqrstuv\r\n").unwrap();
        assert_eq!(bare.sign("a.b"), padded.sign("a.b"));
        let spaces = parse(&format!("{}{}", "x".repeat(31), " ".repeat(9)));
        assert_eq!(spaces.unwrap_err(), KeyError::Short { id: "k1".into(), bytes: 31 });
    }

    #[test]
    fn a_short_key_an_example_and_a_foreign_pem_are_refused() {
        assert_eq!(parse("").unwrap_err(), KeyError::Short { id: "k1".into(), bytes: 0 });
        for published in config::PUBLISHED_KEYS {
            assert_eq!(parse(published).unwrap_err(), KeyError::Example { id: "k1".into() });
        }
        assert!(parse("please-CHANGE-ME-before-production-0123456789").is_ok(), "but unwise");
        for foreign in [
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert_eq!(parse(foreign).unwrap_err(), KeyError::NotEd25519 { id: "k1".into() });
        }
    }

    #[test]
    fn ids_are_plain_and_appear_once() {
        let key = |id: &str| config::SigningKey {
            id: id.to_owned(),
            secret: keygen(Algorithm::Hs256).unwrap(),
        };
        for id in ["", "a b", "a\"b", "ключ", &"k".repeat(65)] {
            assert_eq!(KeySet::configured(&[key(id)]).unwrap_err(), KeyError::Id, "{id}");
        }
        let twice = KeySet::configured(&[key("a"), key("b"), key("a")]).unwrap_err();
        assert_eq!(twice, KeyError::Duplicate { id: "a".into() });
        assert!(KeySet::configured(&[]).unwrap().is_none());
        let set = KeySet::configured(&[key("a"), key("b")]).unwrap().unwrap();
        assert_eq!(set.signer().id, "a");
        assert_eq!(set.by_id("b").unwrap().id, "b");
    }

    #[test]
    fn debug_shows_no_key() {
        let key = parse("0123456789abcdefghijklmnopqrstuv").unwrap();
        assert_eq!(format!("{key:?}"), r#"Key { id: "k1", .. }"#);
    }
}
