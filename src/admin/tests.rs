//! The operator's listener through a real socket.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

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
    let text = format!("{text}\n{apps}");
    let loaded = crate::config::parse(Path::new("gateway.toml"), &text, &|_| None);
    let config = loaded.map_err(|problems| problems.to_string()).unwrap().config;
    let upstreams = Arc::new(Upstreams::build(&config, None, metrics));
    View { config: Arc::new(config), upstreams }
}

impl World {
    async fn new(text: &str) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (drain, draining) = watch::channel(false);
        let view = ArcSwap::from_pointee(view(text, &metrics));
        let admin = Arc::new(Admin { view, metrics, draining });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, Arc::clone(&admin)));
        Self { address, admin, drain, task }
    }

    /// The whole answer to a request with these further header lines.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
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
    let expected = serde_json::json!({"ready": true, "draining": false, "upstreams_down": []});
    assert_eq!(body(&ready), expected);
    world.drain.send_replace(true);
    let draining = world.get("/readyz").await;
    assert_eq!(status(&draining), 503);
    let expected = serde_json::json!({"ready": false, "draining": true, "upstreams_down": []});
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
    let expected =
        serde_json::json!({"ready": false, "draining": false, "upstreams_down": ["lost"]});
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
        for path in ["/metrics", "/nothing", "/metrics/"] {
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
    for path in ["/", "/metrics/", "/api/v1/nothing", "/livez/x"] {
        let answer = world.get(path).await;
        assert_eq!(
            (status(&answer), &body(&answer)["error"]),
            (404, &"not_found".into()),
            "{path}"
        );
    }
    for path in ["/metrics", "/livez", "/readyz"] {
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
    open.write_all(b"GET /livez HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    open.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    world.task.abort();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}
