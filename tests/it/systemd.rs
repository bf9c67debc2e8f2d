//! systemd is told what it waits for, and holds the sockets over a restart; played here by a
//! datagram socket and a shell that hands a listener down.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::client::Request;
use crate::harness::site::{Settings, environment};
use crate::harness::wechat::FakeWechat;
use crate::harness::{Connection, DEADLINE, Site, Upstream};

/// What systemd is for one service.
struct Manager {
    notify: UnixDatagram,
    directory: TempDir,
    /// systemd's own handle of the socket.
    listener: TcpListener,
    _wechat: FakeWechat,
    _upstream: Upstream,
}

/// A process of the service. It is killed when this is dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Service {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Manager {
    fn start(change: impl FnOnce(Settings, SocketAddr) -> Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (wechat, upstream) = (FakeWechat::start(), Upstream::start());
        let settings = change(Site::with(), listener.local_addr().unwrap());
        let directory = settings.write(&wechat.url(), &upstream.address().to_string());
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { notify, directory, listener, _wechat: wechat, _upstream: upstream }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the gateway with the socket as its file descriptor 3.
    fn activate(&self) -> Service {
        let hand_down = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null";
        let socket = OwnedFd::from(self.listener.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", hand_down, "sh"]).stdin(Stdio::from(socket));
        self.run(command.arg(env!("CARGO_BIN_EXE_wxgate")))
    }

    fn run(&self, command: &mut Command) -> Service {
        let command = command.arg("run").arg("-c").arg(self.path("gateway.toml"));
        let command = command.env("NOTIFY_SOCKET", self.path("notify")).envs(environment());
        let quiet = || Stdio::from(std::fs::File::create("/dev/null").unwrap());
        Service(command.stdout(quiet()).stderr(quiet()).spawn().unwrap())
    }

    /// The next message, line by line.
    #[track_caller]
    fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.notify.recv(&mut message).expect("systemd is told something");
        let text = std::str::from_utf8(&message[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Nothing was told that was not read.
    #[track_caller]
    fn assert_nothing_told(&self) {
        self.notify.set_nonblocking(true).unwrap();
        let told = self.notify.recv(&mut [0; 4096]);
        assert!(told.is_err(), "systemd was told something");
        self.notify.set_nonblocking(false).unwrap();
    }

    #[track_caller]
    fn await_ready(&self, service: &Service) {
        let told = self.told();
        assert!(told.contains(&"READY=1".to_owned()), "{told:?}");
        assert!(told.contains(&format!("MAINPID={}", service.0.id())), "{told:?}");
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// The client listener is systemd's.
fn of_clients(settings: Settings, address: SocketAddr) -> Settings {
    settings.server(&format!("listen = [\"{address}\"]"))
}

#[test]
fn who_connects_during_a_restart_waits_and_is_answered() {
    let manager = Manager::start(of_clients);
    for _ in 0..2 {
        // Nobody serves yet: systemd holds the socket, and the kernel the connection.
        let mut waiting = Connection::open(manager.address());
        waiting.send("GET /open/x HTTP/1.1\r\nHost: a\r\n\r\n");
        let service = manager.activate();
        assert_eq!(waiting.answer().text(), "hello");
        manager.await_ready(&service);
        service.signal(Signal::TERM);
        assert_eq!(manager.told(), ["STOPPING=1"]);
        drop(waiting);
        assert_eq!(service.end(), Some(0));
    }
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end_even_if_it_fails() {
    let manager = Manager::start(of_clients);
    let service = manager.activate();
    manager.await_ready(&service);
    for text in [None, Some("not a configuration")] {
        if let Some(text) = text {
            std::fs::write(manager.path("gateway.toml"), text).unwrap();
        }
        service.signal(Signal::HUP);
        let told = manager.told();
        let since = told.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(told.contains(&"RELOADING=1".to_owned()), "{told:?}");
        assert!(since.is_some_and(|since| since.parse::<u64>().is_ok()), "{told:?}");
        assert_eq!(manager.told(), ["READY=1"]);
    }
    let answer = Request::new(manager.address(), "GET", "/open/x").send();
    assert_eq!(answer.text(), "hello");
}

#[test]
fn after_an_upgrade_the_new_process_is_the_service_and_the_old_one_does_not_end_it() {
    let manager = Manager::start(of_clients);
    let old = manager.activate();
    manager.await_ready(&old);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    old.signal(Signal::QUIT);
    let new = {
        let config = manager.path("gateway.toml");
        let command = command.args(["run", "--upgrade", "-c"]).arg(config);
        let command = command.env("NOTIFY_SOCKET", manager.path("notify")).envs(environment());
        Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    manager.await_ready(&new);
    assert_eq!(old.end(), Some(0));
    manager.assert_nothing_told();
    let answer = Request::new(manager.address(), "GET", "/open/x").send();
    assert_eq!(answer.text(), "hello");
    new.signal(Signal::TERM);
    assert_eq!(manager.told(), ["STOPPING=1"]);
    assert_eq!(new.end(), Some(0));
}

#[test]
fn the_admin_and_the_redirecting_listener_may_be_systemds_too() {
    let of_admin = |settings: Settings, address| settings.admin(&format!("listen = \"{address}\""));
    let manager = Manager::start(of_admin);
    let service = manager.activate();
    manager.await_ready(&service);
    let answer = Request::new(manager.address(), "GET", "/livez").host("127.0.0.1").send();
    assert_eq!(answer.status, 200);
    let of_redirects = |settings: Settings, address| {
        settings.server(&format!("redirect_listen = [\"{address}\"]"))
    };
    let manager = Manager::start(of_redirects);
    let service = manager.activate();
    manager.await_ready(&service);
    let answer = Request::new(manager.address(), "GET", "/x").host("a.test").send();
    assert_eq!(answer.header("Location"), Some("https://a.test/x"));
}

#[test]
fn a_socket_that_the_configuration_does_not_name_is_an_error() {
    let manager = Manager::start(|settings, _| settings);
    assert_eq!(manager.activate().end(), Some(1));
    // Sockets for another process are not touched.
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    let service = manager.run(command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1"));
    manager.await_ready(&service);
}

#[test]
fn the_units_say_what_the_program_needs() {
    let unit = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let (service, socket) = (unit("wxgate.service"), unit("wxgate.socket"));
    for line in ["Type=notify", "NotifyAccess=all", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(service.lines().any(|written| written == line), "{line}");
    }
    assert!(socket.contains("ListenStream="), "{socket}");
}
