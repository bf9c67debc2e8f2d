//! Rules of `cors`, of a route and of `[login]`.

use super::super::problem::{Key, quote};
use super::super::{Cors, Origin, TokenSource, file};
use super::Checker;
use super::identity::is_token;
use super::routes::methods;
use super::upstreams::is_host;

/// What pages call with where nothing is said and the route takes everything.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// With what the gateway's own endpoints are called.
const OWN_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

/// `cors` of a route that takes these methods; none: all.
pub(super) fn of_route(
    written: file::Cors,
    taken: &[String],
    places: &[TokenSource],
    key: &Key,
    checker: &mut Checker<'_>,
) -> Cors {
    let list = key.name("methods");
    for (index, method) in written.methods.iter().flatten().enumerate() {
        let fits = taken.is_empty()
            || taken.iter().any(|it| it == method || (it == "GET" && method == "HEAD"));
        if !fits {
            let what = format!("the route does not take {}", quote(method));
            checker.wrong(&list.item(index), what, format!("it takes {}", taken.join(", ")));
        }
    }
    let default = if taken.is_empty() { METHODS.map(str::to_owned).to_vec() } else { taken.into() };
    check(written, default, places, key, checker)
}

/// `login.cors`
pub(super) fn of_login(
    written: file::Cors,
    places: &[TokenSource],
    checker: &mut Checker<'_>,
) -> Cors {
    let key = Key::of("login").name("cors");
    check(written, OWN_METHODS.map(str::to_owned).to_vec(), places, &key, checker)
}

fn check(
    written: file::Cors,
    default_methods: Vec<String>,
    places: &[TokenSource],
    key: &Key,
    checker: &mut Checker<'_>,
) -> Cors {
    let origins = origins(&written, key, checker);
    let methods = match written.methods {
        Some(written) => methods(Some(written), &key.name("methods"), checker),
        None => default_methods,
    };
    let headers = match written.headers {
        Some(written) => names(written, &key.name("headers"), checker),
        None => carriers(places),
    };
    let period = written.max_age;
    if period.0.subsec_nanos() != 0 {
        let what = "is not in whole seconds";
        checker.wrong(&key.name("max_age"), what, "write for example \"10m\"");
    }
    Cors {
        origins,
        methods,
        headers,
        expose: names(written.expose, &key.name("expose"), checker),
        credentials: written.credentials,
        max_age: period.0,
    }
}

/// What a page needs to show a token and to send JSON.
fn carriers(places: &[TokenSource]) -> Vec<String> {
    let mut names = vec!["Authorization".to_owned(), "Content-Type".to_owned()];
    names.extend(places.iter().filter_map(|place| match place {
        TokenSource::Header(name) => Some(name.clone()),
        TokenSource::Authorization | TokenSource::Cookie(_) | TokenSource::Query(_) => None,
    }));
    names
}

fn names(written: Vec<String>, list: &Key, checker: &mut Checker<'_>) -> Vec<String> {
    for (index, name) in written.iter().enumerate() {
        let key = list.item(index);
        if name == "*" {
            let what = "`*` is not understood by every browser, and never means Authorization";
            checker.wrong(&key, what, "write the names");
        } else if !is_token(name) {
            let what = format!("{} is not a header name", quote(name));
            checker.wrong(&key, what, "use letters, digits and `-`");
        }
    }
    checker.distinct(list, written.iter().map(String::as_str));
    written
}

fn origins(written: &file::Cors, key: &Key, checker: &mut Checker<'_>) -> Vec<Origin> {
    let list = key.name("origins");
    if written.origins.is_empty() {
        let hint = "write [\"https://h5.example.com\"]; leave `cors` out to let nobody";
        checker.wrong(&list, "names no origin", hint);
    }
    checker.distinct(&list, written.origins.iter().map(String::as_str));
    let mut origins = Vec::new();
    for (index, text) in written.origins.iter().enumerate() {
        let key = list.item(index);
        match origin(text) {
            Ok(origin) => origins.push(origin),
            Err(hint) => checker.wrong(&key, format!("{} is not an origin", quote(text)), hint),
        }
        if text == "null" {
            let what = "any page can be of the origin `null`, by a sandboxed frame";
            checker.warn(&key, what, "name the page's own origin");
        }
    }
    if let Some(index) = origins.iter().position(|origin| *origin == Origin::Any) {
        if written.credentials {
            let what = "`*` does not go with credentials: every page could act as the user";
            checker.wrong(&list.item(index), what, "name the origins");
        }
        if written.origins.len() > 1 {
            let what = "`*` says everybody already";
            checker.wrong(&list.item(index), what, "leave the others out, or the `*`");
        }
    }
    origins
}

/// An origin as a browser writes it (RFC 6454 section 6.2), or how to mend it.
fn origin(text: &str) -> Result<Origin, String> {
    const EXAMPLE: &str = "write \"https://h5.example.com\" or \"https://*.example.com\"";
    match text {
        "*" => return Ok(Origin::Any),
        "null" => return Ok(Origin::Exact(text.to_owned())),
        _ => {}
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err(format!("the scheme belongs to it: {EXAMPLE}"));
    };
    if let Some((authority, _)) = authority.split_once(['/', '?', '#']) {
        return Err(format!("an origin has no path: write \"{scheme}://{authority}\""));
    }
    if !text.is_ascii() {
        return Err("write it as browsers send it, in Punycode: \"https://xn--…\"".to_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("browsers send it as \"{}\"", text.to_ascii_lowercase()));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    let default = match scheme {
        "https" => Some("443"),
        "http" => Some("80"),
        _ => None,
    };
    if port.is_some() && port == default {
        return Err(format!("browsers leave the usual port out: write \"{scheme}://{host}\""));
    }
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let port_fits = port.is_none_or(|port| {
        port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
    });
    if !(scheme_fits && port_fits) {
        return Err(EXAMPLE.to_owned());
    }
    if let Some(below) = host.strip_prefix("*.").filter(|below| is_host(below)) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let suffix = format!(".{below}{port}");
        return Ok(Origin::Below { scheme: format!("{scheme}://"), suffix });
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = match bracketed {
        Some(address) => {
            address.parse::<std::net::Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address)
        }
        None => is_host(host),
    };
    if fits { Ok(Origin::Exact(text.to_owned())) } else { Err(EXAMPLE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for text in [
            "https://h5.example.com",
            "http://localhost:5173",
            "https://[2001:db8::1]:8443",
            "capacitor://localhost",
            "http://192.0.2.7",
        ] {
            assert_eq!(origin(text), Ok(Origin::Exact(text.to_owned())), "{text}");
        }
        let below = |scheme: &str, suffix: &str| {
            Ok(Origin::Below { scheme: scheme.to_owned(), suffix: suffix.to_owned() })
        };
        assert_eq!(origin("https://*.example.com"), below("https://", ".example.com"));
        assert_eq!(origin("http://*.test:8080"), below("http://", ".test:8080"));
        for text in [
            "",
            "h5.example.com",
            "*.example.com",
            "https://",
            "https://*",
            "https://*.*.com",
            "https://h5.example.com/",
            "https://H5.example.com",
            "https://h5.example.com:443",
            "http://a:80",
            "https://a:0",
            "https://a:08443",
            "https://a:65536",
            "https://a b",
            "https://页面.example",
            "://a",
            "1https://a",
            "https://user@a",
            "https://a*.example.com",
            "https://[2001:DB8::1]",
            "https://[2001:0db8::1]",
            "https://a.",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
