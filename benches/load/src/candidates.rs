//! What could stand between a mini program and its backend: how each is started, and what it used.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, Mac};

use crate::configs::{self, Log};
use crate::peers::Protocol;

/// The key of the tokens.
pub(crate) const KEY: &str = "signing-key-8c1f0e7d5b3a492617e0f4d2";
pub(crate) const APPID: &str = "wx0123456789abcdef";

/// A token that every candidate takes: HS256, an hour from now at least.
pub(crate) fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = BASE64URL.encode(r#"{"alg":"HS256","typ":"at+jwt","kid":"bench"}"#);
    let (iat, exp) = (now - now % 3600, now - now % 3600 + 2 * 3600);
    let claims = BASE64URL.encode(format!(
        r#"{{"iss":"wxgate","sub":"oBench_0123456789abcdefghij","aud":"{APPID}","sid":"sid-0123456789abcdef","iat":{iat},"exp":{exp},"jti":"jti-0123456789abcdef"}}"#
    ));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(format!("{header}.{claims}").as_bytes());
    let signature = BASE64URL.encode(mac.finalize().into_bytes());
    format!("{header}.{claims}.{signature}")
}

/// Where a candidate stands.
pub(crate) struct Place<'a> {
    pub(crate) port: u16,
    pub(crate) backend: u16,
    pub(crate) protocol: Protocol,
    /// Its configuration; what it writes goes beside it.
    pub(crate) config: &'a Path,
}

impl Place<'_> {
    /// The files of the certificate and its key, made by [`make_certificate`].
    pub(crate) fn certificate(&self) -> (String, String) {
        let file = |name| self.config.with_file_name(name).display().to_string();
        (file("cert.pem"), file("key.pem"))
    }
}

/// A certificate that nobody checks.
pub(crate) fn make_certificate(directory: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", "key.pem"])
        .args(["-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Where programs are that are not on the path.
pub(crate) struct Programs {
    pub(crate) wxgate: String,
    /// A Python environment with what PyPI has of them.
    pub(crate) venv: String,
}

impl Programs {
    fn find(&self, name: &str) -> PathBuf {
        match name {
            "wxgate" => self.wxgate.clone().into(),
            "wxgate-bare" => std::env::current_exe().unwrap().with_file_name(name),
            "caddy" | "traefik" => Path::new(&self.venv).join("bin").join(name),
            // The script of this name starts Python first.
            "envoy" => self.python_packages().join("envoy/_bin/envoy"),
            name => name.into(),
        }
    }

    fn python_packages(&self) -> PathBuf {
        let versions = std::fs::read_dir(Path::new(&self.venv).join("lib"));
        let version = versions.ok().and_then(|mut versions| versions.next()?.ok());
        version.map(|version| version.path().join("site-packages")).unwrap_or_default()
    }

    /// The first line with a figure of what a program says of its version.
    pub(crate) fn version(&self, program: &str) -> Option<String> {
        let argument = match program {
            "wxgate" | "envoy" | "h2load" => "--version",
            "caddy" | "traefik" => "version",
            _ => "-v",
        };
        let output = Command::new(self.find(program)).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()))?;
        // Envoy begins with the path that it was started by.
        let said = if program == "envoy" { line.rsplit(' ').next()? } else { line };
        Some(said.trim().to_owned())
    }
}

type Config = fn(&Place<'_>) -> String;

/// How a candidate is started.
pub(crate) struct Start {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    extension: &'static str,
    config: Config,
    arguments: fn(&Place<'_>) -> Vec<String>,
}

/// A candidate that runs.
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
}

/// All of them; the first is what the others are compared with.
pub(crate) fn all() -> Vec<Start> {
    let wxgate = |name, config| Start {
        name,
        program: "wxgate",
        extension: "toml",
        config,
        arguments: |place| [vec!["run".to_owned()], configs::by_file(place.config)].concat(),
    };
    let nginx = |name, config| Start {
        name,
        program: "nginx",
        extension: "conf",
        config,
        arguments: |place| {
            let directory = place.config.parent().unwrap().display().to_string();
            let log = format!("{}.log", place.config.display());
            let more = vec!["-p".to_owned(), directory, "-e".to_owned(), log];
            [configs::by_file(place.config), more].concat()
        },
    };
    let other = |name, program, extension, config, arguments| Start {
        name,
        program,
        extension,
        config,
        arguments,
    };
    let haproxy = |name, config| Start {
        name,
        program: "haproxy",
        extension: "cfg",
        config,
        arguments: |place| {
            vec!["-db".to_owned(), "-f".to_owned(), place.config.display().to_string()]
        },
    };
    vec![
        wxgate("wxgate", |place| configs::wxgate(place, true, Log::On)),
        wxgate("wxgate, log off", |place| configs::wxgate(place, true, Log::Off)),
        wxgate("wxgate, full lane", |place| configs::wxgate(place, false, Log::On)),
        other("Pingora's proxy, bare", "wxgate-bare", "none", |_| String::new(), configs::bare),
        nginx("nginx, plain", |place| configs::nginx(place, "")),
        nginx("nginx, auth_request", |place| configs::nginx(place, configs::AUTH_REQUEST)),
        nginx("nginx, Lua, token cached", |place| configs::nginx(place, configs::LUA)),
        haproxy("HAProxy, jwt_verify", |place| configs::haproxy(place, Log::On)),
        haproxy("HAProxy, jwt_verify, log off", |place| configs::haproxy(place, Log::Off)),
        other("Envoy, jwt_authn", "envoy", "json", configs::envoy, |place| {
            let more = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"];
            let more = more.map(str::to_owned).to_vec();
            [configs::by_file(place.config), more].concat()
        }),
        other("Caddy, plain", "caddy", "Caddyfile", configs::caddy, |place| {
            let file = place.config.display().to_string();
            ["run", "--adapter", "caddyfile", "--config", &file].map(str::to_owned).to_vec()
        }),
        other("Traefik, plain", "traefik", "yaml", configs::traefik, |place| {
            vec![format!("--configFile={}", place.config.display())]
        }),
    ]
}

impl Start {
    /// Starts it on the second core; `None` where it is not installed.
    pub(crate) fn run(
        &self,
        programs: &Programs,
        directory: &Path,
        backend: u16,
        protocol: Protocol,
    ) -> Option<Candidate> {
        self.run_with(programs, directory, backend, protocol, |config| config)
    }

    /// As [`Start::run`], with a configuration that `change` has its way with.
    pub(crate) fn run_with(
        &self,
        programs: &Programs,
        directory: &Path,
        backend: u16,
        protocol: Protocol,
        change: impl FnOnce(String) -> String,
    ) -> Option<Candidate> {
        programs.version(self.program)?;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = format!("{}.{}", self.name.replace([' ', ',', '\''], "-"), self.extension);
        let config = directory.join(file);
        let place = Place { port: address.port(), backend, protocol, config: &config };
        std::fs::write(&config, change((self.config)(&place))).unwrap();
        let child = Command::new("taskset")
            .args(["-c", "1"])
            .arg(programs.find(self.program))
            .args((self.arguments)(&place))
            .current_dir(directory)
            .env("HOME", directory)
            .stdout(std::fs::File::create(config.with_extension("stdout")).unwrap())
            .stderr(std::fs::File::create(config.with_extension("stderr")).unwrap())
            .spawn()
            .unwrap();
        Some(Candidate { name: self.name, address, child })
    }
}

impl Candidate {
    /// Waits until it takes connections; `false`: it never did.
    pub(crate) async fn listens(&self) -> bool {
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// The process and its children.
    fn pids(&self) -> Vec<u32> {
        let me = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children"));
        let children = children.unwrap_or_default();
        std::iter::once(me).chain(children.split(' ').filter_map(|pid| pid.parse().ok())).collect()
    }

    /// CPU time used so far, in user mode and in the kernel.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let of = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            let ticks: u64 =
                fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
            // Linux counts in hundredths of a second on every machine that this runs on.
            ticks as f64 / 100.0
        };
        self.pids().into_iter().map(of).sum()
    }

    /// Memory that is its own or shared.
    pub(crate) fn resident_kib(&self) -> u64 {
        let of = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        self.pids().into_iter().map(of).sum()
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        drop(Command::new("kill").arg(pid).status());
        // Pingora alone would wait five minutes.
        let end = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
