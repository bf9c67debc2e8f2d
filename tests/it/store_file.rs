//! The session store in a file: what was answered holds after kill -9, and a file that cannot be
//! used is told, at start or by a 503, never by a session that is lost or comes back.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::token::decode;
use crate::harness::wechat::{FakeWechat, SECRET};
use crate::harness::{Connection, Site, eventually, for_as_long_as};
use rusqlite::Connection as Database;

const STORE: &str = "store = \"sqlite:wxgate.db\"";
/// Logins and logouts that a round offers.
const OPERATIONS: usize = 2_000;
const ROUNDS: u64 = 20;
const CLIENTS: usize = 16;

/// What clients were told before the kill.
#[derive(Default)]
struct Told {
    /// Tokens of which no logout was sent.
    in_use: Vec<String>,
    /// Tokens whose logout got its 204.
    out: Vec<String>,
}

/// Logs in and out until the gateway is gone or enough was done.
fn work(site: &Site, client: usize, left: &AtomicUsize, told: &Mutex<Told>) -> Option<()> {
    let mut connection = Connection::try_open(site.gateway.address())?;
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    let mut ask = |request: Request| {
        connection.send(request.bytes());
        connection.try_answer("POST").ok()
    };
    while take().is_ok() {
        let code = site.wechat.code_of(&format!("user{client}"));
        let login = ask(site.post("/wx/auth").json(&serde_json::json!({ "code": code })))?;
        assert_eq!(login.status, 200, "{}", login.text());
        let token = login.json()["access_token"].as_str().unwrap().to_owned();
        if code.len().is_multiple_of(2) || take().is_err() {
            told.lock().unwrap().in_use.push(token);
            continue;
        }
        let logout = ask(site.post("/wx/logout").bearer(&token))?;
        assert_eq!(logout.status, 204, "{}", logout.text());
        told.lock().unwrap().out.push(token);
    }
    Some(())
}

/// A number of the round's own, as unlike the others as if it were drawn.
fn drawn(round: u64) -> u64 {
    (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
}

fn sid(token: &str) -> String {
    decode(token).1["sid"].as_str().unwrap().to_owned()
}

/// Ids of all open sessions, as an operator lists them.
fn listed(site: &Site) -> std::collections::HashSet<String> {
    let mut sids = std::collections::HashSet::new();
    let mut cursor = String::new();
    loop {
        let page = site.admin(&format!("/api/v1/sessions?limit=1000{cursor}")).send().json();
        let sessions = page["sessions"].as_array().unwrap();
        sids.extend(sessions.iter().map(|it| it["sid"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return sids };
        cursor = format!("&cursor={next}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "figures to look at")]
fn after_kill_9_every_login_and_logout_that_was_answered_holds() {
    let mut site = Site::with().session(STORE).log("access = \"off\"").start();
    let (mut logins, mut logouts, mut cut) = (0, 0, 0);
    // How long a round of all operations takes, so that the kill falls into it.
    let mut whole = Duration::from_millis(500);
    for round in 0..ROUNDS {
        let (left, told) = (AtomicUsize::new(OPERATIONS), Mutex::new(Told::default()));
        let begun = Instant::now();
        let pid = site.gateway.id();
        let finished = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (site, left, told) = (&site, &left, &told);
                    scope.spawn(move || work(site, client, left, told).is_some())
                })
                .collect();
            let at = whole * u32::try_from(5 + drawn(round) % 75).unwrap() / 100;
            while begun.elapsed() < at && !clients.iter().all(|client| client.is_finished()) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            crate::harness::gateway::kill(pid);
            clients.into_iter().map(|client| client.join().unwrap()).filter(|done| *done).count()
        });
        let done = OPERATIONS - left.load(Ordering::SeqCst);
        whole =
            begun.elapsed() * u32::try_from(OPERATIONS).unwrap() / u32::try_from(done + 1).unwrap();
        site.gateway.restart();
        let Told { in_use, out } = told.into_inner().unwrap();
        let open = listed(&site);
        let lost = in_use.iter().filter(|token| !open.contains(&sid(token))).count();
        assert_eq!(lost, 0, "round {round}: logins that got their 200 are lost");
        let mut connection = site.connect();
        for token in &out {
            assert!(!open.contains(&sid(token)), "round {round}: a session that was ended is back");
            let answer = site.get("/api/").bearer(token).send_on(&mut connection);
            answer.assert_refused(401, "invalid_token");
        }
        if let Some(token) = in_use.last() {
            assert_eq!(site.get("/api/").bearer(token).send().status, 200);
        }
        (logins, logouts) = (logins + in_use.len() + out.len(), logouts + out.len());
        cut += usize::from(finished < CLIENTS);
    }
    eprintln!("{logins} logins and {logouts} logouts hold over {ROUNDS} kills, {cut} in the midst");
    assert!(cut >= 10, "most kills came after the work was done: {cut}");
}

/// Runs `wxgate run` on a store that cannot be used; what it says before it ends.
fn refusal(prepare: impl FnOnce(&Path)) -> (i32, String) {
    let wechat = FakeWechat::start();
    let directory = Site::with().session(STORE).write(&wechat.url(), "127.0.0.1:9");
    prepare(&directory.path().join("wxgate.db"));
    let Output { status, stderr, .. } = start_in(directory.path(), false);
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn start_in(directory: &Path, read_only: bool) -> Output {
    let binary = env!("CARGO_BIN_EXE_wxgate");
    // Root may write whatever the mode is, unless it gives that up.
    let mut command = if read_only && rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-dac_override", "--inh-caps=-dac_override", binary]);
        command
    } else {
        Command::new(binary)
    };
    command.args(["run", "-c", "gateway.toml"]).current_dir(directory);
    command.env("WX_SECRET", SECRET).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_file_that_cannot_be_used_is_told_at_start() {
    let (status, said) = refusal(|file| std::fs::write(file, "no database ".repeat(800)).unwrap());
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("wxgate.db` cannot be used: file is not a database"), "{said}");

    let newer = |file: &Path| {
        Database::open(file).unwrap().pragma_update(None, "user_version", 99).unwrap()
    };
    let (status, said) = refusal(newer);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("wxgate.db` has version 99; this wxgate knows versions up to"), "{said}");

    let (status, said) = refusal(|file| std::fs::create_dir(file).unwrap());
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("session.store: is a folder"), "{said}");
}

#[test]
fn a_file_that_may_only_be_read_is_told_at_start() {
    let mut site = Site::with().session(STORE).start();
    let token = site.log_in("ann");
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    site.gateway.kill();
    let mode = |mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(site.gateway.file("wxgate.db"), mode).unwrap();
    };
    mode(0o400);
    let Output { status, stderr, .. } = start_in(site.gateway.directory(), true);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("wxgate.db` cannot be used: Permission denied"), "{said}");
    mode(0o600);
    site.gateway.restart();
    site.get("/api/").bearer(&token).send().assert_refused(401, "invalid_token");
}

#[test]
fn a_damaged_file_never_lets_an_ended_session_back_in() {
    let mut site = Site::with().session(STORE).start();
    for number in 0..300 {
        site.log_in(&format!("user{number}"));
    }
    let token = site.log_in("ann");
    assert_eq!(site.post("/wx/logout").bearer(&token).send().status, 204);
    site.gateway.kill();
    let file = site.gateway.file("wxgate.db");
    let database = Database::open(&file).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let mut bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() > 3 * 4096);
    bytes[4096..].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let Output { status, stderr, .. } = start_in(site.gateway.directory(), false);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("wxgate.db` cannot be used: ") && said.contains("malformed"), "{said}");
}

#[test]
fn a_full_disk_is_a_503_that_names_the_store_and_loses_nothing_that_was_answered() {
    let mut site = Site::with().session(STORE).start();
    let (stays, goes, leaves) = (site.log_in("ann"), site.log_in("bob"), site.log_in("dora"));
    assert_eq!(site.post("/wx/logout").bearer(&goes).send().status, 204);
    site.gateway.limit_file_size(Some(0));
    site.auth(&site.wechat.code_of("carl")).assert_refused(503, "temporarily_unavailable");
    let leaving = site.post("/wx/logout").bearer(&leaves).send();
    leaving.assert_refused(503, "temporarily_unavailable");
    // Longer than it takes to find out that the disk has room again.
    for_as_long_as(Duration::from_millis(1200), "the probe names the store", || {
        let ready = site.admin("/readyz").send();
        ready.status == 503 && ready.json()["store"] == "down"
    });
    // What is known in memory needs no disk.
    assert_eq!(site.get("/api/").bearer(&stays).send().status, 200);
    site.get("/api/").bearer(&goes).send().assert_refused(401, "invalid_token");
    site.gateway.restart();
    assert_eq!(site.get("/api/").bearer(&stays).send().status, 200);
    site.get("/api/").bearer(&goes).send().assert_refused(401, "invalid_token");
    site.gateway.limit_file_size(Some(0));
    site.auth(&site.wechat.code_of("carl")).assert_refused(503, "temporarily_unavailable");
    site.gateway.limit_file_size(None);
    eventually("up again by itself", || site.admin("/readyz").send().status == 200);
    site.log_in("carl");
}
