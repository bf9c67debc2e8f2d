//! Which route a request falls under.

use crate::harness::http2::{Call, Http2};
use crate::harness::tls::{Authority, NAME};
use crate::harness::{Connection, Reply, Site, Upstream, eventually};
use crate::tls;

/// A route to a backend of its own, so that a test sees where a request went.
fn route(backend: &str, lines: &str) -> String {
    format!(
        "[[routes]]\nname = \"{backend}\"\nupstream = \"{backend}\"\nauth = \"public\"\n{lines}\n"
    )
}

/// A site whose backends answer with their names.
struct Routed {
    site: Site,
    _backends: Vec<Upstream>,
}

impl Routed {
    fn start(routes: &[(&str, &str)]) -> Self {
        let (mut upstreams, mut written, mut backends) = (String::new(), String::new(), vec![]);
        for (name, lines) in routes {
            written.push_str(&route(name, lines));
            let backend = Upstream::start();
            backend.answers_everything(Reply::ok(name));
            upstreams.push_str(&format!(
                "[[upstreams]]\nname = \"{name}\"\nservers = [\"{}\"]\n",
                backend.address()
            ));
            backends.push(backend);
        }
        let site = Site::with().more_upstreams(&upstreams).routes(&written);
        // `php` must be used by a route too.
        let site = site.more_routes(
            "[[routes]]\npath = \"/unused/\"\nupstream = \"php\"\nauth = \"public\"\n",
        );
        Self { site: site.start(), _backends: backends }
    }

    #[track_caller]
    fn assert_goes(&self, host: &str, target: &str, to: &str) {
        let answer = self.site.get(target).host(host).send();
        assert_eq!(answer.text(), to, "{host} {target}: {}", answer.status);
    }

    #[track_caller]
    fn assert_status(&self, host: &str, target: &str, status: u16) {
        let answer = self.site.get(target).host(host).send();
        assert_eq!(answer.status, status, "{host} {target}: {}", answer.text());
    }
}

#[test]
fn an_exact_path_goes_before_a_tree_and_a_longer_tree_before_a_shorter() {
    let routed = Routed::start(&[
        ("root", "path = \"/\""),
        ("tree", "path = \"/a/\""),
        ("deep", "path = \"/a/b/\""),
        ("exact", "path = \"/a/b/c\""),
    ]);
    for (target, to) in [
        ("/", "root"),
        ("/x", "root"),
        ("/ab", "root"),
        ("/a/", "tree"),
        ("/a/x", "tree"),
        ("/a/bc", "tree"),
        ("/a/b/", "deep"),
        ("/a/b/c/", "deep"),
        ("/a/b/cd", "deep"),
        ("/a/b/c", "exact"),
        ("/a/b/c?d=/", "exact"),
        ("/A/b/c", "root"),
    ] {
        routed.assert_goes("any.test", target, to);
    }
}

#[test]
fn hosts_are_exact_then_the_longest_wildcard_then_any() {
    let routed = Routed::start(&[
        ("any", "path = \"/\""),
        ("wild", "host = \"*.example.com\"\npath = \"/\""),
        ("wilder", "host = \"*.api.example.com\"\npath = \"/\""),
        ("exact", "host = \"www.api.example.com\"\npath = \"/\""),
    ]);
    for (host, to) in [
        ("other.test", "any"),
        ("example.com", "any"),
        ("badexample.com", "any"),
        ("example.com.evil.test", "any"),
        ("a.example.com", "wild"),
        ("a.b.example.com", "wild"),
        ("api.example.com", "wild"),
        ("x.api.example.com", "wilder"),
        ("x.y.api.example.com", "wilder"),
        ("www.api.example.com", "exact"),
        ("WWW.API.Example.COM", "exact"),
        ("www.api.example.com.", "exact"),
        ("www.api.example.com:8080", "exact"),
        ("www.api.example.com.:8080", "exact"),
        ("127.0.0.1:80", "any"),
        ("[::1]:80", "any"),
    ] {
        routed.assert_goes(host, "/x", to);
    }
}

#[test]
fn the_next_host_is_tried_only_where_no_route_of_the_first_fits_the_path() {
    let routed = Routed::start(&[
        ("any", "path = \"/\""),
        ("any-posts", "path = \"/posts\"\nmethods = [\"GET\"]"),
        ("shop", "host = \"shop.test\"\npath = \"/cart/\""),
        ("shop-posts", "host = \"shop.test\"\npath = \"/posts\"\nmethods = [\"POST\"]"),
    ]);
    routed.assert_goes("shop.test", "/cart/1", "shop");
    routed.assert_goes("shop.test", "/other", "any");
    routed.assert_goes("other.test", "/cart/1", "any");
    routed.assert_goes("other.test", "/posts", "any-posts");
    // The path fits a route of this host: its methods are final.
    let answer = routed.site.get("/posts").host("shop.test").send();
    answer.assert_refused(405, "method_not_allowed");
    assert_eq!(answer.header("Allow"), Some("POST"));
}

#[test]
fn a_looser_route_never_opens_what_a_stricter_one_guards() {
    let site = Site::with()
        .routes(
            "[[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"public\"\n\
             [[routes]]\npath = \"/admin/\"\nmethods = [\"GET\"]\nupstream = \"php\"\n\
             auth = \"required\"\n",
        )
        .start();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = site.request(method, "/admin/users").body("").send();
        answer.assert_refused(405, "method_not_allowed");
        let allow: Vec<&str> = answer.header("Allow").unwrap().split(", ").collect();
        assert!(allow.contains(&"GET") && !allow.contains(&method), "{allow:?}");
    }
    site.get("/admin/users").send().assert_refused(401, "unauthorized");
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn routes_of_one_path_are_told_apart_by_their_methods() {
    let routed = Routed::start(&[
        ("read", "path = \"/items\"\nmethods = [\"GET\"]"),
        ("write", "path = \"/items\"\nmethods = [\"POST\", \"PUT\"]"),
    ]);
    let site = &routed.site;
    assert_eq!(site.get("/items").send().text(), "read");
    assert_eq!(site.request("HEAD", "/items").send().status, 200, "GET includes HEAD");
    assert_eq!(site.post("/items").body("").send().text(), "write");
    assert_eq!(site.request("PUT", "/items").body("").send().text(), "write");
    let answer = site.request("DELETE", "/items").send();
    answer.assert_refused(405, "method_not_allowed");
    let mut allow: Vec<&str> = answer.header("Allow").unwrap().split(", ").collect();
    allow.retain(|method| *method != "HEAD");
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "POST", "PUT"]);
}

#[test]
fn where_no_route_fits_there_is_404() {
    let routed = Routed::start(&[("a", "path = \"/a/\""), ("b", "path = \"/b\"")]);
    for target in ["/", "/c", "/b/", "/b/c", "/aa/", "/ab"] {
        routed.assert_status("any.test", target, 404);
        let answer = routed.site.get(target).send();
        answer.assert_refused(404, "not_found");
    }
}

#[test]
fn a_tree_without_its_slash_is_308_with_the_query_kept() {
    let routed = Routed::start(&[
        ("root", "path = \"/\""),
        ("tree", "path = \"/api/\""),
        ("deep", "path = \"/api/v1/\""),
        ("other", "path = \"/exact/\""),
        ("exact", "path = \"/exact\""),
    ]);
    for (target, location) in [
        ("/api", "/api/"),
        ("/api?x=1&y=%2F", "/api/?x=1&y=%2F"),
        ("/api?", "/api/?"),
        ("/api/v1", "/api/v1/"),
        ("//api", "/api/"),
        ("/x/../api", "/api/"),
        ("/%61pi", "/api/"),
    ] {
        let answer = routed.site.get(target).send();
        assert_eq!(answer.status, 308, "{target}: {}", answer.text());
        let got = answer.header("Location").unwrap();
        let got = got.strip_prefix("http://shop.test").unwrap_or(got);
        assert_eq!(got, location, "{target}");
        assert!(!got.starts_with("//"), "{target} leads to another host");
    }
    routed.assert_goes("any.test", "/exact", "exact");
    routed.assert_goes("any.test", "/exact/", "other");
    routed.assert_goes("any.test", "/apis", "root");
    let answer = routed.site.post("/api").body("x").send();
    assert_eq!(answer.status, 308, "any method");
}

#[test]
fn a_redirect_never_leads_to_another_site() {
    let routed = Routed::start(&[("tree", "path = \"/evil.test/\""), ("root", "path = \"/\"")]);
    for target in ["//evil.test", "///evil.test", "/.//evil.test", "/x/..//evil.test"] {
        let answer = routed.site.get(target).send();
        if answer.status == 308 {
            let location = answer.header("Location").unwrap();
            let ours = location.starts_with("http://shop.test/")
                || (location.starts_with('/') && !location.starts_with("//"));
            assert!(ours, "{target}: {location}");
        }
    }
}

#[test]
fn strip_prefix_is_taken_off_before_forwarding() {
    let site = Site::with()
        .routes(
            "[[routes]]\npath = \"/api/\"\nstrip_prefix = \"/api\"\nupstream = \"php\"\n\
             auth = \"public\"\n",
        )
        .start();
    for (target, forwarded) in [
        ("/api/me", "/me"),
        ("/api/", "/"),
        ("/api/?x=1", "/?x=1"),
        ("/api/api/me", "/api/me"),
        ("//api//me", "/me"),
        ("/%61pi/me", "/me"),
        ("/api/a%2Cb", "/a%2Cb"),
    ] {
        assert_eq!(site.get(target).send().status, 200, "{target}");
        assert_eq!(site.upstream.last().target, forwarded, "{target}");
    }
}

#[test]
fn a_route_may_have_its_own_body_limit() {
    let site = Site::with()
        .server("max_body_bytes = \"1KiB\"")
        .routes(
            "[[routes]]\npath = \"/small\"\nupstream = \"php\"\nauth = \"public\"\n\
             [[routes]]\npath = \"/big\"\nmax_body_bytes = \"4KiB\"\nupstream = \"php\"\n\
             auth = \"public\"\n\
             [[routes]]\npath = \"/any\"\nmax_body_bytes = 0\nupstream = \"php\"\n\
             auth = \"public\"\n",
        )
        .start();
    let send = |path: &str, length: usize| site.post(path).body("x".repeat(length)).send();
    assert_eq!(send("/small", 1024).status, 200);
    send("/small", 1025).assert_refused(413, "content_too_large");
    assert_eq!(send("/big", 4096).status, 200);
    send("/big", 4097).assert_refused(413, "content_too_large");
    assert_eq!(send("/any", 100_000).status, 200);
}

#[test]
fn servers_take_turns_by_weight() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let servers =
        format!("[\"{}\", {{ address = \"{}\", weight = 2 }}]", first.address(), second.address());
    let site = Site::with().servers(&servers).start();
    for _ in 0..30 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (10, 20));
}

#[test]
fn least_conn_passes_over_a_server_that_is_busy_also_after_a_reload() {
    let (busy, idle) = (Upstream::start(), Upstream::start());
    busy.answers("/open/slow", Reply::default().then_hang());
    let mut site = Site::with()
        .servers(&format!("[\"{}\"]", busy.address()))
        .upstream("balance = \"least_conn\"")
        .start();
    let mut waiting: Vec<Connection> = (0..3).map(|_| site.connect()).collect();
    for connection in &mut waiting {
        connection.send(site.get("/open/slow").bytes());
    }
    eventually("three wait", || busy.requests_to("/open/slow").len() == 3);
    let both = format!("[\"{}\", \"{}\"]", busy.address(), idle.address());
    assert!(site.reload(|settings| settings.servers(&both)));
    for _ in 0..10 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    assert_eq!((busy.requests_to("/open/x").len(), idle.requests_to("/open/x").len()), (0, 10));
}

#[test]
fn hash_openid_keeps_a_user_on_a_server() {
    let backends: Vec<Upstream> = (0..3).map(|_| Upstream::start()).collect();
    let addresses: Vec<String> =
        backends.iter().map(|backend| format!("\"{}\"", backend.address())).collect();
    let site = Site::with()
        .servers(&format!("[{}]", addresses.join(", ")))
        .upstream("balance = \"hash_openid\"")
        .start();
    for number in 0..12 {
        let token = site.log_in(&format!("user{number}"));
        for _ in 0..3 {
            assert_eq!(site.get("/api/me").bearer(&token).send().status, 200);
        }
    }
    let mut total = 0;
    for backend in &backends {
        let requests = backend.requests();
        total += requests.len();
        assert_eq!(requests.len() % 3, 0, "a user's requests were spread");
    }
    assert_eq!(total, 36);
}

#[test]
fn a_host_name_of_an_upstream_is_resolved() {
    let backend = Upstream::start();
    let servers = format!("[\"localhost:{}\"]", backend.address().port());
    let site = Site::with().servers(&servers).upstream("retries = 1").start();
    for _ in 0..6 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    assert_eq!(backend.requests().len(), 6);
}

#[test]
fn the_same_route_is_chosen_over_http_2() {
    let (deep, exact, rest) = (Upstream::start(), Upstream::start(), Upstream::start());
    let named = [("deep", &deep), ("exact", &exact), ("rest", &rest)];
    let mut upstreams = String::new();
    for (name, backend) in named {
        backend.answers_everything(Reply::ok(name));
        let address = backend.address();
        upstreams
            .push_str(&format!("[[upstreams]]\nname = \"{name}\"\nservers = [\"{address}\"]\n"));
    }
    let routes = [
        route("deep", "host = \"*.example.com\"\npath = \"/v1/\"\nstrip_prefix = \"/v1\""),
        route("exact", &format!("host = \"{NAME}\"\npath = \"/v1/only\"\nmethods = [\"POST\"]")),
        route("rest", "path = \"/\""),
    ];
    let unused = "[[routes]]\npath = \"/unused/\"\nupstream = \"php\"\nauth = \"public\"\n";
    let authority = Authority::new();
    let site = tls::with(&authority.issue()).more_upstreams(&upstreams);
    let site = site.routes(&routes.concat()).more_routes(unused).start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let ask = |method, target| {
        let answer = http2.send(&Call { method, ..Call::get(target, &[]) }).unwrap();
        (answer.status, answer.text())
    };
    let ok = |name: &str| (200, name.to_owned());
    assert_eq!(ask("POST", "/v1/only"), ok("exact"));
    assert_eq!(exact.last().target, "/v1/only");
    // Its host has the path, and so no looser host is asked.
    assert_eq!(ask("GET", "/v1/only").0, 405);
    assert_eq!(ask("GET", "/v1/x/%6f?q=1"), ok("deep"));
    assert_eq!(deep.last().target, "/x/o?q=1");
    assert_eq!(ask("GET", "/v1/"), ok("deep"));
    assert_eq!(deep.last().target, "/");
    assert_eq!(ask("GET", "/v1").0, 308);
    assert_eq!(ask("GET", "/v2"), ok("rest"));
    assert_eq!(ask("GET", "/v1/../v2"), ok("rest"));
    assert_eq!(rest.last().target, "/v2");
}
