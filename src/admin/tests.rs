//! The operator's listener through a real socket.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::Clock;
use crate::identity::{AppId, OpenId};
use crate::secret::Secret;
use crate::session::{Issued, NewSession};
use crate::wechat::Wechat;

struct World {
    address: SocketAddr,
    admin: Arc<Admin>,
    drain: watch::Sender<bool>,
    task: JoinHandle<()>,
}

const UP: &str = "[[upstreams]]\nname = \"php\"\nservers = [\"127.0.0.1:1\"]\n\
                  [[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"public\"\n";
const DOWN: &str = "[[upstreams]]\nname = \"lost\"\nservers = [\"no-such-host.invalid:1\"]\n";
const TO_DOWN: &str = "[[routes]]\npath = \"/lost/\"\nupstream = \"lost\"\nauth = \"public\"\n";

fn view(text: &str, metrics: &Arc<Metrics>) -> View {
    let apps = "[[apps]]\nappid = \"wxapp0000000001\"\nsecret = \"one\"\n";
    let text = format!("[session]\nstore = \"memory\"\n{text}\n{apps}");
    let loaded = crate::config::parse(Path::new("gateway.toml"), &text, &|_| None);
    let config = loaded.map_err(|problems| problems.to_string()).unwrap().config;
    let upstreams = Arc::new(Upstreams::build(&config, None, metrics).unwrap());
    let wechat = Wechat::new(&config, Clock::system(), Arc::clone(metrics)).unwrap();
    View { config: Arc::new(config), upstreams, wechat }
}

impl World {
    async fn new(text: &str) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (drain, draining) = watch::channel(false);
        let view = ArcSwap::from_pointee(view(text, &metrics));
        let config = Arc::clone(&view.load().config);
        let clock = Clock::set_to(1_800_000_000_000);
        let sessions =
            Sessions::new(&config.session, &config.apps, clock, Arc::clone(&metrics)).unwrap();
        let sessions = Arc::new(sessions);
        let admin = Arc::new(Admin { view, metrics, sessions, draining });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, Arc::clone(&admin)));
        Self { address, admin, drain, task }
    }

    /// The whole answer to a request with these further header lines.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn log_in(&self, openid: &str) -> Issued {
        let new = NewSession {
            openid: OpenId::parse(openid).unwrap(),
            appid: AppId::parse("wxapp0000000001").unwrap(),
            unionid: None,
            session_key: Some(Secret::new("tiihtNczf5v6AKRyjwEUhQ==".to_owned())),
        };
        self.admin.sessions.open(new).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask("GET", path, "").await
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The value of a header, whose name is given in lower case.
fn header(answer: &str, name: &str) -> Option<String> {
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.to_lowercase() == name).map(|(_, value)| value.to_owned())
}

#[tokio::test]
async fn metrics_are_scraped_as_text_and_kept_by_no_cache() {
    let world = World::new(UP).await;
    world.admin.metrics.token_cache.with_label_values(&["hit"]).inc();
    let answer = world.get("/metrics").await;
    assert_eq!(status(&answer), 200);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(header(&answer, "content-type").as_deref(), Some(kind));
    assert_eq!(header(&answer, "cache-control").as_deref(), Some("no-store"));
    assert!(answer.contains("\nwxgate_token_cache_total{result=\"hit\"} 1\n"), "{answer}");
    assert!(answer.contains("\nprocess_open_fds "), "{answer}");
}

#[tokio::test]
async fn a_draining_process_lives_but_is_not_ready() {
    let world = World::new(UP).await;
    let ready = world.get("/readyz").await;
    assert_eq!(status(&ready), 200);
    let expected =
        serde_json::json!({"ready": true, "draining": false, "upstreams_down": [], "store": "up"});
    assert_eq!(body(&ready), expected);
    world.drain.send_replace(true);
    let draining = world.get("/readyz").await;
    assert_eq!(status(&draining), 503);
    let expected =
        serde_json::json!({"ready": false, "draining": true, "upstreams_down": [], "store": "up"});
    assert_eq!(body(&draining), expected);
    assert_eq!(status(&world.get("/livez").await), 200);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_named_if_a_route_needs_it_also_after_a_reload() {
    let world = World::new(&format!("{UP}{DOWN}")).await;
    assert_eq!(status(&world.get("/readyz").await), 200);
    let needed = view(&format!("{UP}{DOWN}{TO_DOWN}"), &world.admin.metrics);
    world.admin.view.store(Arc::new(needed));
    let answer = world.get("/readyz").await;
    assert_eq!(status(&answer), 503);
    let expected = serde_json::json!({"ready": false, "draining": false, "upstreams_down": ["lost"], "store": "up"});
    assert_eq!(body(&answer), expected);
}

#[tokio::test]
async fn with_a_token_everything_but_health_asks_for_it() {
    let token = "admin-token-0123456789abcdef";
    let world = World::new(&format!("[admin]\ntoken = \"{token}\"\n{UP}")).await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(&world.get(path).await), 200, "{path}");
    }
    let good = format!("Authorization: bearer {token}\r\n");
    for headers in [
        String::new(),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: Bearer {token}x\r\n"),
        "Authorization: Bearer admin-token\r\n".to_owned(),
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: {token}\r\n"),
        format!("{good}{good}"),
    ] {
        for path in ["/metrics", "/nothing", "/metrics/", "/", "/api/v1/config"] {
            let answer = world.ask("GET", path, &headers).await;
            assert_eq!(status(&answer), 401, "{path} {headers}");
            let challenge = "Bearer realm=\"wxgate admin\"";
            assert_eq!(header(&answer, "www-authenticate").as_deref(), Some(challenge));
            assert_eq!(body(&answer)["error"], "unauthorized");
            assert!(!answer.contains(token));
        }
    }
    assert_eq!(status(&world.ask("GET", "/metrics", &good).await), 200);
    assert_eq!(status(&world.ask("GET", "/nothing", &good).await), 404);
}

#[tokio::test]
async fn a_browser_without_the_token_is_asked_for_it_and_shown_nothing_else() {
    let token = "admin-token-0123456789abcdef";
    let world = World::new(&format!("[admin]\ntoken = \"{token}\"\n{UP}")).await;
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let question = world.ask("GET", "/", browser).await;
    assert_eq!(status(&question), 401);
    assert_eq!(header(&question, "content-type").as_deref(), Some("text/html; charset=utf-8"));
    assert!(question.contains("type=\"password\"") && !question.contains("wxgate_"), "{question}");
    let elsewhere = world.ask("GET", "/api/v1/config", browser).await;
    assert_eq!(body(&elsewhere)["error"], "unauthorized");
    let shown = format!("{browser}Authorization: Bearer {token}\r\n");
    let page = world.ask("GET", "/", &shown).await;
    assert_eq!(status(&page), 200);
    assert!(page.contains("wxgate_http_requests_total"));
}

#[tokio::test]
async fn the_dashboard_is_one_page_that_loads_nothing_from_elsewhere() {
    let world = World::new(UP).await;
    let page = world.get("/").await;
    assert_eq!(status(&page), 200);
    let policy = header(&page, "content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(policy.contains("connect-src 'self'"), "{policy}");
    for elsewhere in ["http://", "https://", "src=", "@import", "url(", "innerHTML"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let metrics = world.get("/metrics").await;
    assert!(metrics.contains("wxgate_http_requests_in_flight"));
}

#[tokio::test]
async fn upstreams_are_told_with_their_servers() {
    let world = World::new(&format!("{UP}{DOWN}")).await;
    let answer = world.get("/api/v1/upstreams").await;
    assert_eq!(status(&answer), 200);
    let server = |address: &str, up: bool, resolved: &[&str]| {
        serde_json::json!({
            "address": address, "weight": 1, "up": up, "in_flight": 0, "resolved": resolved,
        })
    };
    let expected = serde_json::json!({"upstreams": [
        {"name": "php", "balance": "round_robin", "up": true,
         "servers": [server("127.0.0.1:1", true, &["127.0.0.1:1"])]},
        {"name": "lost", "balance": "round_robin", "up": false,
         "servers": [server("no-such-host.invalid:1", false, &[])]},
    ]});
    assert_eq!(body(&answer), expected);
}

#[tokio::test]
async fn the_configuration_in_force_is_told_without_its_secrets() {
    let world = World::new(UP).await;
    let config = world.get("/api/v1/config").await;
    assert_eq!(status(&config), 200);
    assert_eq!(body(&config)["apps"][0]["appid"], "wxapp0000000001");
    assert_eq!(body(&config)["apps"][0]["secret"], "[secret]");
    let routes = world.get("/api/v1/routes").await;
    assert_eq!(status(&routes), 200);
    let routes = body(&routes);
    assert_eq!(routes["routes"].as_array().unwrap().len(), 1);
    assert_eq!(routes["routes"][0]["path"], "/");
    assert_eq!(routes["routes"][0]["upstream"], "php");
    assert_eq!(routes["routes"][0]["auth"], "public");
}

#[tokio::test]
async fn a_reloaded_token_counts_at_once() {
    let world = World::new(UP).await;
    assert_eq!(status(&world.get("/metrics").await), 200);
    let text = format!("[admin]\ntoken = \"admin-token-0123456789abcdef\"\n{UP}");
    world.admin.view.store(Arc::new(view(&text, &world.admin.metrics)));
    assert_eq!(status(&world.get("/metrics").await), 401);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_a_wrong_method_405_in_json() {
    let world = World::new(UP).await;
    for path in ["/x", "/metrics/", "/api/v1/nothing", "/api/v1/", "/livez/x"] {
        let answer = world.get(path).await;
        assert_eq!(
            (status(&answer), &body(&answer)["error"]),
            (404, &"not_found".into()),
            "{path}"
        );
    }
    for path in ["/metrics", "/livez", "/readyz", "/", "/api/v1/config"] {
        let answer = world.ask("POST", path, "Content-Length: 0\r\n").await;
        assert_eq!(status(&answer), 405, "{path}");
        assert_eq!(body(&answer)["error"], "method_not_allowed");
        assert_eq!(header(&answer, "allow").as_deref(), Some("GET,HEAD"));
        let head = world.ask("HEAD", path, "").await;
        assert_eq!(status(&head), 200, "{path}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_and_others_are_served_meanwhile() {
    let world = World::new(UP).await;
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    let long = format!("X-Long: {}\r\n", "a".repeat(32 * 1024));
    assert_eq!(status(&world.ask("GET", "/livez", &long).await), 431);
    assert_eq!(status(&world.get("/livez").await), 200);
}

#[tokio::test]
async fn when_serving_ends_the_port_is_closed_and_connections_too() {
    let world = World::new(UP).await;
    let mut open = TcpStream::connect(world.address).await.unwrap();
    open.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    open.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    world.task.abort();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn sessions_are_listed_by_user_and_in_pages_without_what_is_secret() {
    let world = World::new(UP).await;
    let alice = world.log_in("oAlice0001").await;
    for number in 0..4 {
        world.log_in(&format!("oOther000{number}")).await;
    }
    let answer = world.get("/api/v1/sessions?openid=oAlice0001").await;
    assert_eq!(status(&answer), 200);
    let expected = serde_json::json!({
        "sid": &*alice.verified.identity.sid,
        "openid": "oAlice0001",
        "appid": "wxapp0000000001",
        "scope": "",
        "created_at": "2027-01-15T08:00:00Z",
        "expires_at": "2027-02-14T08:00:00Z",
    });
    assert_eq!(body(&answer), serde_json::json!({ "sessions": [expected] }));
    let one = format!("/api/v1/sessions/{}", alice.verified.identity.sid);
    assert_eq!(body(&world.get(&one).await), expected);

    let mut found = std::collections::BTreeSet::new();
    let mut cursor = String::new();
    for _ in 0..10 {
        let page = body(&world.get(&format!("/api/v1/sessions?limit=2{cursor}")).await);
        let sessions = page["sessions"].as_array().unwrap().clone();
        assert!(sessions.len() <= 2);
        found.extend(sessions.iter().map(|session| session["sid"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found.len(), 5);
    let other = body(&world.get("/api/v1/sessions?appid=wxother").await);
    assert_eq!(other, serde_json::json!({ "sessions": [] }));
    for query in ["limit=x", "openid=a", "unknown=1", "limit=1&limit=2"] {
        let answer = world.get(&format!("/api/v1/sessions?{query}")).await;
        assert_eq!(status(&answer), 400, "{query}");
        assert_eq!(body(&answer)["error"], "invalid_request");
    }
}

#[tokio::test]
async fn a_kicked_session_and_a_kicked_user_are_out_at_once() {
    let world = World::new(UP).await;
    let tokens = [world.log_in("oAlice0001").await, world.log_in("oAlice0001").await];
    let bob = world.log_in("oBob000001").await;
    let alive = |issued: &Issued| world.admin.sessions.verify(issued.token()).is_ok();

    let first = format!("/api/v1/sessions/{}", tokens[0].verified.identity.sid);
    let answer = world.ask("DELETE", &first, "").await;
    assert_eq!(status(&answer), 204);
    assert!(!alive(&tokens[0]) && alive(&tokens[1]) && alive(&bob));
    for method in ["DELETE", "GET"] {
        let again = world.ask(method, &first, "").await;
        assert_eq!((status(&again), &body(&again)["error"]), (404, &"not_found".into()));
    }
    for _ in 0..2 {
        let answer = world.ask("DELETE", "/api/v1/users/oAlice0001/sessions", "").await;
        assert_eq!(status(&answer), 204);
    }
    assert!(!alive(&tokens[1]) && alive(&bob));
    assert_eq!(status(&world.ask("DELETE", "/api/v1/users/x/sessions", "").await), 400);
    assert_eq!(status(&world.get("/api/v1/users/oBob000001/sessions").await), 405);
}

#[tokio::test]
async fn without_a_token_a_name_that_is_not_this_machines_is_refused() {
    let world = World::new(UP).await;
    for (host, expected) in [
        ("localhost", 200),
        ("LOCALHOST:9090", 200),
        ("127.0.0.1:9090", 200),
        ("[::1]:9090", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:9090", 403),
        ("localhost.evil.example:9090", 403),
        ("", 403),
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let request =
            format!("GET /api/v1/config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(status(&answer), expected, "{host}");
    }
}
