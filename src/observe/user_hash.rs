//! What stands in the access log instead of an openid.
//!
//! A plain hash could be guessed back by whoever holds a list of openids, so the hash is keyed.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Makes the `user` field of the access log: HMAC-SHA256 of the openid, cut to 64 bits.
///
/// The same user has the same hash as long as the key is the same; without the key, nobody can
/// tell whose it is.
#[derive(Clone)]
pub struct UserHash(Hmac<Sha256>);

impl UserHash {
    /// `key` is secret: the signing key where all nodes and restarts shall agree on a user's
    /// hash, else random bytes of this process.
    pub fn new(key: &[u8]) -> Self {
        // The label keeps these hashes apart from every other use of the same key.
        let mut labelled = keyed(key);
        labelled.update(b"wxgate access log user");
        Self(keyed(&labelled.finalize().into_bytes()))
    }

    /// The hash of one openid.
    pub fn hash(&self, openid: &str) -> HashedUser {
        let mut mac = self.0.clone();
        mac.update(openid.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        HashedUser(text)
    }
}

impl fmt::Debug for UserHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[UserHash]")
    }
}

/// 16 hexadecimal digits that stand for one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedUser([u8; 16]);

impl HashedUser {
    /// The digits, lower case.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length; the fallback is there for the type only.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&[0; 64].into()))
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        10.. => b'a' + nibble - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_one_hash_per_key_and_it_is_sixteen_hex_digits() {
        let first = UserHash::new(b"key one");
        let second = UserHash::new(b"key two");
        let hash = first.hash("oAlice-000000000000000000001");
        assert_eq!(hash, first.hash("oAlice-000000000000000000001"));
        assert_eq!(hash, UserHash::new(b"key one").hash("oAlice-000000000000000000001"));
        assert_ne!(hash, first.hash("oAlice-000000000000000000002"));
        assert_ne!(hash, second.hash("oAlice-000000000000000000001"));
        assert!(hash.as_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    }

    #[test]
    fn the_hash_is_neither_the_plain_nor_the_unlabelled_one() {
        let plain = <Sha256 as sha2::Digest>::digest(b"oAlice-000000000000000000001");
        let mut unlabelled = keyed(b"key");
        unlabelled.update(b"oAlice-000000000000000000001");
        let hash = UserHash::new(b"key").hash("oAlice-000000000000000000001");
        for other in [plain, unlabelled.finalize().into_bytes()] {
            let hex: String = other.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            assert_ne!(hash.as_bytes(), hex.as_bytes());
        }
    }
}
