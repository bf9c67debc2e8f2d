//! The real gateway as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use super::client::Request;
use super::{DEADLINE, eventually};

/// A running gateway. It is killed when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    /// Of two processes after an upgrade.
    directory: Arc<TempDir>,
    environment: Vec<(String, String)>,
    output: Arc<Output>,
    /// In the order of `server.listen`.
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
}

#[derive(Default)]
struct Output {
    text: Mutex<Text>,
    more: Condvar,
}

#[derive(Default)]
struct Text {
    stdout: String,
    stderr: String,
    /// Streams that have ended.
    ended: usize,
}

impl Output {
    /// What was said so far, also where a test failed while it read that: the message of the one
    /// failure is worth more than a second panic, which would end all tests.
    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kills a gateway that others are using.
pub(crate) fn kill(gateway: Pid) {
    kill_process(gateway, Signal::KILL).unwrap();
}

/// Runs `wxgate` to its end with these arguments in this directory.
pub(crate) fn wxgate(directory: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).output().unwrap()
}

impl Gateway {
    /// Starts it in `directory` on its `gateway.toml`, and waits until it listens.
    pub(crate) fn start(directory: TempDir, environment: &[(String, String)]) -> Self {
        Self::run(Arc::new(directory), environment, &[])
    }

    /// Starts another one in the same directory, which takes the sockets over from this one.
    pub(crate) fn upgrade(&self, environment: &[(String, String)]) -> Self {
        self.signal(Signal::QUIT);
        Self::run(Arc::clone(&self.directory), environment, &["--upgrade"])
    }

    fn run(directory: Arc<TempDir>, environment: &[(String, String)], more: &[&str]) -> Self {
        let mut child = Command::new("sh")
            // A file that may not grow is an error of the write, as on a full disk; without this
            // it is a signal that ends the process.
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_wxgate")])
            .args(["run", "-c"])
            .arg(directory.path().join("gateway.toml"))
            .args(more)
            // Relative paths are of the file, not of the working directory.
            .current_dir("/")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Output::default());
        collect(child.stdout.take().unwrap(), &output, |text| &mut text.stdout);
        collect(child.stderr.take().unwrap(), &output, |text| &mut text.stderr);
        let nowhere = "0.0.0.0:0".parse().unwrap();
        let environment = environment.to_vec();
        let (listeners, admin) = (Vec::new(), nowhere);
        let mut gateway = Self { child, directory, environment, output, listeners, admin };
        gateway.await_ready();
        gateway
    }

    fn await_ready(&mut self) {
        let end = Instant::now() + DEADLINE;
        let mut text = self.output.text();
        loop {
            let admin = addresses(&text.stderr, "admin listening on ");
            if let Some(admin) = admin.first() {
                let all = addresses(&text.stderr, "listening on ");
                self.listeners = all.into_iter().filter(|address| address != admin).collect();
                self.admin = *admin;
                if !self.listeners.is_empty() {
                    return;
                }
            }
            assert!(text.ended < 2, "the gateway did not start:\n{}{}", text.stderr, text.stdout);
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the gateway is not ready:\n{}", text.stderr);
            let woken = self.output.more.wait_timeout(text, left);
            text = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its process, for [`kill`].
    pub(crate) fn id(&self) -> Pid {
        self.pid()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        // It may be dead already.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    /// Kills it with SIGKILL and starts it anew, on the ports that are free then.
    pub(crate) fn restart(&mut self) {
        self.kill();
        *self = Self::run(Arc::clone(&self.directory), &self.environment.clone(), &[]);
    }

    /// From now on no file of it may grow beyond so many bytes: what a full disk does.
    pub(crate) fn limit_file_size(&self, most: Option<u64>) {
        let limit = Rlimit { current: most, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).unwrap();
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// All of `server.listen`.
    pub(crate) fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The directory of its gateway.toml.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn stdout(&self) -> String {
        self.output.text().stdout.clone()
    }

    pub(crate) fn stderr(&self) -> String {
        self.output.text().stderr.clone()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// From now on it may have so many open files.
    pub(crate) fn limit_open_files(&self, most: u64) {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).unwrap();
    }

    /// Waits for its end, at most for `limit`.
    #[track_caller]
    pub(crate) fn await_exit(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "still running after {limit:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.status_line("VmRSS:") * 1024
    }

    /// The most memory that was resident so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status_line("VmHWM:") * 1024
    }

    fn status_line(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A metric of the admin listener: the sum of all rows that carry these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let report = Request::new(self.admin, "GET", "/metrics").send().text();
        metric_in(&report, name, labels)
    }

    /// Writes a new gateway.toml and tells the gateway; waits until it has judged it. Tells
    /// whether it was taken.
    pub(crate) fn reload(&self, toml: &str) -> bool {
        std::fs::write(self.file("gateway.toml"), toml).unwrap();
        let judged = |result| self.metric("wxgate_config_reloads_total", &[("result", result)]);
        let (good, bad) = (judged("ok"), judged("error"));
        self.signal(Signal::HUP);
        eventually("the reload is judged", || judged("ok") > good || judged("error") > bad);
        judged("ok") > good
    }
}

impl Drop for Gateway {
    #[expect(clippy::print_stderr, reason = "a failed test shows what the gateway said")]
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            eprintln!(
                "--- gateway, standard error\n{stderr}--- gateway, standard output\n{stdout}"
            );
        }
    }
}

fn collect(
    stream: impl std::io::Read + Send + 'static,
    output: &Arc<Output>,
    of: fn(&mut Text) -> &mut String,
) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            of(&mut output.text()).push_str(&String::from_utf8_lossy(&line));
            output.more.notify_all();
            line.clear();
        }
        output.text().ended += 1;
        output.more.notify_all();
    });
}

/// The addresses that stand behind `words`.
fn addresses(log: &str, words: &str) -> Vec<SocketAddr> {
    let after = |line: &str| line.split_once(words).map(|(_, rest)| rest.trim().to_owned());
    log.lines().filter_map(after).filter_map(|address| address.parse().ok()).collect()
}

/// The sum of all rows of a Prometheus report with this name and these labels.
pub(crate) fn metric_in(report: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let row = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (its_name, its_labels) = series.split_once('{').unwrap_or((series, ""));
        let has =
            |(label, value): &(&str, &str)| its_labels.contains(&format!("{label}=\"{value}\""));
        (its_name == name && labels.iter().all(has)).then(|| value.parse::<f64>().unwrap())
    };
    report.lines().filter(|line| !line.starts_with('#')).filter_map(row).sum()
}
