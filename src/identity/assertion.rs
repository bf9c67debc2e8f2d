//! A signed statement about the caller of one request, for backends that want proof that the gateway
//! said so: an EdDSA JWT, good for a minute, for one upstream, method and path.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Identity;
use crate::config;

/// Seconds that an assertion is good.
const LIFE: u64 = 60;
/// Its `typ`: another than that of session tokens, so that neither is taken for the other.
const TYPE: &str = "wxgate-assertion+jwt";

/// The key is no Ed25519 private key in PKCS#8.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("identity.assertion_key is not a PEM of an Ed25519 private key in PKCS#8")]
pub struct NotEd25519;

/// What signs assertions.
pub struct Assertions {
    name: String,
    key: EncodingKey,
    header: Header,
    key_set: String,
}

/// What an assertion is about, besides its caller.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The upstream's name: `aud`.
    pub upstream: &'a str,
    /// The method of the request.
    pub method: &'a str,
    /// Its path as the upstream gets it, without the query.
    pub path: &'a str,
    /// Unix seconds.
    pub now: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    appid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    sid: &'a str,
    method: &'a str,
    path: &'a str,
    iat: u64,
    exp: u64,
}

impl fmt::Debug for Assertions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Assertions").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Assertions {
    /// For a configuration; `None` where no header for them is named.
    ///
    /// # Errors
    /// [`NotEd25519`] for a key that is none.
    pub fn new(config: &config::Config) -> Result<Option<Self>, NotEd25519> {
        let Some(name) = &config.identity.assertion else { return Ok(None) };
        let read = |pem: &str| SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| NotEd25519);
        let signing_keys = config.session.signing_keys.iter().map(|key| &key.secret);
        let (pem, key) = match &config.identity.assertion_key {
            Some(pem) => (pem, read(pem.expose())?),
            None => signing_keys
                .filter_map(|pem| Some((pem, read(pem.expose()).ok()?)))
                .next()
                .ok_or(NotEd25519)?,
        };
        let public = URL_SAFE_NO_PAD.encode(key.verifying_key().to_bytes());
        // RFC 7638: the hash of the required members, in this order.
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(members));
        let key_set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{public}","kid":"{kid}","use":"sig","alg":"EdDSA"}}]}}"#
        );
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid);
        let key = EncodingKey::from_ed_pem(pem.expose().trim().as_bytes());
        Ok(Some(Self { name: name.clone(), key: key.map_err(|_| NotEd25519)?, header, key_set }))
    }

    /// The public keys as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> &str {
        &self.key_set
    }

    /// The header that tells who is calling, and its value. Costs some 20 microseconds.
    pub fn vouch(&self, who: &Identity, about: About<'_>) -> Option<(&str, String)> {
        let claims = Claims {
            iss: "wxgate",
            aud: about.upstream,
            sub: who.openid.as_str(),
            appid: who.appid.as_str(),
            unionid: who.unionid.as_ref().map(super::UnionId::as_str),
            sid: &who.sid,
            method: about.method,
            path: about.path,
            iat: about.now,
            exp: about.now.saturating_add(LIFE),
        };
        Some((&self.name, encode(&self.header, &claims, &self.key).ok()?))
    }
}
