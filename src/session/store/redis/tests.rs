//! Against a real redis-server: what one node does the other hears, and what happens when Redis
//! stops, freezes, forgets or fails over.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::tests::{NOW, Running, eventually, record};
use super::*;
use crate::config::{RedisLayout, RedisTransport};

/// A replica is fed at once, not after five seconds.
const NO_DELAY: &str = "--repl-diskless-sync-delay";

/// A redis-server on a free port that keeps nothing on disk.
pub(in crate::session) struct Server {
    child: Child,
    pub(in crate::session) port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    /// Starts one and waits until it answers.
    pub(in crate::session) async fn start() -> Self {
        Self::with(free_port(), &[]).await
    }

    async fn with(port: u16, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = run(port, folder.path(), more);
        let server = Self { child, port, folder };
        server.answers().await;
        server
    }

    async fn answers(&self) {
        let address = ("127.0.0.1", self.port);
        let is_there = async || tokio::net::TcpStream::connect(address).await.is_ok();
        eventually("redis-server answers", is_there).await;
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn start_again(&mut self, more: &[&str]) {
        self.child = run(self.port, self.folder.path(), more);
        self.answers().await;
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub(in crate::session) fn config(&self) -> config::Redis {
        reach(&[self.port], RedisLayout::Single)
    }

    fn ask(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn run(port: u16, folder: &std::path::Path, more: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn reach(ports: &[u16], layout: RedisLayout) -> config::Redis {
    config::Redis {
        servers: ports.iter().map(|port| ("127.0.0.1".to_owned(), *port)).collect(),
        layout,
        transport: RedisTransport::Plain,
        username: None,
        password: None,
        database: 0,
    }
}

async fn connected(config: config::Redis) -> Running {
    let node = Running::redis(config);
    eventually("connected", async || node.backend.is_up()).await;
    node
}

fn session(sid: &str) -> Record {
    record("openid_ann", "wxapp_1", sid, NOW + 1000)
}

async fn end(node: &Running, sid: &str) -> Result<Option<Ended>, StoreError> {
    node.backend.end(sid, NOW + 500, Unknown::Pass).await
}

#[tokio::test]
async fn what_one_node_ends_the_other_hears() {
    let server = Server::start().await;
    let (one, other) = (connected(server.config()).await, connected(server.config()).await);
    let mut times = Vec::new();
    for number in 0..200 {
        let sid = format!("s{number}");
        one.backend.insert(&session(&sid), None).await.unwrap();
        assert!(other.backend.find(&sid).await.unwrap().is_some());
        end(&one, &sid).await.unwrap().unwrap();
        let ended = std::time::Instant::now();
        eventually("the other node hears", async || other.was_told(&sid)).await;
        times.push(ended.elapsed());
    }
    times.sort();
    // The p99 of 200.
    let slow = times.into_iter().nth(197).unwrap();
    assert!(slow < Duration::from_secs(1), "{slow:?}");
    let late = connected(server.config()).await;
    assert!((0..200).all(|number| late.was_told(&format!("s{number}"))));
}

#[tokio::test]
async fn every_key_has_a_time_to_live_and_nothing_stands_there_in_clear() {
    let server = Server::start().await;
    let node = connected(server.config()).await;
    let mut kept = session("s1");
    kept.session_key = b"sealed elsewhere".to_vec();
    node.backend.insert(&kept, None).await.unwrap();
    node.backend.insert(&session("s2"), None).await.unwrap();
    let jar = Jar { sealed: b"sealed".to_vec(), version: 0 };
    assert!(node.backend.keep_jar("s1", "php", jar).await.unwrap());
    end(&node, "s2").await.unwrap().unwrap();
    let keys = server.ask(&["--raw", "KEYS", "*"]);
    assert!(keys.lines().count() >= 5, "{keys}");
    for key in keys.lines() {
        let left: i64 = server.ask(&["--raw", "TTL", key]).trim().parse().unwrap();
        assert!(0 < left && left <= 1000, "{key}: {left}");
    }
}

#[tokio::test]
async fn a_session_that_is_over_leaves_the_lists() {
    let server = Server::start().await;
    let node = connected(server.config()).await;
    let most = NonZeroUsize::new(5);
    node.backend.insert(&record("openid_ann", "wxapp_1", "s1", NOW + 1), most).await.unwrap();
    node.clock.set_unix_millis((NOW + 2) * 1000);
    node.backend.insert(&session("s2"), most).await.unwrap();
    for set in ["wxgate:{wxapp_1:openid_ann}", "wxgate:{wxapp_1:openid_ann}:order"] {
        assert_eq!(server.ask(&["ZCARD", set]).trim(), "1", "{set}");
    }
}

#[tokio::test]
async fn sessions_from_before_there_was_a_limit_are_the_oldest() {
    let server = Server::start().await;
    let node = connected(server.config()).await;
    let three = NonZeroUsize::new(3);
    for (sid, ends_at, most) in
        [("old2", NOW + 900, None), ("old1", NOW + 800, None), ("new", NOW + 10, three)]
    {
        node.backend.insert(&record("openid_ann", "wxapp_1", sid, ends_at), most).await.unwrap();
    }
    for (sid, oldest) in [("a", "old1"), ("b", "old2"), ("c", "new"), ("d", "a")] {
        let ended = node.backend.insert(&session(sid), three).await.unwrap();
        let ended: Vec<_> = ended.iter().map(|ended| &*ended.sid).collect();
        assert_eq!(ended, [oldest]);
    }
    let order = server.ask(&["--raw", "ZRANGE", "wxgate:{wxapp_1:openid_ann}:order", "0", "-1"]);
    assert_eq!(order.lines().collect::<Vec<_>>(), ["b", "c", "d"], "what ended leaves it");
}

#[tokio::test]
async fn a_server_that_stops_makes_the_node_deaf_after_five_seconds_and_it_recovers() {
    let mut server = Server::start().await;
    let node = connected(server.config()).await;
    node.backend.insert(&session("s1"), None).await.unwrap();
    server.stop();
    let stopped = std::time::Instant::now();
    eventually("down", async || !node.backend.is_up()).await;
    assert!(!node.backend.is_deaf());
    fails_soon(&node).await;
    eventually("deaf", async || node.backend.is_deaf()).await;
    assert!(stopped.elapsed() > Duration::from_secs(3), "{:?}", stopped.elapsed());
    let mut times = Vec::new();
    // A machine may stand still in one of them.
    while !times.iter().any(|took| *took < Duration::from_secs(3)) {
        assert!(times.len() < 3, "{times:?}");
        server.stop();
        eventually("down", async || !node.backend.is_up()).await;
        server.start_again(&[]).await;
        let started = std::time::Instant::now();
        eventually("up again", async || node.backend.is_up()).await;
        times.push(started.elapsed());
    }
}

/// A look-up fails, and does not keep its caller waiting: two of three, since a machine may stand
/// still in one.
async fn fails_soon(node: &Running) {
    let mut times = Vec::new();
    for _ in 0..3 {
        let asked = std::time::Instant::now();
        assert!(node.backend.find("s1").await.is_err());
        times.push(asked.elapsed());
    }
    let kept = times.iter().filter(|took| **took < Duration::from_millis(1500)).count();
    assert!(kept >= 2, "{times:?}");
}

#[tokio::test]
async fn a_server_that_forgot_the_revocations_is_told_them_again() {
    let mut server = Server::start().await;
    let node = connected(server.config()).await;
    node.backend.insert(&session("s1"), None).await.unwrap();
    end(&node, "s1").await.unwrap().unwrap();
    eventually("its own end", async || node.was_told("s1")).await;
    server.stop();
    eventually("down", async || !node.backend.is_up()).await;
    server.start_again(&[]).await;
    eventually("up again", async || node.backend.is_up()).await;
    let late = connected(server.config()).await;
    assert!(late.was_told("s1"));
}

#[tokio::test]
async fn a_frozen_server_holds_nobody_up_and_is_used_again_when_it_thaws() {
    let server = Server::start().await;
    let node = connected(server.config()).await;
    node.backend.insert(&session("s1"), None).await.unwrap();
    server.signal("-STOP");
    fails_soon(&node).await;
    eventually("deaf", async || node.backend.is_deaf()).await;
    server.signal("-CONT");
    eventually("up again", async || node.backend.is_up()).await;
    assert!(node.backend.find("s1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_password_is_needed_where_one_is_set() {
    let server = Server::with(free_port(), &["--requirepass", "sesame"]).await;
    let mut config = server.config();
    let without = Running::redis(config.clone());
    config.password = Some(crate::secret::Secret::new("sesame".to_owned()));
    let with = connected(config).await;
    with.backend.insert(&session("s1"), None).await.unwrap();
    assert!(without.backend.is_deaf());
    assert_eq!(without.backend.find("s1").await, Err(StoreError::Disconnected));
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master() {
    let mut master = Server::with(free_port(), &[NO_DELAY, "0"]).await;
    let master_port = master.port.to_string();
    let more = ["--replicaof", "127.0.0.1", &master_port];
    let replica = Server::with(free_port(), &more).await;
    let linked = async || replica.ask(&["INFO", "replication"]).contains("master_link_status:up");
    eventually("the replica is linked", linked).await;
    let sentinel = Sentinel::start(&[&master_port]);
    eventually("the sentinel knows the replica", async || {
        sentinel.ask(&["SENTINEL", "replicas", "main"]).contains(&replica.port.to_string())
    })
    .await;
    let layout = RedisLayout::Sentinel { master: "main".to_owned() };
    let node = connected(reach(&[sentinel.port], layout)).await;
    node.backend.insert(&session("s1"), None).await.unwrap();
    node.backend.insert(&session("s2"), None).await.unwrap();
    end(&node, "s2").await.unwrap().unwrap();
    eventually("replicated", async || {
        replica.ask(&["EXISTS", "wxgate:{s1}"]).trim() == "1"
            && replica.ask(&["EXISTS", "wxgate:{s2}"]).trim() == "0"
    })
    .await;
    master.stop();
    eventually("the replica was promoted", async || {
        replica.ask(&["INFO", "replication"]).contains("role:master")
    })
    .await;
    eventually("the node follows", async || {
        node.backend.find("s1").await.is_ok_and(|found| found.is_some())
    })
    .await;
    end(&node, "s1").await.unwrap().unwrap();
    let late = connected(reach(&[replica.port], RedisLayout::Single)).await;
    assert!(late.was_told("s1") && late.was_told("s2"));
}

/// One sentinel that decides alone.
struct Sentinel {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Sentinel {
    fn start(masters: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sentinel.conf");
        let port = free_port();
        let mut text = format!("port {port}\nbind 127.0.0.1\n");
        for master in masters {
            text.push_str(&format!(
                "sentinel monitor main 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds main 500\n\
                 sentinel failover-timeout main 2000\n"
            ));
        }
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("redis-server");
        let child = command.arg(&path).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
        Self { child, port, _folder: folder }
    }

    fn ask(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test]
async fn a_cluster_serves_as_one_server_does_and_survives_the_loss_of_a_master() {
    let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", NO_DELAY, "0"];
    let mut servers = Vec::new();
    for _ in 0..6 {
        servers.push(Server::with(cluster_port(), &more).await);
    }
    let addresses: Vec<_> =
        servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    for server in &servers {
        let is_ok = async || {
            let replication = server.ask(&["INFO", "replication"]);
            let is_linked =
                ["role:master", "link_status:up"].iter().any(|text| replication.contains(text));
            is_linked && server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        };
        eventually("the cluster is whole", is_ok).await;
    }
    let ports: Vec<_> = servers.iter().map(|server| server.port).take(3).collect();
    let one = connected(reach(&ports, RedisLayout::Cluster)).await;
    let other = connected(reach(&ports, RedisLayout::Cluster)).await;
    for number in 0..30 {
        let sid = format!("s{number}");
        let ended = one.backend.insert(&session(&sid), NonZeroUsize::new(20)).await.unwrap();
        assert_eq!(ended.len(), usize::from(number >= 20));
        assert!(other.backend.extend(&sid, NOW + 50).await.unwrap().is_some());
    }
    let ann = OpenId::parse("openid_ann").unwrap();
    let app = AppId::parse("wxapp_1").unwrap();
    let ended = other.backend.end_user(&ann, &[app], NOW + 500).await.unwrap();
    assert_eq!(ended.len(), 20);
    eventually("all are heard of", async || {
        (0..30).all(|number| one.was_told(&format!("s{number}")))
    })
    .await;
    if let Some(first) = servers.first_mut() {
        first.stop();
    }
    eventually("logins work again", async || {
        let mut good = true;
        for number in 0..12 {
            let kept = session(&format!("after{number}"));
            good &= one.backend.insert(&kept, None).await.is_ok();
        }
        good
    })
    .await;
    end(&one, "after1").await.unwrap();
    eventually("the other node still hears", async || other.was_told("after1")).await;
    eventually("both are up", async || one.backend.is_up() && other.backend.is_up()).await;
}

/// A port whose cluster bus, ten thousand above, is free too.
fn cluster_port() -> u16 {
    loop {
        let port = free_port();
        let Some(bus) = port.checked_sub(10_000).filter(|port| *port > 1024) else { continue };
        if std::net::TcpListener::bind(("127.0.0.1", bus)).is_ok() {
            return bus;
        }
    }
}
