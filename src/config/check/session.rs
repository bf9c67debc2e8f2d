//! Rules of `[session]`: lives of tokens, where they are looked for, and the keys that sign them.

use std::num::NonZeroUsize;
use std::time::Duration;

use ed25519_dalek::pkcs8::DecodePrivateKey;
use zeroize::Zeroizing;

use super::super::file;
use super::super::known_keys;
use super::super::problem::{Key, quote};
use super::super::{App, AppKind, Identity, Session, SigningKey, Store, TokenSource};
use super::identity::{fold, header_fault, is_token};
use super::{Checker, store};
use crate::secret::Secret;

/// HS256 asks for a key as long as its hash (RFC 7518, 3.2).
const SHORTEST_KEY: usize = 32;
/// `[session]`
pub(super) fn session(
    file: file::Session,
    identity: &Identity,
    apps: &[App],
    checker: &mut Checker<'_>,
) -> Option<Session> {
    let section = Key::of("session");
    let ttl = file.ttl.0;
    if ttl < Duration::from_secs(1) || ttl.subsec_nanos() != 0 {
        let what = "must be at least one second, in whole seconds";
        checker.wrong(&section.name("ttl"), what, "tokens count seconds: write for example \"2h\"");
    }
    let max_age = section.name("max_age");
    if file.max_age.0 < Duration::from_secs(1) {
        checker.wrong(&max_age, "is no time at all", "write for example \"30d\"");
    } else if file.max_age.0 < ttl {
        let what = format!(
            "{} is shorter than session.ttl, {}: a token ends with its session",
            file.max_age, file.ttl
        );
        let hint = format!("write session.ttl = \"{}\", or let sessions live longer", file.max_age);
        checker.warn(&max_age, what, hint);
    }
    let store = store::store(&file.store, &section.name("store"), checker);
    let signing_keys = signing_keys(file.signing_keys, checker);
    if matches!(store, Some(Store::Redis(_))) && signing_keys.is_empty() {
        let what = "is missing, and every node that shares a Redis needs the same keys";
        let hint = "make one with `wxgate keygen` and name its file on every node";
        checker.wrong(&section.name("signing_keys"), what, hint);
    }
    let is_pem = |key: &SigningKey| key.secret.expose().trim_start().starts_with("-----BEGIN");
    let has_key = identity.assertion_key.is_some() || signing_keys.iter().any(is_pem);
    if identity.assertion.is_some() && !has_key {
        let key = Key::of("identity").name("assertion");
        let hint = "make one with `wxgate keygen --alg EdDSA` and name its file in assertion_key";
        checker.wrong(&key, "is named, but no Ed25519 key is there to sign it", hint);
    }
    let max_per_user = file.max_per_user.and_then(|most| {
        let most = NonZeroUsize::new(most);
        if most.is_none() {
            let what = "allows no session at all";
            checker.wrong(&section.name("max_per_user"), what, "leave it out for any number");
        }
        most
    });
    let max_sessions = NonZeroUsize::new(file.max_sessions);
    let bound = section.name("max_sessions");
    if max_sessions.is_none() {
        checker.wrong(&bound, "allows no session at all", "write for example 1000000");
    } else if !matches!(store, Some(Store::Memory) | None)
        && file.max_sessions != file::MAX_SESSIONS
    {
        let what = "bounds sessions in memory alone, and these are kept elsewhere";
        checker.warn(&bound, what, "leave it out; a disk and Redis' maxmemory bound themselves");
    }
    let token_from = token_from(&file.token_from, identity, checker);
    let is_cookie = |place: &TokenSource| matches!(place, TokenSource::Cookie(_));
    let is_web = |app: &App| app.kind != AppKind::MiniProgram;
    if apps.iter().any(is_web) && !token_from.iter().any(is_cookie) {
        let what = "names no cookie, and browsers keep their session in one";
        checker.wrong(&section.name("token_from"), what, "add \"cookie:wxgate_session\"");
    }
    Some(Session {
        ttl,
        max_age: file.max_age.0,
        token_from,
        signing_keys,
        store: store?,
        on_store_error: file.on_store_error,
        max_per_user,
        max_sessions: max_sessions.unwrap_or(NonZeroUsize::MIN),
    })
}

fn token_from(
    written: &[String],
    identity: &Identity,
    checker: &mut Checker<'_>,
) -> Vec<TokenSource> {
    let list = Key::of("session").name("token_from");
    if written.is_empty() {
        checker.wrong(
            &list,
            "names no place, so no token is ever found",
            "write [\"authorization\"]",
        );
    }
    let mut places = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let key = list.item(index);
        match place(text, identity) {
            Err((what, hint)) => checker.wrong(&key, what, hint),
            Ok(place) if places.iter().any(|other| are_one(other, &place)) => {
                checker.wrong(&key, "is in the list already", "leave one of them out");
            }
            Ok(place) => places.push(place),
        }
    }
    places
}

/// Whether two places are the same. Header names are, as an upstream may read them.
fn are_one(one: &TokenSource, other: &TokenSource) -> bool {
    if let (TokenSource::Header(one), TokenSource::Header(other)) = (one, other) {
        return fold(one) == fold(other);
    }
    one == other
}

/// One place of `token_from`, or what is wrong with it and the mend.
fn place(text: &str, identity: &Identity) -> Result<TokenSource, (String, String)> {
    let fault = |what: String, hint: &str| Err((what, hint.to_owned()));
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    match (kind, name) {
        ("authorization", None) => Ok(TokenSource::Authorization),
        ("cookie", Some(name)) if is_token(name) => Ok(TokenSource::Cookie(name.to_owned())),
        ("query", Some(name)) if is_query_name(name) => Ok(TokenSource::Query(name.to_owned())),
        ("header", Some(name)) if name.eq_ignore_ascii_case("authorization") => {
            fault(format!("{} is not a place of its own", quote(text)), "write \"authorization\"")
        }
        ("header", Some(name)) => {
            if let Some((what, _)) = header_fault(name) {
                return fault(what, "choose a name of its own, such as X-Session-Token");
            }
            let folded = fold(name);
            let prefixes = identity.reserved_prefixes.iter();
            let ours = [&identity.openid, &identity.appid, &identity.unionid];
            if prefixes.map(|prefix| fold(prefix)).any(|prefix| folded.starts_with(&prefix))
                || ours.into_iter().chain(&identity.session).any(|name| fold(name) == folded)
            {
                let what =
                    format!("`{name}` is removed from every request: [identity] reserves it");
                return fault(what, "choose a name outside of identity.reserved_prefixes");
            }
            Ok(TokenSource::Header(name.to_ascii_lowercase()))
        }
        _ => fault(
            format!("{} names no place for a token", quote(text)),
            "write \"authorization\", \"cookie:NAME\", \"header:NAME\" or \"query:NAME\"",
        ),
    }
}

/// What needs no encoding in a query (RFC 3986, 2.3), so that it is found as it is written.
fn is_query_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(fits)
}

fn signing_keys(
    written: Option<Vec<file::SigningKey>>,
    checker: &mut Checker<'_>,
) -> Vec<SigningKey> {
    let list = Key::of("session").name("signing_keys");
    let Some(written) = written else { return Vec::new() };
    if written.is_empty() {
        let hint = "leave it out for a key of this process' own, or name one";
        checker.wrong(&list, "names no key", hint);
    }
    let mut keys: Vec<(Option<String>, Option<Zeroizing<String>>)> = Vec::new();
    for (index, written) in written.into_iter().enumerate() {
        let key = list.item(index);
        let id = checker.required(&key.name("id"), written.id, "id = \"2026-11\"");
        let whose = id.as_deref().filter(|id| is_key_id(id));
        let whose = whose.map_or_else(|| key.to_string(), |id| format!("key `{id}`"));
        if id.as_deref().is_some_and(|id| !is_key_id(id)) {
            let what = "is not 1 to 64 letters, digits, `.`, `_` or `-`";
            checker.wrong(&key.name("id"), what, "write for example \"2026-11\"");
        }
        if id.is_some() && keys.iter().any(|(other, _)| *other == id) {
            let hint = "the id tells a token's key: give each its own";
            checker.wrong(&key.name("id"), "is the id of another key already", hint);
        }
        let secret = key.name("secret");
        let source = checker.required(&secret, written.secret, "{ file = \"k1.key\" }");
        let text = source.and_then(|source| checker.secret(&secret, &source, &whose));
        if let Some(text) = &text {
            if keys.iter().any(|(_, other)| other.as_ref() == Some(text)) {
                let hint = "a rotation needs a fresh key: `wxgate keygen` makes one";
                checker.wrong(&secret, "is the secret of another key already", hint);
            }
            let hint = "`wxgate keygen` makes a good one";
            if let Some(what) = key_fault(text) {
                checker.wrong(&secret, what, hint);
            } else if known_keys::can_be_guessed(text) {
                checker.warn(&secret, "looks as if it could be guessed", hint);
            }
        }
        keys.push((id, text));
    }
    let whole = keys.into_iter().filter_map(|(id, text)| id.zip(text));
    whole.map(|(id, text)| SigningKey { id, secret: Secret::new(text.to_string()) }).collect()
}

/// `kid` of a token; it stands in logs and metrics of others too, so it is dull.
fn is_key_id(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&id.len()) && id.bytes().all(fits)
}

/// What is wrong with the text of a key. The text itself is not told.
fn key_fault(text: &str) -> Option<&'static str> {
    if text.starts_with("-----BEGIN") {
        let good = ed25519_dalek::SigningKey::from_pkcs8_pem(text).is_ok();
        return (!good).then_some("is a PEM, but not PKCS#8 of an Ed25519 private key");
    }
    if text.len() < SHORTEST_KEY {
        Some("is shorter than 32 bytes")
    } else if known_keys::PUBLISHED_KEYS.contains(&text) {
        Some("is a published example, which everybody knows")
    } else {
        None
    }
}
