//! Start, reload, drain and end of the process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::client::{ReadError, Request};
use crate::harness::gateway::{Gateway, wxgate};
use crate::harness::site::environment;
use crate::harness::wechat::FakeWechat;
use crate::harness::{Connection, Reply, Site, StopAtEnd, Upstream, eventually, within};

/// Long enough for a busy machine, short of the default grace.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn it_listens_on_every_address() {
    let site = Site::with().server("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]").start();
    assert_eq!(site.gateway.listeners().len(), 2);
    for address in site.gateway.listeners() {
        assert_eq!(Request::new(*address, "GET", "/open/x").send().status, 200);
    }
}

#[test]
fn it_starts_without_wechat_and_without_a_backend() {
    let nobody = crate::harness::Refusing::start();
    let site = Site::with()
        .wechat(&format!("api_base = \"http://{}\"", nobody.address()))
        .servers("[\"no-such-host.invalid:80\", \"127.0.0.1:1\"]")
        .start();
    assert_eq!(site.get("/wx/session").send().status, 401);
    assert_eq!(site.admin("/livez").send().status, 200);
}

#[test]
fn sigterm_and_sigint_end_an_idle_gateway_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::start();
        assert_eq!(site.get("/open/x").send().status, 200);
        site.gateway.signal(signal);
        assert_eq!(site.gateway.await_exit(SOON).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn an_idle_keep_alive_connection_does_not_hold_the_end_up() {
    let mut site = Site::start();
    let mut connection = site.connect();
    assert_eq!(site.get("/open/x").send_on(&mut connection).status, 200);
    let begin = Instant::now();
    site.gateway.signal(Signal::TERM);
    assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(connection.is_closed_by_gateway());
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_says_that_it_is_not_ready() {
    let mut site = Site::start();
    let slow = Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        .then_await_release()
        .then("4\r\nhalf\r\n0\r\n\r\n");
    site.upstream.answers("/open/slow", slow);
    site.upstream.answers(
        "/open/unanswered",
        Reply::default()
            .then_await_release()
            .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"),
    );
    let mut half = site.connect();
    half.send(site.get("/open/slow").bytes());
    assert_eq!(half.head("GET").unwrap().status, 200);
    assert_eq!(half.read_exactly(9), b"4\r\nhalf\r\n");
    let mut unanswered = site.connect();
    unanswered.send(site.get("/open/unanswered").bytes());
    site.upstream.await_request_to("/open/unanswered");

    site.gateway.signal(Signal::TERM);
    within(SOON, "readyz is 503", || {
        site.admin("/readyz").try_send().is_ok_and(|answer| answer.status == 503)
    });
    let body = site.admin("/readyz").send().text().to_lowercase();
    assert!(body.contains("drain"), "{body}");
    assert!(site.gateway.is_running());
    site.upstream.release();
    assert_eq!(half.read_exactly(14), b"4\r\nhalf\r\n0\r\n\r\n");
    assert_eq!(unanswered.answer().text(), "late");
    assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
}

#[test]
fn a_drain_that_takes_longer_than_the_grace_is_cut_off_with_1() {
    let mut site = Site::with().server("shutdown_grace = \"1s\"").start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    let mut waiting = site.connect();
    waiting.send(site.get("/open/slow").bytes());
    site.upstream.await_request_to("/open/slow");
    let begin = Instant::now();
    site.gateway.signal(Signal::TERM);
    assert_eq!(site.gateway.await_exit(SOON).code(), Some(1));
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[test]
fn sigterm_under_load_fails_no_request() {
    // What went wrong once went wrong in one drain of four.
    for _ in 0..5 {
        drain_under_load();
    }
}

fn drain_under_load() {
    let mut site = Site::start();
    let (done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let stop = AtomicBool::new(false);
    let address = site.gateway.address();
    std::thread::scope(|scope| {
        // Half of the callers keep their connections, half make a new one for each request.
        for requests in [[1; 16], [10; 16]].concat() {
            let (done, failed, stop) = (&done, &failed, &stop);
            scope.spawn(move || {
                // Until no connection can be made any more.
                while let Some(mut connection) = Connection::try_open(address)
                    && !stop.load(Ordering::SeqCst)
                {
                    for number in 0..requests {
                        connection.send(Request::new(address, "GET", "/open/x").bytes());
                        match connection.try_answer("GET") {
                            Ok(answer) if answer.status == 200 => {
                                done.fetch_add(1, Ordering::SeqCst);
                                if answer.header("Connection") == Some("close") {
                                    break;
                                }
                            }
                            // Closed between two requests: a caller of HTTP/1.1 tries again
                            // elsewhere. A new connection was made to be read from.
                            Err(ReadError::Closed) if number > 0 => break,
                            bad => {
                                failed.lock().unwrap().push(format!("request {number}: {bad:?}"));
                                break;
                            }
                        }
                    }
                }
            });
        }
        let _stop = StopAtEnd(&stop);
        eventually("there is load", || done.load(Ordering::SeqCst) > 100);
        site.gateway.signal(Signal::TERM);
        assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
    });
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new());
}

#[test]
fn who_has_connected_is_answered_however_the_process_is_held_up_while_it_drains() {
    for held_up_after in [2, 5, 8] {
        // So many at once are more than the backend's queue holds: some of them wait for the
        // kernel's second try, a second later.
        let mut site = Site::with().upstream("connect_timeout = \"10s\"").start();
        site.gateway.signal(Signal::STOP);
        // The kernel makes connections all the same.
        let mut waiting: Vec<Connection> = (0..300).map(|_| site.connect()).collect();
        for connection in &mut waiting {
            connection.send(site.get("/open/x").header("Connection", "close").bytes());
        }
        site.gateway.signal(Signal::TERM);
        site.gateway.signal(Signal::CONT);
        std::thread::park_timeout(Duration::from_millis(held_up_after));
        site.gateway.signal(Signal::STOP);
        std::thread::park_timeout(Duration::from_millis(400));
        site.gateway.signal(Signal::CONT);
        for connection in &mut waiting {
            assert_eq!(connection.answer().status, 200, "held up after {held_up_after} ms");
        }
        assert_eq!(site.gateway.await_exit(SOON).code(), Some(0));
    }
}

#[test]
fn a_second_sigterm_ends_the_wait() {
    let mut site = Site::start();
    site.upstream.answers("/open/slow", Reply::default().then_hang());
    let mut waiting = site.connect();
    waiting.send(site.get("/open/slow").bytes());
    site.upstream.await_request_to("/open/slow");
    site.gateway.signal(Signal::TERM);
    within(SOON, "it drains", || {
        site.admin("/readyz").try_send().is_ok_and(|answer| answer.status == 503)
    });
    let begin = Instant::now();
    site.gateway.signal(Signal::TERM);
    let status = site.gateway.await_exit(SOON);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_ne!(status.code(), Some(0), "what was in flight did not finish");
}

#[test]
fn a_reload_takes_new_routes_and_upstreams() {
    let mut site = Site::start();
    let other = Upstream::start();
    other.answers_everything(Reply::ok("other"));
    assert_eq!(site.get("/new/x").send().status, 404);
    let upstream =
        format!("[[upstreams]]\nname = \"other\"\nservers = [\"{}\"]\n", other.address());
    assert!(site.reload(|settings| {
        settings
            .more_upstreams(&upstream)
            .more_routes("[[routes]]\npath = \"/new/\"\nupstream = \"other\"\nauth = \"public\"\n")
    }));
    assert_eq!(site.get("/new/x").send().text(), "other");
    assert_eq!(site.get("/open/x").send().text(), "hello");
    assert_eq!(site.gateway.metric("wxgate_config_last_reload_success", &[]), 1.0);
}

#[test]
fn an_open_connection_follows_a_reload() {
    let mut site = Site::start();
    let mut connection = site.connect();
    assert_eq!(site.get("/open/x").send_on(&mut connection).status, 200);
    assert!(site.reload(|settings| {
        settings.routes("[[routes]]\npath = \"/open/\"\nupstream = \"php\"\nauth = \"required\"\n")
    }));
    connection.send(site.get("/open/x").bytes());
    match connection.try_answer("GET") {
        Ok(answer) => assert_eq!(answer.status, 401, "the new rule holds at once"),
        Err(error) => assert!(matches!(error, ReadError::Closed), "{error:?}"),
    }
    assert_eq!(site.get("/open/x").send().status, 401);
}

#[test]
fn an_invalid_reload_changes_nothing_and_says_where() {
    let mut site = Site::start();
    let token = site.log_in("alice");
    let good = std::fs::read_to_string(site.gateway.file("gateway.toml")).unwrap();
    for (what, bad) in [
        ("an unknown key", good.replace("[server]", "[server]\nno_such_key = 1")),
        ("no TOML", format!("{good}\n[[[")),
        ("a dangling upstream", good.replacen("upstream = \"php\"", "upstream = \"nobody\"", 1)),
        ("a missing key file", good.replace("test-1.key", "gone.key")),
        ("an empty file", String::new()),
        (
            "a missing list",
            good.replacen(
                "auth = \"required\"",
                "auth = \"required\"\ndeny = { openids_file = \"gone.txt\" }",
                1,
            ),
        ),
    ] {
        assert!(!site.gateway.reload(&bad), "{what} was taken");
        assert_eq!(site.gateway.metric("wxgate_config_last_reload_success", &[]), 0.0, "{what}");
        assert_eq!(site.get("/api/x").bearer(&token).send().status, 200, "{what}");
        assert_eq!(site.get("/api/x").send().status, 401, "{what}: never open");
    }
    eventually("the log says where", || {
        let log = site.gateway.stderr();
        log.contains("gateway.toml:") && log.contains("no_such_key")
    });
    assert!(site.reload(|settings| settings), "a good one is taken again");
    assert_eq!(site.gateway.metric("wxgate_config_last_reload_success", &[]), 1.0);
}

#[test]
fn a_file_that_vanished_makes_an_invalid_reload() {
    let site = Site::start();
    std::fs::remove_file(site.gateway.file("gateway.toml")).unwrap();
    site.gateway.signal(Signal::HUP);
    eventually("it is judged", || {
        site.gateway.metric("wxgate_config_reloads_total", &[("result", "error")]) == 1.0
    });
    assert_eq!(site.get("/open/x").send().status, 200);
}

#[test]
fn a_request_in_flight_keeps_the_configuration_it_began_with() {
    let mut site = Site::start();
    let slow = Reply::default()
        .then_await_release()
        .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    site.upstream.answers("/open/slow", slow);
    let mut waiting = site.connect();
    waiting.send(site.get("/open/slow").bytes());
    site.upstream.await_request_to("/open/slow");
    let only = "[[routes]]\npath = \"/other/\"\nupstream = \"php\"\nauth = \"public\"\n";
    assert!(site.reload(|settings| settings.routes(only)));
    assert_eq!(site.get("/open/x").send().status, 404);
    site.upstream.release();
    assert_eq!(waiting.answer().text(), "late");
}

#[test]
fn what_needs_a_restart_is_said_and_does_not_happen_by_a_reload() {
    let mut site = Site::start();
    let before = site.gateway.address();
    let taken = site.reload(|settings| settings.server("listen = [\"127.0.0.1:1\"]"));
    assert_eq!(Request::new(before, "GET", "/open/x").send().status, 200);
    assert!(taken, "the rest of the file is taken");
    eventually("the log says so", || site.gateway.stderr().contains("restart"));
}

#[test]
fn reloads_under_load_fail_no_request() {
    let mut site = Site::start();
    let token = site.log_in("alice");
    let good = std::fs::read_to_string(site.gateway.file("gateway.toml")).unwrap();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = site.gateway.address();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (stop, done, token) = (&stop, &done, token.as_str());
                scope.spawn(move || {
                    let mut connection = Connection::open(address);
                    while !stop.load(Ordering::SeqCst) {
                        let request = Request::new(address, "GET", "/api/x").bearer(token);
                        let answer = request.send_on(&mut connection);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        if answer.header("Connection") == Some("close") {
                            connection = Connection::open(address);
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let at_end = StopAtEnd(&stop);
        for round in 0..20 {
            let before = done.load(Ordering::SeqCst);
            let taken = if round == 10 {
                site.gateway.reload("this is no configuration")
            } else {
                site.gateway.reload(&good)
            };
            assert_eq!(taken, round != 10);
            eventually("load goes on", || {
                done.load(Ordering::SeqCst) > before || workers.iter().any(|w| w.is_finished())
            });
        }
        drop(at_end);
        for worker in workers {
            worker.join().unwrap();
        }
    });
    assert!(site.gateway.is_running());
}

#[test]
fn an_invalid_configuration_is_2_with_the_place_and_nothing_is_started() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("gateway.toml"), "[server]\nno_such_key = 1\n").unwrap();
    for command in ["run", "check"] {
        let output = wxgate(directory.path(), &[command, "-c", "gateway.toml"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let all = format!("{text}{}", String::from_utf8_lossy(&output.stdout));
        assert!(all.contains("gateway.toml:2:"), "{command}: {all}");
        assert!(!text.contains("listening on"), "{text}");
    }
}

#[test]
fn a_missing_configuration_and_wrong_usage_are_2() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["run", "-c", "no-such-file.toml"][..],
        &["check", "-c", "no-such-file.toml"],
        &["run"],
        &["no-such-command"],
        &["run", "--no-such-flag"],
        &["keygen", "--alg", "none"],
        &[],
    ] {
        let output = wxgate(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_version_and_schema_are_0() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["--version"], &["schema"], &["run", "--help"]] {
        let output = wxgate(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let schema = wxgate(directory.path(), &["schema"]).stdout;
    assert!(serde_json::from_slice::<serde_json::Value>(&schema).unwrap().is_object());
}

#[test]
fn a_port_that_is_taken_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = [\"{}\"]", taken.local_addr().unwrap());
    let directory = Site::with().server(&listen).write("http://127.0.0.1:1", "127.0.0.1:1");
    let environment = environment();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.args(["run", "-c"]).arg(directory.path().join("gateway.toml"));
    let output = command.envs(environment).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&port));
}

#[test]
fn a_secret_that_is_not_in_the_environment_is_named() {
    let directory = Site::with().write("http://127.0.0.1:1", "127.0.0.1:1");
    let output = wxgate(directory.path(), &["run", "-c", "gateway.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("WX_SECRET") && text.contains("apps"), "{text}");
}

#[test]
fn keygen_prints_keys_that_a_gateway_takes() {
    let empty = tempfile::tempdir().unwrap();
    for (arguments, alg) in [
        (&["keygen"][..], "HS256"),
        (&["keygen", "--alg", "HS256"], "HS256"),
        (&["keygen", "--alg", "EdDSA"], "EdDSA"),
    ] {
        let output = wxgate(empty.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let key = String::from_utf8(output.stdout).unwrap();
        let again = String::from_utf8(wxgate(empty.path(), arguments).stdout).unwrap();
        assert_ne!(key, again, "a fresh one each time");
        let site = Site::with()
            .file("fresh.key", &key)
            .signing_keys("[{ id = \"fresh\", secret = { file = \"fresh.key\" } }]")
            .start();
        let token = site.log_in("alice");
        assert_eq!(crate::harness::token::decode(&token).0["alg"], alg);
    }
}

#[test]
fn with_the_memory_store_a_restart_with_the_same_key_keeps_tokens_good() {
    let wechat = FakeWechat::start();
    let upstream = Upstream::start();
    let settings = Site::with();
    let start = || {
        let directory = settings.write(&wechat.url(), &upstream.address().to_string());
        Gateway::start(directory, &environment())
    };
    let first = start();
    let body = serde_json::json!({ "code": wechat.code_of("alice") });
    let login = Request::new(first.address(), "POST", "/wx/auth").json(&body).send().json();
    let token = login["access_token"].as_str().unwrap();
    drop(first);
    let second = start();
    let answer = Request::new(second.address(), "GET", "/api/x").bearer(token).send();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn after_kill_9_a_restart_listens_on_the_same_port_at_once() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let (wechat, upstream) = (FakeWechat::start(), Upstream::start());
    let settings = Site::with().server(&format!("listen = [\"127.0.0.1:{port}\"]"));
    let start = || {
        let directory = settings.write(&wechat.url(), &upstream.address().to_string());
        Gateway::start(directory, &environment())
    };
    for _ in 0..3 {
        let mut gateway = start();
        // A connection that is open at the kill leaves the port in TIME-WAIT.
        let mut connection = Connection::open(gateway.address());
        let request = Request::new(gateway.address(), "GET", "/open/x");
        assert_eq!(request.send_on(&mut connection).status, 200);
        gateway.signal(Signal::KILL);
        assert_eq!(gateway.await_exit(SOON).code(), None);
    }
}
