//! Rules of `request_headers` and `response_headers` of a route.
//!
//! What the gateway itself says on the way, nobody else may say: who is calling, where a request
//! came from, how a message is framed. Names count as an upstream may read them, folded.

use super::super::problem::{Key, quote};
use super::super::{HeaderChanges, Identity, file};
use super::Checker;
use super::identity::{fold, is_token};

/// What is about one connection or frames a message (RFC 9110 section 7.6.1, RFC 9112).
const CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What says where a request came from; the gateway writes or removes it.
const FORWARDED: &[&str] = &[
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Most headers that one route changes one way: no head may have more lines.
const MOST: usize = 100;

/// Which way the message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the backend.
    Request,
    /// To the client, on a route with or without `cors`.
    Answer { cors: bool },
}

/// The changes of one way; none where nothing is written.
pub(super) fn changes(
    written: Option<file::HeaderChanges>,
    way: Way,
    identity: &Identity,
    key: &Key,
    checker: &mut Checker<'_>,
) -> HeaderChanges {
    let Some(written) = written else { return HeaderChanges::default() };
    if written.set.is_empty() && written.remove.is_empty() {
        checker.wrong(key, "changes nothing", "write `set` or `remove`, or leave it out");
    }
    let count = written.set.len() + written.remove.len();
    if count > MOST {
        checker.wrong(key, format!("changes {count} headers"), format!("change {MOST} at most"));
    }
    let mut seen: Vec<(String, Key)> = Vec::new();
    let set = written.set.keys().map(|name| (name, key.name("set").name(name)));
    let removed = written.remove.iter().enumerate();
    let removed = removed.map(|(index, name)| (name, key.name("remove").item(index)));
    for (name, key) in set.chain(removed) {
        check_name(name, way, identity, &key, checker);
        if let Some((_, other)) = seen.iter().find(|(other, _)| *other == fold(name)) {
            let what = format!("is the same header as {other}");
            checker.wrong(&key, what, "`set` replaces what is there: leave one of them out");
        }
        seen.push((fold(name), key));
    }
    for (name, value) in &written.set {
        let key = key.name("set").name(name);
        check_value(value, &key, checker);
        let folded = fold(name);
        let is_request = way == Way::Request;
        if is_request && matches!(folded.as_str(), "authorization" | "cookie") {
            let what = "would be a credential in plain text";
            let hint = "values are shown to operators: let the backend trust identity.assertion, \
                        or the gateway's address";
            checker.wrong(&key, what, hint);
        } else if !is_request && folded == "set-cookie" {
            let what = "would give every caller the same cookie";
            checker.wrong(&key, what, "let the backend set cookies");
        }
    }
    HeaderChanges { set: written.set, remove: written.remove }
}

fn check_name(name: &str, way: Way, identity: &Identity, key: &Key, checker: &mut Checker<'_>) {
    let folded = fold(name);
    let fault = if !is_token(name) {
        Some((format!("{} is not a header name", quote(name)), "use letters, digits and `-`"))
    } else if is_identity(&folded, identity) {
        let hint = "the gateway alone writes these; see `identity`";
        Some((format!("`{name}` tells who is calling"), hint))
    } else if CONNECTION.contains(&folded.as_str()) {
        let hint = "it is about one connection, and written anew on each";
        Some((format!("`{name}` is not passed on as it is"), hint))
    } else {
        fault_of_way(name, &folded, way)
    };
    if let Some((what, hint)) = fault {
        checker.wrong(key, what, hint);
    }
}

fn fault_of_way(name: &str, folded: &str, way: Way) -> Option<(String, &'static str)> {
    let ours = |hint| Some((format!("`{name}` is written by the gateway"), hint));
    match way {
        Way::Request if folded == "host" => {
            ours("the backend gets the client's Host: let its virtual host have that name")
        }
        Way::Request if FORWARDED.contains(&folded) => ours("choose another name"),
        Way::Answer { .. }
            if matches!(folded, "x-request-id" | "x-session-expires-in" | "date") =>
        {
            ours("choose another name")
        }
        Way::Answer { cors: true } if folded.starts_with("access-control-") => {
            ours("say it by `cors` of the route")
        }
        Way::Request | Way::Answer { .. } => None,
    }
}

fn is_identity(folded: &str, identity: &Identity) -> bool {
    let Identity { openid, appid, unionid, phone, session, assertion, .. } = identity;
    let names = [openid, appid, unionid].into_iter().chain(phone).chain(session).chain(assertion);
    let mut prefixes = identity.reserved_prefixes.iter().map(|prefix| fold(prefix));
    names.map(|name| fold(name)).any(|name| name == folded)
        || prefixes.any(|prefix| folded.starts_with(&prefix))
}

fn check_value(value: &str, key: &Key, checker: &mut Checker<'_>) {
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let what = "holds a character that no header value holds";
        checker.wrong(key, what, "use printable ASCII, in one line");
    } else if value.trim() != value || value.len() > 4096 {
        let what = "begins or ends in a space, or is longer than 4096 characters";
        checker.wrong(key, what, "write the value alone");
    }
}
