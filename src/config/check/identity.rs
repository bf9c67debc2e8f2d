//! Rules of `[identity]`, and of header names in general.

use super::super::problem::{Key, quote};
use super::super::{Identity, file};
use super::Checker;
use crate::secret::Secret;

/// Names that mean something else on the way to the upstream: hop-by-hop and framing (RFC 9110,
/// 9112), forwarding, what carries credentials and content, and what PHP reads as a proxy.
const TAKEN: &[&str] = &[
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// `name` as an upstream may read it: PHP tells neither case nor `_`, `.` and `-` apart.
pub(super) fn fold(name: &str) -> String {
    let dash = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' }
    };
    name.chars().map(dash).collect()
}

/// What is wrong with `name` as a header of the gateway's own, and how to mend it.
pub(super) fn header_fault(name: &str) -> Option<(String, &'static str)> {
    if !is_token(name) {
        let what = format!("{} is not a header name", quote(name));
        return Some((what, "use letters, digits and `-`"));
    }
    let what = || format!("`{name}` already means something else");
    TAKEN
        .contains(&fold(name).as_str())
        .then(|| (what(), "choose a name of its own, such as X-WX-OPENID"))
}

/// RFC 9110's token: what header names, cookie names and methods are made of.
pub(super) fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(fits)
}

/// `[identity]`
pub(super) fn identity(file: file::Identity, checker: &mut Checker<'_>) -> Identity {
    let section = Key::of("identity");
    let mut seen: Vec<(String, &str)> = Vec::new();
    let names = [
        ("openid", Some(&file.openid)),
        ("appid", Some(&file.appid)),
        ("unionid", Some(&file.unionid)),
        ("phone", file.phone.as_ref()),
        ("assertion", file.assertion.as_ref()),
        ("session", file.session.as_ref()),
    ];
    for (key, name) in names {
        let Some(name) = name else { continue };
        let folded = fold(name);
        if let Some((what, hint)) = header_fault(name) {
            checker.wrong(&section.name(key), what, hint);
        } else if let Some((_, other)) = seen.iter().find(|(other, _)| *other == folded) {
            let what = format!("is the same header as identity.{other}");
            let hint = "a backend may read `_`, `.` and `-` alike: choose another name";
            checker.wrong(&section.name(key), what, hint);
        }
        seen.push((folded, key));
    }
    let list = section.name("reserved_prefixes");
    for (index, prefix) in file.reserved_prefixes.iter().enumerate() {
        let key = list.item(index);
        if !is_token(prefix) {
            let what = format!("{} begins no header name", quote(prefix));
            checker.wrong(&key, what, "write for example \"X-WX-\"");
        } else if let Some(name) = TAKEN.iter().find(|name| name.starts_with(&fold(prefix))) {
            let what = format!("would take `{name}` away from every request");
            checker.wrong(&key, what, "write a longer prefix, such as \"X-WX-\"");
        }
    }
    let key = section.name("assertion_key");
    // Kept without its text too, so that a missing file is not complained about twice.
    let assertion_key = file.assertion_key.map(|source| {
        let text = checker.secret(&key, &source, "the assertion");
        Secret::new(text.map(|text| text.to_string()).unwrap_or_default())
    });
    Identity {
        openid: file.openid,
        appid: file.appid,
        unionid: file.unionid,
        phone: file.phone,
        session: file.session,
        assertion: file.assertion,
        assertion_key,
        reserved_prefixes: file.reserved_prefixes,
    }
}
