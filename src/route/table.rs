//! Finds the route of a request: host, then path, then method, the most specific first.
//!
//! Each step is final. If a looser route could still be taken after a stricter one fitted the
//! path, a method that the stricter one does not name would open what it guards.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Auth, Config, HeaderChanges, HostPattern, RateLimit};

use super::RouteError;
use super::cors::Cors;
use super::list::Lists;
use super::path::{below, normalise};
use super::policy::{Caller, Policy, Verdict};
use super::rate::RateLimiter;

/// One route, as requests meet it.
#[derive(Debug)]
pub struct Route {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// Its position in [`Table::routes`].
    pub position: usize,
    /// Position in the configuration's upstreams.
    pub upstream: usize,
    /// Who gets through.
    pub auth: Auth,
    /// Largest request body in bytes; `None`: unlimited.
    pub max_body_bytes: Option<u64>,
    /// Whether the upstream's cookies are kept in the caller's session.
    pub cookie_bridge: bool,
    /// Its own time-outs.
    pub timeouts: Timeouts,
    /// Which pages of other sites may read its answers.
    pub cors: Option<Cors>,
    /// What is changed on requests for the upstream.
    pub request_headers: HeaderChanges,
    /// What is changed on the upstream's answers.
    pub response_headers: HeaderChanges,
    /// As [`super::path::NormalPath::routed`] spells it, without a trailing `/`.
    strip_prefix: Option<String>,
    policy: Policy,
    rate: Option<Limit>,
}

/// Time-outs that a route sets in place of its upstream's; `None`: the upstream's holds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To open a connection.
    pub connect: Option<Duration>,
    /// Between two reads of an answer.
    pub read: Option<Duration>,
    /// Between two writes of a request.
    pub write: Option<Duration>,
}

/// A route's rate limit as it was written, and its buckets, which a reload keeps unless it
/// changes the limit.
#[derive(Debug)]
struct Limit {
    written: RateLimit,
    limiter: Arc<RateLimiter>,
}

impl Limit {
    fn new(written: RateLimit, previous: Option<&Self>) -> Self {
        let kept = previous.filter(|previous| previous.written == written);
        let limiter = kept.map(|kept| Arc::clone(&kept.limiter));
        let limiter = limiter.unwrap_or_else(|| Arc::new(RateLimiter::new(written)));
        Self { written, limiter }
    }
}

impl Route {
    fn load(
        position: usize,
        route: &config::Route,
        lists: &Lists,
        previous: Option<&Self>,
    ) -> Result<Self, RouteError> {
        let buckets = previous.and_then(|previous| previous.rate.as_ref());
        let prefix = route.strip_prefix.as_deref();
        let prefix = prefix.map(|prefix| routed_spelling(&route.name, prefix)).transpose()?;
        Ok(Self {
            name: route.name.as_str().into(),
            position,
            upstream: route.upstream,
            auth: route.auth,
            max_body_bytes: route.max_body_bytes,
            cookie_bridge: route.cookie_bridge,
            timeouts: Timeouts {
                connect: route.connect_timeout,
                read: route.read_timeout,
                write: route.write_timeout,
            },
            cors: route.cors.as_ref().map(Cors::new),
            request_headers: route.request_headers.clone(),
            response_headers: route.response_headers.clone(),
            strip_prefix: prefix,
            policy: Policy::load(route, lists)?,
            rate: route.rate_limit.map(|written| Limit::new(written, buckets)),
        })
    }

    /// Judges a caller whose token was verified. Guests of an optional route are not judged.
    pub fn allows(&self, caller: Caller<'_>) -> Verdict<'_> {
        self.policy.judge(caller)
    }

    /// The route's own rate limit, if it has one.
    pub fn rate(&self) -> Option<&RateLimiter> {
        self.rate.as_ref().map(|limit| &*limit.limiter)
    }

    /// The path that the upstream gets: `forwarded` (of [`super::path::NormalPath`]) less
    /// `strip_prefix`.
    pub fn upstream_path<'a>(&self, forwarded: &'a str) -> &'a str {
        self.strip_prefix.as_deref().map_or(forwarded, |prefix| below(forwarded, prefix))
    }
}

/// What became of a search.
#[derive(Debug)]
pub enum Found<'a> {
    /// This route.
    Route(&'a Arc<Route>),
    /// The path with a `/` after it has a route: 308 to there, query kept.
    AddSlash,
    /// Routes fit host and path, none the method: 405.
    MethodNotAllowed {
        /// Value of the `Allow` header.
        allow: &'a str,
    },
    /// 404.
    NotFound,
}

/// All routes of a configuration. A search costs a few hash look-ups, however many routes there
/// are and however long the request's host and path.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    exact: HashMap<String, Paths>,
    /// By the suffix that hosts end in, which begins with a dot.
    wildcards: HashMap<String, Paths>,
    /// Length of the longest key of `wildcards`.
    longest_wildcard: usize,
    any: Paths,
}

impl Table {
    /// Builds the table of a configuration and loads the openid lists that its routes name. Of
    /// the `previous` one, if any, the buckets of unchanged rate limits are kept, by the routes'
    /// names, so that a reload gives nobody a fresh one.
    ///
    /// # Errors
    /// [`RouteError`]: a list that cannot be read, a path that no request can have, two routes
    /// that nothing decides between.
    pub fn build(
        config: &Config,
        lists: &Lists,
        previous: Option<&Self>,
    ) -> Result<Self, RouteError> {
        Self::of(&config.routes, lists, previous)
    }

    /// Builds the table of these routes alone, as [`Table::build`] does.
    ///
    /// # Errors
    /// As [`Table::build`].
    pub fn of_routes(routes: &[config::Route], lists: &Lists) -> Result<Self, RouteError> {
        Self::of(routes, lists, None)
    }

    fn of(
        routes: &[config::Route],
        lists: &Lists,
        previous: Option<&Self>,
    ) -> Result<Self, RouteError> {
        let mut table = Self {
            routes: Vec::with_capacity(routes.len()),
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            longest_wildcard: 0,
            any: Paths::default(),
        };
        let old: HashMap<&str, &Route> = previous
            .into_iter()
            .flat_map(|table| table.routes.iter().map(|route| (&*route.name, &**route)))
            .collect();
        for written in routes {
            let previous = old.get(written.name.as_str()).copied();
            let route = Arc::new(Route::load(table.routes.len(), written, lists, previous)?);
            let path = routed_spelling(&written.name, &written.path)?;
            let paths = match &written.host {
                HostPattern::Exact(host) => {
                    table.exact.entry(canonical_host(host).into_owned()).or_default()
                }
                HostPattern::Wildcard(suffix) => {
                    table.longest_wildcard = table.longest_wildcard.max(suffix.len());
                    table.wildcards.entry(suffix.to_ascii_lowercase()).or_default()
                }
                HostPattern::Any => &mut table.any,
            };
            paths.place(path).add(&written.methods, &route)?;
            table.routes.push(route);
        }
        Ok(table)
    }

    /// Every route, in the order written.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Finds the route of a request: `host` as its Host header has it, `path` as
    /// [`super::path::NormalPath::routed`], `method` as it came.
    ///
    /// No allocation unless the host holds upper-case letters or is an IPv6 address.
    pub fn find(&self, host: &str, path: &str, method: &str) -> Found<'_> {
        let host = canonical_host(host);
        for paths in self.levels(&host) {
            match paths.fit(path) {
                Fit::Place(place) => return place.choose(method),
                // A tree `/api/` answers for `/api` too, if only by a redirect, so it fits the
                // path and this host is the last that is asked. Went the search on to a looser
                // host, an exact `/api` there would open the door of a tree that is guarded
                // here. For the same reason the redirect comes before this host's `/`.
                Fit::AddSlash => return Found::AddSlash,
                Fit::Nothing => {}
            }
        }
        Found::NotFound
    }

    /// Finds the route of a request whose host or method is not known: the one that it has
    /// whatever they are. `None`: there is none, or it depends on them. Without a host it looks
    /// at every host that a route names.
    pub fn find_whatever(
        &self,
        host: Option<&str>,
        path: &str,
        method: Option<&str>,
    ) -> Option<&Arc<Route>> {
        let fits = |paths: &&Paths| !matches!(paths.fit(path), Fit::Nothing);
        let paths = match host {
            Some(host) => self.levels(&canonical_host(host)).find(fits)?,
            None if self.exact.values().chain(self.wildcards.values()).any(|it| fits(&it)) => {
                return None;
            }
            None => &self.any,
        };
        let Fit::Place(place) = paths.fit(path) else { return None };
        match method.map(|method| place.choose(method)) {
            Some(Found::Route(route)) => Some(route),
            Some(Found::AddSlash | Found::MethodNotAllowed { .. } | Found::NotFound) => None,
            None => place.rest.as_ref().filter(|_| place.by_method.is_empty()),
        }
    }

    /// The routes for this very host, then of every wildcard that it falls under, the longest
    /// first, then those for any host.
    fn levels<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a Paths> {
        // A dot at the very front has no label before it for the `*` to stand for. Suffixes
        // longer than any wildcard are not looked up: a client could send thousands of dots.
        let dots = (self.longest_wildcard > 0).then(|| host.match_indices('.'));
        let wildcards = dots
            .into_iter()
            .flatten()
            .filter(|(at, _)| *at > 0 && host.len() - at <= self.longest_wildcard)
            .filter_map(|(at, _)| self.wildcards.get(host.get(at..)?));
        self.exact.get(host).into_iter().chain(wildcards).chain([&self.any])
    }
}

/// A path of the configuration as routing spells it.
fn routed_spelling(route: &str, path: &str) -> Result<String, RouteError> {
    match normalise(path) {
        Ok(normal) => Ok(normal.routed.into_owned()),
        Err(source) => {
            Err(RouteError::Path { route: route.to_owned(), path: path.to_owned(), source })
        }
    }
}

/// A host without port and trailing dot, in lower case; an IPv6 address in its one spelling
/// (RFC 5952), in brackets.
fn canonical_host(host: &str) -> Cow<'_, str> {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let address = match address.parse::<Ipv6Addr>() {
            Ok(address) => address.to_string(),
            Err(_) => address.to_ascii_lowercase(),
        };
        return Cow::Owned(format!("[{address}]"));
    }
    let host = host.split_once(':').map_or(host, |(name, _)| name);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The routes of one host pattern by their paths.
#[derive(Debug, Default)]
struct Paths {
    exact: BTreeMap<Box<[u8]>, Place>,
    /// By the path without its last `/`, so that the tree of `/api` is found by `/api`; the tree
    /// of everything is under the empty key.
    trees: BTreeMap<Box<[u8]>, Place>,
    /// Length of the longest key of `trees`.
    longest_tree: usize,
}

/// Whether the routes of one host pattern fit a path.
enum Fit<'a> {
    Place(&'a Place),
    AddSlash,
    Nothing,
}

impl Paths {
    /// The place of a route's path.
    fn place(&mut self, path: String) -> &mut Place {
        match path.strip_suffix('/') {
            Some(tree) => {
                self.longest_tree = self.longest_tree.max(tree.len());
                self.trees.entry(tree.as_bytes().into()).or_default()
            }
            None => self.exact.entry(path.into_bytes().into()).or_default(),
        }
    }

    fn fit(&self, path: &str) -> Fit<'_> {
        let path = path.as_bytes();
        if let Some(place) = self.exact.get(path) {
            return Fit::Place(place);
        }
        if self.trees.contains_key(path) {
            return Fit::AddSlash;
        }
        // From the right, every `/` ends the name of a tree. What is longer than any tree is not
        // looked up: a client could send thousands of slashes.
        let mut rest = path.get(..=self.longest_tree).unwrap_or(path);
        while let Some(slash) = memchr::memrchr(b'/', rest) {
            rest = rest.get(..slash).unwrap_or_default();
            if let Some(place) = self.trees.get(rest) {
                return Fit::Place(place);
            }
        }
        Fit::Nothing
    }
}

/// The routes of one host pattern and path; methods choose among them.
#[derive(Debug, Default)]
struct Place {
    /// By a method that a route names.
    by_method: Vec<(Box<str>, Arc<Route>)>,
    /// The route that names no method and so takes those that no other route takes.
    rest: Option<Arc<Route>>,
    /// Every method that is taken, for the `Allow` header.
    allow: String,
}

impl Place {
    fn add(&mut self, methods: &[String], route: &Arc<Route>) -> Result<(), RouteError> {
        let equal_rank = |other: &Arc<Route>| RouteError::EqualRank {
            first: other.name.to_string(),
            second: route.name.to_string(),
        };
        if methods.is_empty() {
            return match self.rest.replace(Arc::clone(route)) {
                Some(other) => Err(equal_rank(&other)),
                None => Ok(()),
            };
        }
        for method in methods {
            if let Some(other) = self.named(method) {
                return Err(equal_rank(other));
            }
        }
        for method in methods {
            // A method may be written twice in one route.
            if self.named(method).is_none() {
                self.by_method.push((method.as_str().into(), Arc::clone(route)));
            }
        }
        self.allow = self.allow();
        Ok(())
    }

    /// `HEAD` stands after `GET`, whether or not it was written.
    fn allow(&self) -> String {
        let mut allow: Vec<&str> = Vec::new();
        for (method, _) in &self.by_method {
            let implied = (&**method == "GET").then_some("HEAD");
            for method in [Some(&**method), implied].into_iter().flatten() {
                if !allow.contains(&method) {
                    allow.push(method);
                }
            }
        }
        allow.join(", ")
    }

    fn named(&self, method: &str) -> Option<&Arc<Route>> {
        self.by_method.iter().find(|(name, _)| **name == *method).map(|(_, route)| route)
    }

    fn choose(&self, method: &str) -> Found<'_> {
        // Who guards GET guards HEAD, unless a route names HEAD itself.
        let implied = if method == "HEAD" { self.named("GET") } else { None };
        match self.named(method).or(implied).or(self.rest.as_ref()) {
            Some(route) => Found::Route(route),
            None => Found::MethodNotAllowed { allow: &self.allow },
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `[METHOD,METHOD] [HOST]PATH`, its text being its name.
    pub(in crate::route) fn written(text: &str) -> config::Route {
        let (methods, place) = text.split_once(' ').unwrap_or(("", text));
        let (host, path) = place.split_at(place.find('/').unwrap());
        let host = match host.strip_prefix('*') {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None if host.is_empty() => HostPattern::Any,
            None => HostPattern::Exact(host.to_owned()),
        };
        config::Route {
            name: text.to_owned(),
            host,
            path: path.to_owned(),
            methods: methods.split_terminator(',').map(str::to_owned).collect(),
            upstream: 0,
            auth: Auth::Public,
            allow: None,
            deny_openids_file: None,
            strip_prefix: None,
            max_body_bytes: None,
            rate_limit: None,
            cookie_bridge: false,
            connect_timeout: None,
            read_timeout: None,
            write_timeout: None,
            cors: None,
            request_headers: config::HeaderChanges::default(),
            response_headers: config::HeaderChanges::default(),
        }
    }

    fn table(routes: &[&str]) -> Result<Table, RouteError> {
        let routes: Vec<_> = routes.iter().map(|text| written(text)).collect();
        Table::of_routes(&routes, &Lists::new())
    }

    /// The name of the route that was found, or what else became of the search.
    fn show(found: &Found<'_>) -> String {
        match found {
            Found::Route(route) => route.name.to_string(),
            Found::AddSlash => "308".to_owned(),
            Found::MethodNotAllowed { allow } => format!("405 {allow}"),
            Found::NotFound => "404".to_owned(),
        }
    }

    /// Asks `METHOD HOST PATH`.
    fn ask(table: &Table, request: &str) -> String {
        let parts: Vec<&str> = request.split(' ').collect();
        let [method, host, path] = parts[..] else { panic!("{request}") };
        show(&table.find(host, path, method))
    }

    /// Routes, then requests with what they find.
    type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);

    const PATHS: &[Case] = &[
        (&[], &[("GET h /", "404")]),
        (
            &["/", "/api/", "/api/v1/", "/api/v1/me", "/login"],
            &[
                ("GET h /", "/"),
                ("GET h /x", "/"),
                ("GET h /x/y/z", "/"),
                ("GET h /api/", "/api/"),
                ("GET h /api/x", "/api/"),
                ("GET h /api/v1/", "/api/v1/"),
                ("GET h /api/v1/x/y", "/api/v1/"),
                ("GET h /api/v1/me", "/api/v1/me"),
                ("GET h /api/v1/me/", "/api/v1/"),
                ("GET h /api/v1/me/x", "/api/v1/"),
                ("GET h /api/v10/x", "/api/"),
                ("GET h /apix", "/"),
                ("GET h /apix/v1", "/"),
                ("GET h /API/x", "/"),
                ("GET h /login", "/login"),
                ("GET h /login/", "/"),
                ("GET h /api", "308"),
                ("POST h /api/v1", "308"),
            ],
        ),
        (
            &["/api", "/api/"],
            &[("GET h /api", "/api"), ("GET h /api/", "/api/"), ("GET h /x", "404")],
        ),
        (&["/api/"], &[("GET h /api", "308"), ("GET h /", "404"), ("GET h /ap", "404")]),
        (&["/api"], &[("GET h /api", "/api"), ("GET h /api/", "404"), ("GET h /api/x", "404")]),
        (&["/管/"], &[("GET h /%E7%AE%A1/x", "/管/"), ("GET h /%E7%AE%A1", "308")]),
        (&["/%e7%ae%a1/"], &[("GET h /%E7%AE%A1/x", "/%e7%ae%a1/")]),
    ];

    const METHODS: &[Case] = &[
        (
            &["GET /a", "POST,PUT /a", "/"],
            &[
                ("GET h /a", "GET /a"),
                ("HEAD h /a", "GET /a"),
                ("POST h /a", "POST,PUT /a"),
                ("PUT h /a", "POST,PUT /a"),
                // The looser route never opens what the stricter ones guard.
                ("DELETE h /a", "405 GET, HEAD, POST, PUT"),
                ("OPTIONS h /a", "405 GET, HEAD, POST, PUT"),
                ("get h /a", "405 GET, HEAD, POST, PUT"),
                ("DELETE h /b", "/"),
            ],
        ),
        (
            &["POST /a/", "/a/b/"],
            &[("GET h /a/x", "405 POST"), ("GET h /a/b/", "/a/b/"), ("GET h /a", "308")],
        ),
        (&["POST /a", "/a"], &[("POST h /a", "POST /a"), ("GET h /a", "/a"), ("BREW h /a", "/a")]),
        (
            &["GET /a", "HEAD /a"],
            &[("GET h /a", "GET /a"), ("HEAD h /a", "HEAD /a"), ("POST h /a", "405 GET, HEAD")],
        ),
        (&["HEAD,GET /a"], &[("POST h /a", "405 HEAD, GET"), ("HEAD h /a", "HEAD,GET /a")]),
        (&["OPTIONS /a"], &[("OPTIONS h /a", "OPTIONS /a"), ("HEAD h /a", "405 OPTIONS")]),
        (&["GET,GET /a"], &[("GET h /a", "GET,GET /a"), ("POST h /a", "405 GET, HEAD")]),
        (&["GET a.com/x", "/x"], &[("POST a.com /x", "405 GET, HEAD"), ("POST b.com /x", "/x")]),
    ];

    const HOSTS: &[Case] = &[
        (
            &["a.com/", "*.a.com/", "*.b.a.com/", "/"],
            &[
                ("GET a.com /x", "a.com/"),
                ("GET A.Com /x", "a.com/"),
                ("GET a.com. /x", "a.com/"),
                ("GET a.com:8080 /x", "a.com/"),
                ("GET A.COM.:80 /x", "a.com/"),
                ("GET c.a.com /x", "*.a.com/"),
                ("GET d.c.A.com. /x", "*.a.com/"),
                ("GET b.a.com /x", "*.a.com/"),
                ("GET c.b.a.com /x", "*.b.a.com/"),
                ("GET e.d.c.b.a.com:1 /x", "*.b.a.com/"),
                ("GET xa.com /x", "/"),
                ("GET a.com.evil.org /x", "/"),
                ("GET .a.com /x", "/"),
                ("GET com /x", "/"),
                ("GET  /x", "/"),
            ],
        ),
        (
            &["a.com/x", "*.com/x/", "*.a.com/z", "/y", "/x"],
            &[
                ("GET a.com /x", "a.com/x"),
                // The next host is asked where no route of the first fits the path.
                ("GET a.com /x/1", "*.com/x/"),
                ("GET a.com /y", "/y"),
                ("GET a.com /z", "404"),
                ("GET b.a.com /z", "*.a.com/z"),
                ("GET b.a.com /x/1", "*.com/x/"),
                // The tree answers for its name, so that the exact path of any host does not.
                ("GET b.com /x", "308"),
                ("GET b.org /x", "/x"),
            ],
        ),
        (
            // The redirect comes before the `/` of the same host, and after that of a host
            // which is asked first.
            &["a.com/", "/api/", "/"],
            &[("GET a.com /api", "a.com/"), ("GET b.com /api", "308")],
        ),
        (&["a.com/api/", "/api"], &[("GET a.com /api", "308"), ("GET b.com /api", "/api")]),
        (
            &["[2001:DB8::1]/", "127.0.0.1/"],
            &[
                ("GET [2001:db8::1] /", "[2001:DB8::1]/"),
                ("GET [2001:0db8:0:0::1]:8080 /", "[2001:DB8::1]/"),
                ("GET [2001:db8::2] /", "404"),
                ("GET 127.0.0.1:80 /", "127.0.0.1/"),
                ("GET [] /", "404"),
                ("GET [2001:db8::1 /", "404"),
            ],
        ),
    ];

    #[test]
    fn the_most_specific_route_wins() {
        for (routes, requests) in [PATHS, METHODS, HOSTS].concat() {
            let table = table(routes).unwrap();
            for (request, found) in requests {
                assert_eq!(ask(&table, request), *found, "{request} among {routes:?}");
            }
        }
    }

    #[test]
    fn routes_that_nothing_decides_between_are_refused() {
        for routes in [
            ["/a", "/a"],
            ["/a/", "/a/"],
            ["GET /a", "POST,GET /a"],
            ["a.com/a", "A.com/a"],
            ["*.a.com/a", "*.A.com/a"],
            ["/%61", "/a"],
            ["/%e7", "/%E7"],
        ] {
            let error = table(&routes).unwrap_err().to_string();
            assert!(error.contains(routes[0]) && error.contains(routes[1]), "{error}");
        }
    }

    #[test]
    fn a_path_that_no_request_can_have_is_refused() {
        for path in ["/a%2Fb", "/..", "/a b", "b"] {
            let mut route = written("/");
            route.path = path.to_owned();
            let error = Table::of_routes(&[route], &Lists::new()).unwrap_err();
            assert!(matches!(error, RouteError::Path { .. }), "{error}");
            let mut route = written("/");
            route.strip_prefix = Some(path.to_owned());
            let error = Table::of_routes(&[route], &Lists::new()).unwrap_err();
            assert!(matches!(error, RouteError::Path { .. }), "{error}");
        }
    }

    #[test]
    fn a_missing_list_names_the_file() {
        let mut route = written("/");
        route.deny_openids_file = Some("/nowhere/banned.txt".into());
        let error = Table::of_routes(&[route], &Lists::new()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/banned.txt"), "{error}");
    }

    #[test]
    fn a_route_keeps_what_was_written_and_takes_its_prefix_off() {
        let mut route = written("/api/");
        route.upstream = 3;
        route.auth = Auth::Optional;
        route.max_body_bytes = Some(7);
        route.strip_prefix = Some("/api".to_owned());
        let table = Table::of_routes(&[route, written("/b")], &Lists::new()).unwrap();
        let names: Vec<&str> = table.routes().iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["/api/", "/b"]);
        let Found::Route(route) = table.find("h", "/api/x", "GET") else { panic!("no route") };
        assert_eq!((route.upstream, route.auth), (3, Auth::Optional));
        assert_eq!(route.max_body_bytes, Some(7));
        assert_eq!(route.upstream_path("/api;v=2/x;y"), "/x;y");
        assert_eq!(route.upstream_path("/api/"), "/");
        let Found::Route(route) = table.find("h", "/b", "GET") else { panic!("no route") };
        assert_eq!(route.upstream_path("/b"), "/b");
        assert!(route.rate().is_none());
    }

    /// The contract's paragraph, done slowly: all routes are looked at, for each host pattern
    /// anew.
    fn slowly(routes: &[config::Route], host: &str, path: &str, method: &str) -> String {
        let mut patterns: Vec<(usize, &HostPattern)> = Vec::new();
        for route in routes {
            let rank = match &route.host {
                HostPattern::Exact(exact) if exact == host => usize::MAX,
                HostPattern::Wildcard(suffix) if host.ends_with(suffix.as_str()) => suffix.len(),
                HostPattern::Any => 0,
                HostPattern::Exact(_) | HostPattern::Wildcard(_) => continue,
            };
            patterns.push((rank, &route.host));
        }
        patterns.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (_, pattern) in patterns {
            let here = || routes.iter().filter(|route| route.host == *pattern);
            let is_tree = |route: &&config::Route| route.path.ends_with('/');
            let chosen = if here().any(|route| route.path == path) {
                path
            } else if here().any(|route| route.path == format!("{path}/")) {
                return "308".to_owned();
            } else {
                let trees = here().filter(is_tree).filter(|route| path.starts_with(&route.path));
                match trees.max_by_key(|route| route.path.len()) {
                    Some(route) => &route.path,
                    None => continue,
                }
            };
            let there = || here().filter(|route| route.path == chosen);
            let names = |name: &str| {
                there().find(|route| route.methods.iter().any(|method| method == name))
            };
            let head = if method == "HEAD" { names("GET") } else { None };
            let rest = there().find(|route| route.methods.is_empty());
            return match names(method).or(head).or(rest) {
                Some(route) => route.name.clone(),
                None => "405".to_owned(),
            };
        }
        "404".to_owned()
    }

    fn part(parts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        prop::sample::select(parts)
    }

    fn path() -> impl Strategy<Value = String> {
        let segments = prop::collection::vec(part(&["a", "b", "ab"]), 0..4);
        (segments, any::<bool>()).prop_map(|(segments, is_tree)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            if is_tree || path.is_empty() { format!("{path}/") } else { path }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_table_agrees_with_a_search_through_all_routes(
            routes in prop::collection::vec(
                (
                    part(&["", "GET ", "POST ", "HEAD "]),
                    part(&["", "a.b", "x.a.b", "*.b", "*.a.b"]),
                    path(),
                ),
                0..12,
            ),
            requests in prop::collection::vec(
                (
                    part(&["a.b", "x.a.b", "y.x.a.b", "b", "c"]),
                    path(),
                    part(&["GET", "HEAD", "POST"]),
                ),
                20,
            ),
        ) {
            let names: std::collections::BTreeSet<_> =
                routes.iter().map(|(methods, host, path)| format!("{methods}{host}{path}")).collect();
            let routes: Vec<_> = names.iter().map(|text| written(text)).collect();
            let table = Table::of_routes(&routes, &Lists::new()).unwrap();
            for (host, path, method) in requests {
                let found = show(&table.find(host, &path, method));
                let found = if found.starts_with("405") { "405" } else { &found };
                prop_assert_eq!(found, slowly(&routes, host, &path, method));
            }
        }
    }
}
