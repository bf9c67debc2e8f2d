//! A whole site: fake WeChat, gateway, one backend; configured by what a test is about.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Answer, Connection, Request};
use super::gateway::Gateway;
use super::token::{KEY, KID};
use super::upstream::Upstream;
use super::wechat::{APPID, FakeWechat, SECRET};

/// Three routes that serve most tests.
const ROUTES: &str = r#"
[[routes]]
name = "api"
path = "/api/"
upstream = "php"
auth = "required"

[[routes]]
name = "maybe"
path = "/maybe/"
upstream = "php"
auth = "optional"

[[routes]]
name = "open"
path = "/open/"
upstream = "php"
auth = "public"
"#;

/// The configuration of a site, before it is started. Lines are added to a section; apps,
/// upstreams and routes are replaced.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    server: String,
    admin: String,
    log: String,
    wechat: String,
    apps: String,
    login: String,
    session: String,
    signing_keys: String,
    identity: String,
    upstream: String,
    servers: Option<String>,
    more_upstreams: String,
    routes: String,
    files: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: String::new(),
            admin: String::new(),
            log: String::new(),
            wechat: String::new(),
            apps: format!(
                "[[apps]]\nappid = \"{APPID}\"\nsecret = {{ env = \"WX_SECRET\" }}\nkind = \"miniprogram\"\n"
            ),
            login: String::new(),
            session: String::new(),
            signing_keys: format!("[{{ id = \"{KID}\", secret = {{ file = \"test-1.key\" }} }}]"),
            identity: String::new(),
            upstream: String::new(),
            servers: None,
            more_upstreams: String::new(),
            routes: ROUTES.to_owned(),
            files: vec![("test-1.key".to_owned(), format!("{KEY}\n"))],
            environment: environment(),
        }
    }
}

macro_rules! adds_lines {
    ($($(#[$doc:meta])* $section:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub(crate) fn $section(mut self, line: &str) -> Self {
            self.$section.push_str(line);
            self.$section.push('\n');
            self
        }
    )*};
}

impl Settings {
    adds_lines! {
        /// A line of `[server]`.
        server,
        /// A line of `[admin]`.
        admin,
        /// A line of `[log]`.
        log,
        /// A line of `[wechat]`.
        wechat,
        /// A line of `[login]`.
        login,
        /// A line of `[session]`.
        session,
        /// A line of `[identity]`.
        identity,
        /// A line of the upstream `php`.
        upstream,
    }

    /// All lines of `[server]` so far are replaced by this one.
    pub(crate) fn replace_server(mut self, line: &str) -> Self {
        self.server = format!("{line}\n");
        self
    }

    /// All lines of the upstream `php` so far are replaced by this one.
    pub(crate) fn replace_upstream(mut self, line: &str) -> Self {
        self.upstream = format!("{line}\n");
        self
    }

    /// The routes, instead of `/api/`, `/maybe/` and `/open/`.
    pub(crate) fn routes(mut self, routes: &str) -> Self {
        routes.clone_into(&mut self.routes);
        self
    }

    /// Further routes.
    pub(crate) fn more_routes(mut self, routes: &str) -> Self {
        self.routes.push_str(routes);
        self
    }

    /// The apps, instead of the one that every test has.
    pub(crate) fn apps(mut self, apps: &str) -> Self {
        apps.clone_into(&mut self.apps);
        self
    }

    /// `servers` of the upstream `php`, instead of the backend.
    pub(crate) fn servers(mut self, servers: &str) -> Self {
        self.servers = Some(servers.to_owned());
        self
    }

    /// Further upstreams.
    pub(crate) fn more_upstreams(mut self, upstreams: &str) -> Self {
        self.more_upstreams.push_str(upstreams);
        self
    }

    /// `session.signing_keys`.
    pub(crate) fn signing_keys(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.signing_keys);
        self
    }

    /// A file beside gateway.toml.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// A variable of the gateway's environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// gateway.toml for these peers.
    pub(crate) fn toml(&self, wechat: &str, backend: &str) -> String {
        let Self { server, admin, log, wechat: wechat_lines, apps, login, session, .. } = self;
        let Self { identity, upstream, more_upstreams, routes, signing_keys, .. } = self;
        let or = |lines: &str, key: &str, default: &str| {
            let is_it = |line: &str| line.trim_start().starts_with(&format!("{key} ="));
            if lines.lines().any(is_it) { String::new() } else { default.to_owned() }
        };
        let listen = or(server, "listen", "listen = [\"127.0.0.1:0\"]");
        let threads = or(server, "threads", "threads = 2");
        // Everything is promised for both lanes, so that all tests can be run through either.
        let lane = std::env::var("WXGATE_TEST_LANE").unwrap_or_default();
        let lane = if lane == "full" {
            or(server, "fast_lane", "fast_lane = false")
        } else {
            String::new()
        };
        let admin_listen = or(admin, "listen", "listen = \"127.0.0.1:0\"");
        let level = or(log, "level", "level = \"info\"");
        let api_base = or(wechat_lines, "api_base", &format!("api_base = \"{wechat}\""));
        let rate = "rate_limit = { per_ip = \"100000/s\", burst = 100000 }";
        let rate = or(login, "rate_limit", rate);
        let servers = self.servers.clone().unwrap_or_else(|| format!("[\"{backend}\"]"));
        let keys = if signing_keys.is_empty() {
            String::new()
        } else {
            format!("signing_keys = {signing_keys}")
        };
        let store = or(session, "store", "store = \"memory\"");
        format!(
            "[server]\n{listen}\n{threads}\n{lane}\n{server}\n[admin]\n{admin_listen}\n{admin}\n\
             [log]\n{level}\n{log}\n[wechat]\n{api_base}\n{wechat_lines}\n{apps}\n\
             [login]\n{rate}\n{login}\n[session]\n{store}\n{keys}\n{session}\n\
             [identity]\n{identity}\n[[upstreams]]\nname = \"php\"\nservers = {servers}\n\
             {upstream}\n{more_upstreams}\n{routes}\n"
        )
    }

    /// Writes everything into a new directory.
    pub(crate) fn write(&self, wechat: &str, backend: &str) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        self.write_into(directory.path(), wechat, backend);
        directory
    }

    fn write_into(&self, directory: &Path, wechat: &str, backend: &str) {
        for (name, text) in &self.files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        std::fs::write(directory.join("gateway.toml"), self.toml(wechat, backend)).unwrap();
    }

    /// Starts WeChat, a backend and the gateway.
    pub(crate) fn start(self) -> Site {
        self.start_with(Upstream::start())
    }

    /// Starts WeChat and the gateway before this backend.
    pub(crate) fn start_with(self, upstream: Upstream) -> Site {
        let wechat = FakeWechat::start();
        let directory = self.write(&wechat.url(), &upstream.address().to_string());
        let gateway = Gateway::start(directory, &self.environment);
        Site { gateway, upstream, wechat, settings: self }
    }
}

/// What the gateway's environment holds.
pub(crate) fn environment() -> Vec<(String, String)> {
    vec![("WX_SECRET".to_owned(), SECRET.to_owned())]
}

/// A site that runs.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Upstream,
    pub(crate) wechat: FakeWechat,
    settings: Settings,
}

impl Site {
    /// The usual site.
    pub(crate) fn start() -> Self {
        Settings::default().start()
    }

    /// A site to be configured.
    pub(crate) fn with() -> Settings {
        Settings::default()
    }

    /// Changes the configuration and reloads. Tells whether the gateway took it.
    pub(crate) fn reload(&mut self, change: impl FnOnce(Settings) -> Settings) -> bool {
        self.settings = change(self.settings.clone());
        let backend = self.upstream.address().to_string();
        self.settings.write_into(self.gateway.directory(), &self.wechat.url(), &backend);
        let toml = self.settings.toml(&self.wechat.url(), &backend);
        self.gateway.reload(&toml)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.gateway.address())
    }

    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        Request::new(self.gateway.address(), method, target)
    }

    pub(crate) fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub(crate) fn post(&self, target: &str) -> Request {
        self.request("POST", target)
    }

    /// A request to the admin listener.
    pub(crate) fn admin(&self, target: &str) -> Request {
        Request::new(self.gateway.admin(), "GET", target).host("127.0.0.1")
    }

    /// `POST /wx/auth` with this code.
    pub(crate) fn auth(&self, code: &str) -> Answer {
        self.post("/wx/auth").json(&json!({ "code": code })).send()
    }

    /// Logs a user in; their whole answer.
    #[track_caller]
    pub(crate) fn log_in_fully(&self, user: &str) -> Value {
        let answer = self.auth(&self.wechat.code_of(user));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Logs a user in; their token.
    #[track_caller]
    pub(crate) fn log_in(&self, user: &str) -> String {
        self.log_in_fully(user)["access_token"].as_str().unwrap().to_owned()
    }

    /// Waits for the JSON access-log line that fits.
    #[track_caller]
    pub(crate) fn access_line(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            let lines = self.gateway.stdout();
            let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.into_iter().find(|line| fits(line))
        };
        super::eventually("the access-log line is written", || find().is_some());
        find().unwrap()
    }

    /// Sends raw bytes on a connection of their own and reads one answer.
    #[track_caller]
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.connect().send(bytes).answer()
    }
}
