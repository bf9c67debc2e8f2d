//! Rules of `[[routes]]`.

use super::super::file;
use super::super::problem::{Key, nearest, quote};
use super::super::value::Period;
use super::super::{
    Allow, App, Auth, Cors, HeaderChanges, HostPattern, Identity, RateKey, Route, TokenSource,
};
use super::apps::rate_limit;
use super::changes::{Way, changes};
use super::identity::is_token;
use super::upstreams::is_host;
use super::{Checker, cors, overlap, paths};

/// What routes refer to.
pub(super) struct Around<'a> {
    /// Names of the upstreams in their order.
    pub(super) upstreams: &'a [&'a str],
    pub(super) apps: &'a [App],
    /// `login.prefix`
    pub(super) prefix: &'a str,
    /// `server.max_body_bytes`
    pub(super) max_body_bytes: Option<u64>,
    pub(super) identity: &'a Identity,
    /// `session.token_from`
    pub(super) places: &'a [TokenSource],
}

/// `[[routes]]`
pub(super) fn routes(
    written: Vec<file::Route>,
    around: &Around<'_>,
    checker: &mut Checker<'_>,
) -> Vec<Route> {
    let list = Key::of("routes");
    if written.is_empty() {
        let hint = "add [[routes]] with path = \"/api/\" and upstream = \"php\"";
        checker.wrong(&list, "no route is configured, so every request gets 404", hint);
    }
    let mut names: Vec<(usize, String)> = Vec::new();
    let mut routes = Vec::new();
    let mut used = Vec::new();
    for (index, written) in written.into_iter().enumerate() {
        let key = list.item(index);
        if let Some(name) = &written.name {
            check_name(name, &key.name("name"), &names, checker);
            names.push((index, name.clone()));
        }
        used.extend(written.upstream.clone());
        routes.extend(route(written, &key, around, checker).map(|route| (index, route)));
    }
    overlap::overlap(&routes, around.prefix, checker);
    for (index, name) in around.upstreams.iter().enumerate() {
        if !name.is_empty() && !used.iter().any(|used| used == name) {
            let hint = "leave it out, or name it in a route";
            checker.warn(&Key::of("upstreams").item(index).name("name"), "no route uses it", hint);
        }
    }
    if !routes.is_empty() && routes.iter().all(|(_, route)| route.auth == Auth::Public) {
        let hint = "write auth = \"required\", which is the default";
        checker.warn(&list, "every route is public, so nobody is ever authenticated", hint);
    }
    routes.into_iter().map(|(_, route)| route).collect()
}

fn check_name(name: &str, key: &Key, names: &[(usize, String)], checker: &mut Checker<'_>) {
    if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
        checker.wrong(key, "is not 1 to 128 printable characters", "write for example \"api\"");
    }
    if let Some((first, _)) = names.iter().find(|(_, other)| other == name) {
        let what = format!("{} is {} already", quote(name), Key::of("routes").item(*first));
        checker.wrong(key, what, "give each route a name of its own");
    }
}

fn route(
    written: file::Route,
    key: &Key,
    around: &Around<'_>,
    checker: &mut Checker<'_>,
) -> Option<Route> {
    check_public(&written, key, checker);
    let host = match &written.host {
        Some(text) => host(text, &key.name("host"), checker),
        None => Some(HostPattern::Any),
    };
    let path = checker.required(&key.name("path"), written.path, "path = \"/api/\"");
    if let Some(Err((what, hint))) = path.as_deref().map(paths::route) {
        checker.wrong(&key.name("path"), what, hint);
    }
    let methods = methods(written.methods, &key.name("methods"), checker);
    let upstream = checker.required(&key.name("upstream"), written.upstream, "upstream = \"php\"");
    let upstream =
        upstream.and_then(|name| upstream_index(&name, &key.name("upstream"), around, checker));
    let allow = written.allow.map(|allow| self::allow(allow, &key.name("allow"), around, checker));
    let deny = written.deny.and_then(|deny| {
        let key = key.name("deny").name("openids_file");
        let file =
            checker.required(&key, deny.openids_file, "{ openids_file = \"banned.txt\" }")?;
        Some(checker.file(&key, &file))
    });
    let limit = key.name("rate_limit");
    let rate_limit = written.rate_limit.and_then(|rate| rate_limit(rate, &limit, checker));
    if written.auth == Auth::Public && rate_limit.is_some_and(|rate| rate.key == RateKey::OpenId) {
        let what = "counts by address: on a public route nobody's openid is known";
        checker.warn(&limit, what, "write per_ip");
    }
    if written.auth == Auth::Public && written.cookie_bridge {
        let what = "keeps nothing: on a public route nobody's session is known";
        let hint = "write auth = \"required\" or \"optional\"";
        checker.warn(&key.name("cookie_bridge"), what, hint);
    }
    let timeout = |name: &str, written: Option<Period>, checker: &mut Checker<'_>| {
        written.map(|period| checker.timeout(&key.name(name), period))
    };
    let connect_timeout = timeout("connect_timeout", written.connect_timeout, checker);
    let read_timeout = timeout("read_timeout", written.read_timeout, checker);
    let write_timeout = timeout("write_timeout", written.write_timeout, checker);
    let headers = Headers::check(
        (written.cors, written.request_headers, written.response_headers),
        &methods,
        around,
        key,
        checker,
    );
    let (host, path) = (host?, path?);
    check_strip(written.strip_prefix.as_deref(), &path, &key.name("strip_prefix"), checker);
    let default = || format!("{}{path}", written.host.as_deref().unwrap_or_default());
    Some(Route {
        name: written.name.unwrap_or_else(default),
        host,
        methods,
        upstream: upstream.unwrap_or_default(),
        auth: written.auth,
        allow,
        deny_openids_file: deny,
        strip_prefix: written.strip_prefix,
        max_body_bytes: match written.max_body_bytes {
            Some(size) => Some(size.0).filter(|bytes| *bytes != 0),
            None => around.max_body_bytes,
        },
        rate_limit,
        cookie_bridge: written.cookie_bridge,
        connect_timeout,
        read_timeout,
        write_timeout,
        cors: headers.cors,
        request_headers: headers.request,
        response_headers: headers.response,
        path,
    })
}

/// What a route says of headers.
struct Headers {
    cors: Option<Cors>,
    request: HeaderChanges,
    response: HeaderChanges,
}

impl Headers {
    fn check(
        written: (Option<file::Cors>, Option<file::HeaderChanges>, Option<file::HeaderChanges>),
        methods: &[String],
        around: &Around<'_>,
        key: &Key,
        checker: &mut Checker<'_>,
    ) -> Self {
        let (cors, request, response) = written;
        let Around { identity, places, .. } = around;
        let answer = Way::Answer { cors: cors.is_some() };
        let cors =
            cors.map(|cors| cors::of_route(cors, methods, places, &key.name("cors"), checker));
        let (to, from) = (key.name("request_headers"), key.name("response_headers"));
        let request = changes(request, Way::Request, identity, &to, checker);
        let response = changes(response, answer, identity, &from, checker);
        Self { cors, request, response }
    }
}

fn check_public(written: &file::Route, key: &Key, checker: &mut Checker<'_>) {
    if written.auth != Auth::Public {
        return;
    }
    for (name, given) in [("allow", written.allow.is_some()), ("deny", written.deny.is_some())] {
        if given {
            let what = "has no meaning on a public route, where nobody is known";
            checker.wrong(&key.name(name), what, "write auth = \"required\" or \"optional\"");
        }
    }
}

/// `example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`
fn host(text: &str, key: &Key, checker: &mut Checker<'_>) -> Option<HostPattern> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let (wildcard, name) = name.strip_prefix('*').map_or((false, name), |rest| (true, rest));
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let pattern = if wildcard {
        let below = name.strip_prefix('.').is_some_and(is_host);
        below.then(|| HostPattern::Wildcard(name.to_owned()))
    } else if let Some(address) = bracketed {
        let good = address.parse::<std::net::Ipv6Addr>().is_ok();
        good.then(|| HostPattern::Exact(name.to_owned()))
    } else {
        is_host(name).then(|| HostPattern::Exact(name.to_owned()))
    };
    if pattern.is_none() {
        let hint = if text == "*" {
            "leave it out for any host"
        } else if text.contains("://") {
            "leave the scheme out: \"api.example.com\""
        } else if text.contains(':') {
            "leave the port out: it does not take part in routing"
        } else if !text.is_ascii() {
            "write it as browsers send it, in Punycode: \"xn--…\""
        } else {
            "write \"api.example.com\" or \"*.example.com\""
        };
        checker.wrong(key, format!("{} is not a host", quote(text)), hint);
    }
    pattern
}

/// Methods as requests have them; none: all.
pub(super) fn methods(
    written: Option<Vec<String>>,
    list: &Key,
    checker: &mut Checker<'_>,
) -> Vec<String> {
    let Some(written) = written else { return Vec::new() };
    if written.is_empty() {
        checker.wrong(list, "names no method, so no request fits", "leave it out for all methods");
    }
    for (index, method) in written.iter().enumerate() {
        let key = list.item(index);
        let upper = method.to_ascii_uppercase();
        if !is_token(method) || method.len() > 16 {
            checker.wrong(&key, format!("{} is not a method", quote(method)), "write \"GET\"");
        } else if *method != upper {
            let what = format!("`{method}` is not `{upper}`: methods are told apart by case");
            checker.wrong(&key, what, format!("write \"{upper}\""));
        } else if matches!(method.as_str(), "CONNECT" | "TRACE") {
            let what = format!("`{method}` is refused everywhere");
            checker.wrong(&key, what, "leave it out");
        }
    }
    checker.distinct(list, written.iter().map(String::as_str));
    written
}

fn upstream_index(
    name: &str,
    key: &Key,
    around: &Around<'_>,
    checker: &mut Checker<'_>,
) -> Option<usize> {
    let index = around.upstreams.iter().position(|known| *known == name);
    // Where upstreams have no name, that is the problem.
    let known: Vec<&str> = around.upstreams.iter().copied().filter(|n| !n.is_empty()).collect();
    if index.is_none() && !known.is_empty() {
        let what = format!("no [[upstreams]] is named {}", quote(name));
        checker.wrong(key, what, format!("named in this file: {}", known.join(", ")));
    }
    index
}

fn allow(written: file::Allow, key: &Key, around: &Around<'_>, checker: &mut Checker<'_>) -> Allow {
    if written.appids.is_none() && written.openids_file.is_none() && written.scope.is_none() {
        let hint =
            "write appids, openids_file or scope; leave `allow` out to let everybody through";
        checker.wrong(key, "names no condition", hint);
    }
    let appids = nonempty(written.appids, &key.name("appids"), checker);
    for (index, appid) in appids.iter().enumerate() {
        if !around.apps.iter().any(|app| app.appid == *appid) && !around.apps.is_empty() {
            let known: Vec<&str> = around.apps.iter().map(|app| app.appid.as_str()).collect();
            let hint = match nearest(appid, known.iter().copied()) {
                Some(near) => format!("is `{near}` meant?"),
                None => format!("configured here: {}", known.join(", ")),
            };
            let what = format!("no [[apps]] has the appid {}", quote(appid));
            checker.wrong(&key.name("appids").item(index), what, hint);
        }
    }
    let openids_file =
        written.openids_file.map(|file| checker.file(&key.name("openids_file"), &file));
    let list = key.name("scope");
    let scope = nonempty(written.scope, &list, checker);
    for (index, scope) in scope.iter().enumerate() {
        // RFC 6749, 3.3: it stands within quotes in WWW-Authenticate.
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        if scope.is_empty() || !scope.bytes().all(fits) {
            checker.wrong(&list.item(index), "is not the name of a scope", "write \"phone\"");
        } else if scope != "phone" {
            let what = "no session ever holds this scope";
            checker.warn(&list.item(index), what, "the only scope is \"phone\"");
        }
    }
    Allow { appids, openids_file, scope }
}

/// A list of conditions. An empty one is refused: it reads as "nobody" and as "anybody".
fn nonempty(written: Option<Vec<String>>, key: &Key, checker: &mut Checker<'_>) -> Vec<String> {
    if written.as_ref().is_some_and(Vec::is_empty) {
        checker.wrong(key, "is empty", "leave it out, or name what is let through");
    }
    written.unwrap_or_default()
}

fn check_strip(strip: Option<&str>, path: &str, key: &Key, checker: &mut Checker<'_>) {
    let Some(strip) = strip else { return };
    if let Err((what, hint)) = paths::stem(strip) {
        checker.wrong(key, what, hint);
    } else if !paths::is_below(path, strip) {
        let what = format!("\"{strip}\" is not where the path {} begins", quote(path));
        checker.wrong(
            key,
            what,
            "only what every request of this route begins with can be taken off",
        );
    }
}
