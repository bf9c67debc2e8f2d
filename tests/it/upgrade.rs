//! A running gateway hands its sockets over to a new one, and nobody is turned away.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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

#[test]
fn an_upgrade_is_a_word_of_run_alone() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(wxgate(directory.path(), &["check", "--upgrade"]).status.code(), Some(2));
}
