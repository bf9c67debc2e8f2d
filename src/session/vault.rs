//! The vault: what must not be read in a store (session_key, cookies) is sealed before it
//! enters one.
//!
//! XChaCha20-Poly1305 under a key derived from a signing key. The envelope names that key, so
//! that what an older key sealed can be read while it is listed; the session and the field are
//! bound in, so that no envelope can be moved to another.
//!
//! Envelope: version (1), length of the key's id, the id, nonce (24 bytes), ciphertext and tag.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keys::{Key, KeySet};
use crate::secret::Secret;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// What is sealed; a name for each, so that one cannot be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// WeChat's session_key.
    SessionKey,
    /// What a browser keeps while its user is at WeChat's login page.
    Visit,
    /// The cookies of this upstream.
    Jar(&'a str),
}

/// The cipher of one signing key. Deriving it by HKDF keeps the two uses apart: neither key
/// tells anything about the other.
pub(super) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    /// Derives the cipher from a signing key's secret bytes.
    pub(super) fn derive(secret: &[u8]) -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        // 32 bytes are always within what HKDF can give.
        let expanded = Hkdf::<Sha256>::new(None, secret).expand(b"wxgate vault 1", &mut *key);
        debug_assert!(expanded.is_ok());
        Self(XChaCha20Poly1305::new((&*key).into()))
    }
}

/// Seals a value of a session with the key that signs. `None` if the system gives no random
/// bytes.
pub(super) fn seal(keys: &KeySet, sid: &str, field: Field<'_>, clear: &[u8]) -> Option<Vec<u8>> {
    let key = keys.signer();
    let mut nonce = [0_u8; NONCE_BYTES];
    getrandom::fill(&mut nonce).ok()?;
    let aad = bound_in(sid, field);
    let payload = Payload { msg: clear, aad: &aad };
    let sealed = key.sealer().0.encrypt(&XNonce::from(nonce), payload).ok()?;
    let mut envelope = vec![VERSION, u8::try_from(key.id().len()).ok()?];
    envelope.extend_from_slice(key.id().as_bytes());
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(&sealed);
    Some(envelope)
}

/// Opens a value of a session. `None` if the key that sealed it is no longer listed, or if it
/// is not what was sealed for this session and field.
pub(super) fn open(
    keys: &KeySet,
    sid: &str,
    field: Field<'_>,
    envelope: &[u8],
) -> Option<Secret<Vec<u8>>> {
    let (key, rest) = sealed_by(keys, envelope)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let aad = bound_in(sid, field);
    let payload = Payload { msg: sealed, aad: &aad };
    key.sealer().0.decrypt(&XNonce::from(*nonce), payload).ok().map(Secret::new)
}

/// Whether an envelope was sealed with another key than the one that signs, so that it must be
/// sealed anew before that key is taken off the list.
pub(super) fn is_of_older_key(keys: &KeySet, envelope: &[u8]) -> bool {
    sealed_by(keys, envelope).is_some_and(|(key, _)| key.id() != keys.signer().id())
}

fn sealed_by<'a, 'b>(keys: &'a KeySet, envelope: &'b [u8]) -> Option<(&'a Key, &'b [u8])> {
    let (&[version, length], rest) = envelope.split_first_chunk()?;
    let (id, rest) = rest.split_at_checked(length.into())?;
    let key = keys.by_id(std::str::from_utf8(id).ok()?)?;
    (version == VERSION).then_some((key, rest))
}

/// The associated data: each part after its length, so that no two pairs read alike.
fn bound_in(sid: &str, field: Field<'_>) -> Vec<u8> {
    let (name, upstream) = match field {
        Field::SessionKey => ("session_key", ""),
        Field::Visit => ("visit", ""),
        Field::Jar(upstream) => ("jar", upstream),
    };
    let mut data = Vec::with_capacity(sid.len() + name.len() + upstream.len() + 24);
    for part in [sid, name, upstream] {
        data.extend_from_slice(&(part.len() as u64).to_be_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::config::SigningKey;
    use crate::session::{Algorithm, keygen};

    fn key(id: &str, algorithm: Algorithm) -> SigningKey {
        SigningKey { id: id.to_owned(), secret: keygen(algorithm).unwrap() }
    }

    fn keys(list: &[SigningKey]) -> KeySet {
        KeySet::configured(list).unwrap().unwrap()
    }

    #[test]
    fn what_was_sealed_opens_for_its_own_session_and_field_alone() {
        for algorithm in [Algorithm::Hs256, Algorithm::EdDsa] {
            let keys = keys(&[key("k1", algorithm)]);
            let sealed = seal(&keys, "s1", Field::Jar("php"), b"PHPSESSID=1").unwrap();
            let opened = open(&keys, "s1", Field::Jar("php"), &sealed).unwrap();
            assert_eq!(opened.expose(), b"PHPSESSID=1");
            for (sid, field) in [
                ("s2", Field::Jar("php")),
                ("s1", Field::Jar("java")),
                ("s1", Field::SessionKey),
                ("s", Field::Jar("1php")),
            ] {
                assert!(open(&keys, sid, field, &sealed).is_none(), "{sid} {field:?}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let keys = keys(&[key("k1", Algorithm::Hs256)]);
        let sealed = seal(&keys, "s1", Field::SessionKey, b"key").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut broken = sealed.clone();
                *broken.get_mut(at).unwrap() ^= 1 << bit;
                assert!(open(&keys, "s1", Field::SessionKey, &broken).is_none(), "{at}.{bit}");
            }
            let cut = sealed.get(..at).unwrap();
            assert!(open(&keys, "s1", Field::SessionKey, cut).is_none(), "{at}");
        }
    }

    #[test]
    fn an_older_key_opens_what_it_sealed_while_it_is_listed() {
        let (old, new) = (key("k1", Algorithm::Hs256), key("k2", Algorithm::EdDsa));
        let before = keys(std::slice::from_ref(&old));
        let sealed = seal(&before, "s1", Field::SessionKey, b"key").unwrap();
        assert!(!is_of_older_key(&before, &sealed));
        let rotated = keys(&[new.clone(), old]);
        assert!(open(&rotated, "s1", Field::SessionKey, &sealed).is_some());
        assert!(is_of_older_key(&rotated, &sealed));
        let alone = keys(&[new]);
        assert!(open(&alone, "s1", Field::SessionKey, &sealed).is_none());
        assert!(!is_of_older_key(&alone, &sealed));
    }

    #[test]
    fn equal_values_are_never_sealed_alike_and_never_in_clear() {
        let keys = keys(&[key("k1", Algorithm::Hs256)]);
        let first = seal(&keys, "s1", Field::SessionKey, b"tiihtNczf5v6AKRyjwEUhQ==").unwrap();
        let second = seal(&keys, "s1", Field::SessionKey, b"tiihtNczf5v6AKRyjwEUhQ==").unwrap();
        assert_ne!(first, second);
        assert!(!first.windows(8).any(|window| window == b"tiihtNcz"));
    }
}
