//! A running gateway hands its sockets over to a new one, and nobody is turned away.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use rustix::process::Signal;

use crate::harness::client::Request;
use crate::harness::gateway::wxgate;
use crate::harness::site::environment;
use crate::harness::{Reply, Site, StopAtEnd, eventually};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn three_upgrades_under_load_fail_no_request_and_the_old_ones_finish_what_they_have() {
    let mut site = Site::start();
    let token = site.log_in("alice");
    site.upstream.answers(
        "/open/slow",
        Reply::default()
            .then_await_release()
            .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"),
    );
    let (address, admin) = (site.gateway.address(), site.gateway.admin());
    let mut slow = site.connect();
    slow.send(site.get("/open/slow").bytes());
    site.upstream.await_request_to("/open/slow");
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut old = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = Request::new(address, "GET", "/api/x").bearer(&token).send();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = StopAtEnd(&stop);
        for _ in 0..3 {
            let new = site.gateway.upgrade(&environment());
            assert_eq!((new.address(), new.admin()), (address, admin));
            old.push(std::mem::replace(&mut site.gateway, new));
            let before = asked.load(Ordering::Relaxed);
            eventually("requests go on", || asked.load(Ordering::Relaxed) > before + 20);
        }
    });
    assert!(old[0].is_running(), "it still has a request in flight");
    site.upstream.release();
    assert_eq!(slow.answer().text(), "late");
    for gateway in &mut old {
        assert_eq!(gateway.await_exit(SOON).code(), Some(0));
    }
    assert_eq!(site.admin("/readyz").send().status, 200);
}

#[test]
fn sessions_in_a_file_live_on_in_the_new_process() {
    let mut site = Site::with().session("store = \"sqlite:wxgate.db\"").start();
    let token = site.log_in("alice");
    let new = site.gateway.upgrade(&environment());
    let mut old = std::mem::replace(&mut site.gateway, new);
    assert_eq!(old.await_exit(SOON).code(), Some(0));
    assert_eq!(site.get("/api/x").bearer(&token).send().status, 200);
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    site.get("/api/x").bearer(&token).send().assert_refused(401, "invalid_token");
    site.log_in("bob");
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_as_it_was() {
    let mut site = Site::start();
    let good = std::fs::read_to_string(site.gateway.file("gateway.toml")).unwrap();
    // An address that is taken: by the fake WeChat.
    let taken = site.wechat.url().trim_start_matches("http://").to_owned();
    let bad = good.replacen("[\"127.0.0.1:0\"]", &format!("[\"{taken}\"]"), 1);
    std::fs::write(site.gateway.file("gateway.toml"), bad).unwrap();
    site.gateway.signal(Signal::QUIT);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wxgate"));
    let output = command
        .args(["run", "--upgrade", "-c"])
        .arg(site.gateway.file("gateway.toml"))
        .envs(environment())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    eventually("it is logged", || site.gateway.stderr().contains("did not begin to serve"));
    assert!(site.gateway.is_running());
    assert_eq!(site.get("/open/x").send().status, 200);
    std::fs::write(site.gateway.file("gateway.toml"), good).unwrap();
    let new = site.gateway.upgrade(&environment());
    assert_eq!(std::mem::replace(&mut site.gateway, new).await_exit(SOON).code(), Some(0));
    assert_eq!(site.get("/open/x").send().status, 200);
}

/// Where a gateway of this configuration and its successor meet.
fn meeting_place(configuration: &Path) -> PathBuf {
    let parent = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].iter().find_map(std::env::var_os);
    let user = rustix::process::geteuid().as_raw();
    let folder =
        parent.map_or_else(std::env::temp_dir, PathBuf::from).join(format!("wxgate-{user}"));
    drop(std::fs::DirBuilder::new().mode(0o700).create(&folder));
    let mut hasher = DefaultHasher::new();
    configuration.canonicalize().unwrap().hash(&mut hasher);
    folder.join(format!("{:016x}.sock", hasher.finish()))
}

#[test]
fn a_process_that_ends_while_it_hands_over_leaves_the_sockets_as_they_are() {
    let mut site = Site::start();
    let successor = UnixListener::bind(meeting_place(&site.gateway.file("gateway.toml"))).unwrap();
    successor.set_nonblocking(true).unwrap();
    let met = RefCell::new(None);
    site.gateway.signal(Signal::QUIT);
    eventually("the old process comes", || {
        *met.borrow_mut() = successor.accept().ok();
        met.borrow().is_some()
    });
    // The sockets live in this message, read or not.
    let (stream, _) = met.take().unwrap();
    let length = || recv(&stream, &mut [0; 64][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    eventually("it gives its sockets away", || length().is_ok_and(|(length, _)| length > 0));
    site.gateway.signal(Signal::TERM);
    assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
    TcpStream::connect_timeout(&site.gateway.address(), SOON).unwrap();
}

#[test]
fn an_upgrade_is_a_word_of_run_alone() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(wxgate(directory.path(), &["check", "--upgrade"]).status.code(), Some(2));
}
