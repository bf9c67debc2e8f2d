//! The token: a JWT that says who is calling, and the one place that decides whether it is good.
//!
//! It is checked on every request, so that an HMAC key is prepared once, the header is compared
//! as bytes with the one that we would write, and claims are borrowed until they are believed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::OnceCell;

use super::keys::{Key, KeySet};
use crate::identity::{AppId, Identity, OpenId, Phone, UnionId};
use crate::observe::{HashedUser, UserHash};
use crate::secret::Secret;

/// Longer ones are refused unread.
pub(super) const MOST_BYTES: usize = 4 * 1024;
/// What base64url of [`MOST_BYTES`] can hold at most.
const MOST_CLAIMS_BYTES: usize = MOST_BYTES / 4 * 3;
/// How far another node's clock may run ahead of ours, in seconds.
const MOST_AHEAD: u64 = 60;
const ISSUER: &str = "wxgate";
const TYPE: &str = "at+jwt";

/// Why a token is not accepted. The client gets the same status for all of them.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Malformed, forged, of an unknown key, of another issuer or of an app that is not
    /// configured.
    #[error("the token is invalid")]
    Invalid,
    /// Good once, but its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its session was ended.
    #[error("the token was revoked")]
    Revoked,
    /// Whether its session was ended cannot be known now, and `session.on_store_error` is deny.
    /// Says nothing about the token: the client tries again later.
    #[error("the session store cannot be read")]
    Unreadable,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Who is calling.
    pub identity: Identity,
    /// What the session may do beyond being logged in, e.g. `phone`.
    pub scope: Vec<String>,
    /// When the token was made, in Unix seconds.
    pub issued_at: u64,
    /// From when on it is no longer good, in Unix seconds.
    pub expires_at: u64,
    /// The phone number of the session, once it was looked for; see `Sessions::phone`. Here, so
    /// that it is forgotten with the token, and another token looks anew.
    pub(super) phone: OnceCell<Option<Phone>>,
    /// Who it is in the access log, once asked for.
    pub(super) hashed: OnceLock<HashedUser>,
}

impl Verified {
    /// The user as the access log names them. `hash` is the one of the process.
    pub fn hashed(&self, hash: &UserHash) -> HashedUser {
        *self.hashed.get_or_init(|| hash.hash(self.identity.openid.as_str()))
    }
}

/// By what a token is judged.
pub(super) struct Rules<'a> {
    pub(super) keys: &'a KeySet,
    /// The configured apps by appid.
    pub(super) apps: &'a HashMap<String, AppId>,
    /// The longest that a token may be meant to live.
    pub(super) most_lifetime: Duration,
    /// Unix seconds.
    pub(super) now: u64,
}

/// The claims as they are written; absent ones are left out.
#[derive(Serialize)]
struct Written<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    sid: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

/// The claims as they are read. A missing or repeated one, one of another type and a null are
/// errors of the parser; names that are not ours are passed over, as RFC 7519 asks.
#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow)]
    aud: Cow<'a, str>,
    #[serde(borrow)]
    sid: Cow<'a, str>,
    iat: u64,
    exp: u64,
    #[serde(borrow)]
    jti: Cow<'a, str>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    unionid: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    scope: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An optional claim may be absent, but not null.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A header that is not byte for byte ours may still be another writer's with one of our keys;
/// any other parameter (`crit`, `jwk`, `zip`, `b64` …) is refused, since none may choose
/// anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    typ: Cow<'a, str>,
    #[serde(borrow)]
    kid: Cow<'a, str>,
}

/// Writes and signs the token that says `verified`, with a fresh id. `None` only if the key
/// were unusable, which reading it ruled out.
pub(super) fn sign(key: &Key, verified: &Verified, jti: &str) -> Option<Secret<String>> {
    let identity = &verified.identity;
    let claims = Written {
        iss: ISSUER,
        sub: identity.openid.as_str(),
        aud: identity.appid.as_str(),
        sid: &identity.sid,
        iat: verified.issued_at,
        exp: verified.expires_at,
        jti,
        unionid: identity.unionid.as_ref().map(UnionId::as_str),
        scope: verified.scope.join(" "),
    };
    let claims = serde_json::to_vec(&claims).ok()?;
    let mut token = String::with_capacity(key.header().len() + claims.len() * 4 / 3 + 96);
    token.push_str(key.header());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.sign(&token)?;
    token.push('.');
    token.push_str(&signature);
    Some(Secret::new(token))
}

/// Judges a token by everything but revocation.
///
/// # Errors
/// [`TokenError::Invalid`], or [`TokenError::Expired`] for one that is good but for its time.
pub(super) fn verify(token: &str, rules: &Rules<'_>) -> Result<Verified, TokenError> {
    if token.len() > MOST_BYTES {
        return Err(TokenError::Invalid);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
    // A further dot would stand in the header and is no character of base64url.
    let (header, payload) = message.rsplit_once('.').ok_or(TokenError::Invalid)?;
    let key = key_of(header, rules.keys).ok_or(TokenError::Invalid)?;
    if !key.verifies(message, signature) {
        return Err(TokenError::Invalid);
    }
    let mut buffer = [0_u8; MOST_CLAIMS_BYTES];
    let length =
        URL_SAFE_NO_PAD.decode_slice(payload, &mut buffer).map_err(|_| TokenError::Invalid)?;
    let claims = buffer.get(..length).ok_or(TokenError::Invalid)?;
    judge(object(claims).ok_or(TokenError::Invalid)?, rules)
}

/// The fields of a JSON object. serde would take an array of their values for it too.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

/// The key that a header names, if it is one that this key may have written.
fn key_of<'a>(header: &str, keys: &'a KeySet) -> Option<&'a Key> {
    if let Some(key) = keys.by_header(header) {
        return Some(key);
    }
    let decoded = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Header<'_> = object(&decoded)?;
    let key = keys.by_id(&header.kid)?;
    (header.typ == TYPE && header.alg == key.algorithm().name()).then_some(key)
}

fn judge(claims: Read<'_>, rules: &Rules<'_>) -> Result<Verified, TokenError> {
    if claims.iss != ISSUER || claims.jti.is_empty() || !is_sid(&claims.sid) {
        return Err(TokenError::Invalid);
    }
    let openid = OpenId::parse(&claims.sub).map_err(|_| TokenError::Invalid)?;
    let unionid = match claims.unionid {
        Some(Text(unionid)) => Some(UnionId::parse(&unionid).map_err(|_| TokenError::Invalid)?),
        None => None,
    };
    let appid = rules.apps.get(&*claims.aud).ok_or(TokenError::Invalid)?.clone();
    let ahead = rules.now.saturating_add(MOST_AHEAD);
    if claims.iat > ahead || claims.nbf.is_some_and(|nbf| nbf > rules.now) {
        return Err(TokenError::Invalid);
    }
    // Before the lifetime: a max_age that was shortened meanwhile is none of its client's doing.
    if rules.now >= claims.exp {
        return Err(TokenError::Expired);
    }
    let lifetime = claims.exp.checked_sub(claims.iat).ok_or(TokenError::Invalid)?;
    if lifetime > rules.most_lifetime.as_secs() {
        return Err(TokenError::Invalid);
    }
    let scope = claims.scope.map_or_else(Vec::new, |Text(scope)| {
        scope.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    });
    let identity = Identity { openid, appid, unionid, sid: Arc::from(&*claims.sid) };
    Ok(Verified {
        identity,
        scope,
        issued_at: claims.iat,
        expires_at: claims.exp,
        phone: OnceCell::new(),
        hashed: OnceLock::new(),
    })
}

/// The id becomes a header value and a store's key, so that nothing else may pass.
pub(super) fn is_sid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Whether `bearer` claims to be a token of ours: its header names our type and a key of ours.
/// Says nothing about its signature; it decides only what is taken off before forwarding, so
/// that a header which no good token has counts too.
pub(super) fn is_ours(bearer: &str, keys: &KeySet) -> bool {
    let Some((header, _)) = bearer.split_once('.') else { return false };
    if keys.by_header(header).is_some() {
        return true;
    }
    if header.len() > MOST_BYTES {
        return false;
    }
    let Ok(decoded) = URL_SAFE_NO_PAD.decode(header.trim_end_matches('=')) else { return false };
    let Ok(header) = serde_json::from_slice::<serde_json::Value>(&decoded) else { return false };
    let text = |name: &str| header.get(name).and_then(serde_json::Value::as_str);
    text("typ") == Some(TYPE) && text("kid").is_some_and(|kid| keys.by_id(kid).is_some())
}

#[cfg(test)]
mod tests;
