//! Tokens made by hand, good and forged, with nothing of the gateway's own code.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::wechat::{APPID, openid_of};

/// The `kid` of the key that every test gateway signs with unless it says otherwise.
pub(crate) const KID: &str = "test-1";
/// That key.
pub(crate) const KEY: &str = "signing-key-8c1f0e7d5b3a492617e0f4d2";

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a caller's own clock")]
pub(crate) fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs() as i64
}

/// A token that is good unless it is changed.
#[derive(Clone, Debug)]
pub(crate) struct Forge {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    key: Vec<u8>,
}

impl Forge {
    /// A good token of this user.
    pub(crate) fn of(user: &str) -> Self {
        let now = unix_seconds();
        Self {
            header: json!({ "alg": "HS256", "typ": "at+jwt", "kid": KID }),
            claims: json!({
                "iss": "wxgate",
                "sub": openid_of(user),
                "aud": APPID,
                "sid": format!("sid-{user:_<18}"),
                "iat": now,
                "exp": now + 3600,
                "jti": format!("jti-{user:_<18}"),
            }),
            key: KEY.as_bytes().to_vec(),
        }
    }

    /// With a header parameter set, or taken away by `null`.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header, name, value.into());
        self
    }

    /// With a claim set, or taken away by `null`.
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }

    /// Signed with this key.
    pub(crate) fn key(mut self, key: &[u8]) -> Self {
        self.key = key.to_vec();
        self
    }

    /// What is signed.
    pub(crate) fn signing_input(&self) -> String {
        encode(self.header.to_string(), self.claims.to_string())
    }

    /// The token, signed with HMAC-SHA256.
    pub(crate) fn token(&self) -> String {
        sign(&self.signing_input(), &self.key)
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    let object = object.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(name);
    } else {
        object.insert(name.to_owned(), value);
    }
}

/// The two first parts of a token.
pub(crate) fn encode(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims))
}

/// The whole token with an HMAC-SHA256.
pub(crate) fn sign(input: &str, key: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(input.as_bytes());
    format!("{input}.{}", BASE64URL.encode(mac.finalize().into_bytes()))
}

/// Header and claims of a token, unverified.
pub(crate) fn decode(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "not three parts: {token}");
    let part =
        |index: usize| serde_json::from_slice(&BASE64URL.decode(parts[index]).unwrap()).unwrap();
    (part(0), part(1))
}

/// Whether the token's HMAC is of this key.
pub(crate) fn is_signed_by(token: &str, key: &str) -> bool {
    let (input, _) = token.rsplit_once('.').unwrap();
    sign(input, key.as_bytes()) == token
}
