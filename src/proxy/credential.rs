//! The one token of a request: where it is looked for, and how it is taken off before forwarding.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::head::{Headers, RequestHead, split_target};
use crate::config::TokenSource;
use crate::identity::headers::fold_alike;

/// What a request shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential<'a> {
    /// Nothing: a guest.
    None,
    /// A token in `Authorization`, to be verified.
    Bearer(&'a str),
    /// A token in another place. Several different ones in one place are joined, which no
    /// verifier takes: nobody may choose which of them counts.
    Elsewhere(Cow<'a, str>),
}

impl Credential<'_> {
    /// The token, to be verified.
    pub(crate) fn token(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Bearer(token) => Some(token),
            Self::Elsewhere(token) => Some(token),
        }
    }
}

/// A request with more than one `Authorization`: nobody knows which one counts.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("more than one Authorization header")]
pub(crate) struct TwoAuthorizations;

/// Looks for the token in `places`; the first place that holds something decides.
pub(crate) fn find<'a>(
    head: &RequestHead<'a>,
    places: &[TokenSource],
) -> Result<Credential<'a>, TwoAuthorizations> {
    if head.headers.get_all("authorization").count() > 1 {
        return Err(TwoAuthorizations);
    }
    for place in places {
        let found = match place {
            TokenSource::Authorization => match bearer(head.headers) {
                Some(token) => return Ok(Credential::Bearer(token)),
                None => None,
            },
            TokenSource::Cookie(name) => one(cookies(head.headers)
                .filter(|(candidate, _)| *candidate == name.as_bytes())
                .map(|(_, value)| value)),
            TokenSource::Header(name) => {
                one(head.headers.get_all(name).map(|value| text(value.trim_ascii())))
            }
            TokenSource::Query(name) => query_value(head.target, name),
        };
        if let Some(token) = found {
            return Ok(Credential::Elsewhere(token));
        }
    }
    Ok(Credential::None)
}

/// The place that decided for [`find`].
pub(crate) fn place<'p>(
    head: &RequestHead<'_>,
    places: &'p [TokenSource],
) -> Option<&'p TokenSource> {
    let holds = |place: &&TokenSource| {
        find(head, std::slice::from_ref(*place)).is_ok_and(|found| found.token().is_some())
    };
    places.iter().find(holds)
}

/// The credentials of `Authorization: Bearer …`, if there are any.
fn bearer(headers: Headers<'_>) -> Option<&str> {
    let value = headers.get_all("authorization").next()?;
    let (scheme, rest) = value.split_at_checked(6)?;
    // RFC 9110 writes one space; backends take a tab too (PHP, Spring), and must not be handed
    // a token that was passed over here.
    let ends = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    if !(ends && scheme.eq_ignore_ascii_case(b"bearer")) {
        return None;
    }
    Some(text(rest.trim_ascii())).filter(|token| !token.is_empty())
}

/// Everything in `Authorization` that may be a token, whatever it is wrapped in or stands beside. A
/// token of ours leaves with the header, whoever could read it.
pub(crate) fn authorization_words<'a>(headers: Headers<'a>) -> impl Iterator<Item = &'a str> {
    headers
        .get_all("authorization")
        // By bytes: this looks at every byte of every token.
        .flat_map(|value| value.split(|byte| !is_of_token(*byte)))
        .filter(|word| memchr::memchr(b'.', word).is_some())
        .filter_map(|word| std::str::from_utf8(word).ok())
}

/// base64url, and the dots between its parts (RFC 7515 section 7.1).
const fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What is no text is no token either, but it is something, and so it is refused.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("not text")
}

/// The one value of a place; empty ones hold nothing.
fn one<'a>(values: impl Iterator<Item = &'a str>) -> Option<Cow<'a, str>> {
    let mut found: Option<Cow<'a, str>> = None;
    for value in values.filter(|value| !value.is_empty()) {
        match &mut found {
            None => found = Some(Cow::Borrowed(value)),
            Some(first) if first.as_ref() == value => {}
            Some(first) => {
                let joined = first.to_mut();
                joined.push(' ');
                joined.push_str(value);
            }
        }
    }
    found
}

/// Names and values, cut up byte by byte as [`cookie_without`] does it: another cookie may hold
/// bytes that are no text (GBK), and what is found here must be what is taken off there.
fn cookies<'a>(headers: Headers<'a>) -> impl Iterator<Item = (&'a [u8], &'a str)> {
    headers.get_all("cookie").flat_map(|value| value.split(|byte| *byte == b';')).filter_map(
        |pair| {
            let (name, value) = pair.split_at_checked(pair.iter().position(|it| *it == b'=')?)?;
            let value = value.get(1..)?.trim_ascii();
            Some((name.trim_ascii(), text(value).trim_matches('"')))
        },
    )
}

fn query_value<'a>(target: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, query) = split_target(target);
    let query = query?;
    let values: Vec<String> = query
        .split('&')
        .filter(|pair| is_parameter(pair, name))
        .filter_map(|pair| pair.split_once('='))
        .map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
        .collect();
    one(values.iter().map(String::as_str)).map(|value| Cow::Owned(value.into_owned()))
}

fn is_parameter(pair: &str, name: &str) -> bool {
    let written = pair.split_once('=').map_or(pair, |(name, _)| name);
    written == name || percent_decode_str(written).eq(name.bytes())
}

/// The query without the token's parameter; `None` where nothing is to be taken off.
pub(crate) fn query_without(query: &str, places: &[TokenSource]) -> Option<String> {
    if !places.iter().any(|place| matches!(place, TokenSource::Query(_))) {
        return None;
    }
    let is_token = |pair: &&str| {
        places
            .iter()
            .any(|place| matches!(place, TokenSource::Query(name) if is_parameter(pair, name)))
    };
    if !query.split('&').any(|pair| is_token(&pair)) {
        return None;
    }
    Some(query.split('&').filter(|pair| !is_token(pair)).collect::<Vec<_>>().join("&"))
}

/// A `Cookie` value without the gateway's cookie; `None` where nothing is to be taken off, and an
/// empty text where nothing else was in it.
pub(crate) fn cookie_without(value: &[u8], places: &[TokenSource]) -> Option<Vec<u8>> {
    let is_token = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        places
            .iter()
            .any(|place| matches!(place, TokenSource::Cookie(cookie) if cookie.as_bytes() == name))
    };
    if !value.split(|byte| *byte == b';').any(is_token) {
        return None;
    }
    let kept: Vec<&[u8]> = value
        .split(|byte| *byte == b';')
        .filter(|pair| !is_token(pair) && !pair.trim_ascii().is_empty())
        .map(<[u8]>::trim_ascii)
        .collect();
    Some(kept.join(&b"; "[..]))
}

/// Whether a header is one that carries the gateway's token, in any spelling that a backend folds
/// onto it.
pub(crate) fn is_token_header(name: &[u8], places: &[TokenSource]) -> bool {
    places.iter().any(
        |place| matches!(place, TokenSource::Header(header) if fold_alike(name, header.as_bytes())),
    )
}
