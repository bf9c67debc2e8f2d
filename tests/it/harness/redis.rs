//! Real redis-servers: alone, within TLS, with a Sentinel, as a cluster.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;
use super::tls::Pair;

/// A replica is fed at once, not after five seconds.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// A redis-server that keeps nothing on disk unless it is told to. It is killed when dropped.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Redis {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Self {
        Self::with(free_port(), &[])
    }

    /// One that speaks TLS alone, and shows this certificate.
    pub(crate) fn within_tls(pair: &Pair, authority: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (cert, key) = (file("cert.pem", &pair.cert), file("key.pem", &pair.key));
        let port = free_port();
        let mut arguments = words(&["--port", "0", "--tls-port", &port.to_string()]);
        arguments.extend(words(&["--tls-cert-file", &cert, "--tls-key-file", &key]));
        let authority = authority.display().to_string();
        arguments.extend(words(&["--tls-ca-cert-file", &authority, "--tls-auth-clients", "no"]));
        Self::run(port, arguments, folder)
    }

    /// A replica of another.
    pub(crate) fn replica_of(master: &Self) -> Self {
        let port = master.port.to_string();
        Self::with(free_port(), &["--replicaof", "127.0.0.1", &port])
    }

    fn with(port: u16, more: &[&str]) -> Self {
        let mut arguments = words(&["--port", &port.to_string()]);
        arguments.extend(words(&AT_ONCE));
        arguments.extend(words(more));
        Self::run(port, arguments, tempfile::tempdir().unwrap())
    }

    fn run(port: u16, arguments: Vec<String>, folder: TempDir) -> Self {
        let child = spawn(folder.path(), &arguments);
        let redis = Self { child, port, folder, arguments };
        redis.await_port();
        redis
    }

    fn await_port(&self) {
        let address = ("127.0.0.1", self.port);
        eventually("redis-server listens", || TcpStream::connect(address).is_ok());
    }

    /// Kills it; all that it held is lost.
    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it anew on its port, empty.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &self.arguments);
        self.await_port();
    }

    pub(crate) fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// What redis-cli says.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        ask(self.port, command)
    }

    /// Everything that it holds, as it writes it to disk.
    pub(crate) fn dump(&self) -> Vec<u8> {
        assert_eq!(self.ask(&["CONFIG", "SET", "rdbcompression", "no"]).trim(), "OK");
        assert_eq!(self.ask(&["SAVE"]).trim(), "OK");
        std::fs::read(self.folder.path().join("dump.rdb")).unwrap()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn ask(port: u16, command: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(command).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// One sentinel that decides alone, over one master called `main`.
pub(crate) struct Sentinel {
    child: Child,
    pub(crate) port: u16,
    _folder: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Sentinel {
    /// Starts it, and waits until it knows the replica.
    pub(crate) fn over(master: &Redis, replica: &Redis) -> Self {
        eventually("the replica is linked", || {
            replica.ask(&["INFO", "replication"]).contains("master_link_status:up")
        });
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("sentinel.conf");
        let port = free_port();
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
            master.port
        );
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("redis-server");
        let child = command.arg(&path).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
        let known = replica.port.to_string();
        eventually("the sentinel knows the replica", || {
            ask(port, &["SENTINEL", "replicas", "main"]).contains(&known)
        });
        Self { child, port, _folder: folder }
    }
}

/// Three masters with a replica each.
pub(crate) fn cluster() -> Vec<Redis> {
    let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    let servers: Vec<_> = (0..6).map(|_| Redis::with(port_with_bus(), &more)).collect();
    let addresses = servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(addresses)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    for server in &servers {
        eventually("the cluster is whole", || {
            let replication = server.ask(&["INFO", "replication"]);
            let is_linked =
                ["role:master", "link_status:up"].iter().any(|text| replication.contains(text));
            is_linked && server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    }
    servers
}

/// A port whose cluster bus, ten thousand above, is free too.
fn port_with_bus() -> u16 {
    loop {
        let bus = free_port();
        let Some(port) = bus.checked_sub(10_000).filter(|port| *port > 1024) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
