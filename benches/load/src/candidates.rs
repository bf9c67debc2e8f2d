//! What could stand between a mini program and its backend, each configured as its own manual
//! says, for one worker, with connections to the backend kept open.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, Mac};

/// The key of the tokens.
const KEY: &str = "signing-key-8c1f0e7d5b3a492617e0f4d2";
const APPID: &str = "wx0123456789abcdef";

/// Where the backend listens.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) backend: u16,
}

/// A token that every candidate takes: HS256, an hour from now.
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

/// How a candidate is started; `None` where it is not installed.
pub(crate) struct Start {
    pub(crate) name: &'static str,
    program: &'static str,
    config: fn(u16, Ports, &Path) -> String,
    arguments: fn(&Path) -> Vec<String>,
}

/// A candidate that runs.
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
}

/// All of them; the first is what the others are compared with.
pub(crate) fn all() -> Vec<Start> {
    let wxgate_arguments =
        |config: &Path| vec!["run".to_owned(), "-c".to_owned(), config.display().to_string()];
    let nginx_arguments = |config: &Path| {
        let file = config.display().to_string();
        vec![
            "-c".to_owned(),
            file.clone(),
            "-p".to_owned(),
            config.parent().unwrap().display().to_string(),
            "-e".to_owned(),
            format!("{file}.log"),
        ]
    };
    let nginx = |name, config| Start { name, program: "nginx", config, arguments: nginx_arguments };
    vec![
        Start {
            name: "wxgate",
            program: "wxgate",
            config: |port, ports, path| wxgate(port, ports, path, "fast_lane = true", "json"),
            arguments: wxgate_arguments,
        },
        Start {
            name: "wxgate, log off",
            program: "wxgate",
            config: |port, ports, path| wxgate(port, ports, path, "fast_lane = true", "off"),
            arguments: wxgate_arguments,
        },
        Start {
            name: "wxgate full lane",
            program: "wxgate",
            config: |port, ports, path| wxgate(port, ports, path, "fast_lane = false", "json"),
            arguments: wxgate_arguments,
        },
        nginx("nginx plain", |port, ports, path| nginx_config(port, ports, path, "")),
        nginx("nginx auth_request", |port, ports, path| {
            nginx_config(port, ports, path, AUTH_REQUEST)
        }),
        nginx("nginx Lua cached token", |port, ports, path| nginx_config(port, ports, path, LUA)),
        Start {
            name: "HAProxy jwt_verify",
            program: "haproxy",
            config: haproxy,
            arguments: |config| {
                vec!["-db".to_owned(), "-f".to_owned(), config.display().to_string()]
            },
        },
    ]
}

fn wxgate(port: u16, ports: Ports, path: &Path, lane: &str, access: &str) -> String {
    format!(
        "[server]\nlisten = [\"127.0.0.1:{port}\"]\nthreads = 1\n{lane}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\naccess = \"{access}\"\naccess_file = \"{}.access\"\n\
         [wechat]\napi_base = \"http://127.0.0.1:9\"\n\
         [[apps]]\nappid = \"{APPID}\"\nsecret = \"0123456789abcdef0123456789abcdef\"\nkind = \"miniprogram\"\n\
         [session]\nstore = \"memory\"\nsigning_keys = [{{ id = \"bench\", secret = \"{KEY}\" }}]\n\
         [[upstreams]]\nname = \"php\"\nservers = [\"127.0.0.1:{}\"]\nkeepalive = 1024\n\
         [[routes]]\nname = \"api\"\npath = \"/api/\"\nupstream = \"php\"\nauth = \"required\"\n",
        path.display(),
        ports.backend
    )
}

/// The answer to the subrequest comes from the backend, as it would from an authenticating one.
const AUTH_REQUEST: &str = "auth_request /auth; auth_request_set $who $upstream_http_server; \
    proxy_set_header X-WX-OPENID $who;";

/// The token is verified once by HMAC and then looked up.
const LUA: &str = r#"access_by_lua_block {
    local header = ngx.var.http_authorization
    local token = header and string.match(header, "^Bearer (.+)$")
    if not token then return ngx.exit(401) end
    local who = verified:get(token)
    if not who then
        who = verify(token)
        if not who then return ngx.exit(401) end
        verified:set(token, who, 60)
    end
    ngx.req.set_header("X-WX-OPENID", who)
    ngx.req.clear_header("Authorization")
}"#;

const LUA_INIT: &str = r#"
    lua_package_path "/usr/share/lua/5.1/?.lua;;";
    init_worker_by_lua_block {
        local lrucache = require "resty.lrucache"
        local cjson = require "cjson"
        verified = lrucache.new(10000)
        local function decode(text)
            text = text:gsub("-", "+"):gsub("_", "/")
            return ngx.decode_base64(text .. string.rep("=", (4 - #text % 4) % 4))
        end
        function verify(token)
            local head, body, mac = token:match("^([^.]+)%.([^.]+)%.([^.]+)$")
            if not head then return nil end
            local file = io.popen("printf %s '" .. head:gsub("[^%w_-]", "") .. "." .. body:gsub("[^%w_-]", "")
                .. "' | openssl dgst -sha256 -hmac KEY -binary | base64 -w0")
            local made = file:read("*a"):gsub("+", "-"):gsub("/", "_"):gsub("=", "")
            file:close()
            if made ~= mac then return nil end
            local claims = cjson.decode(decode(body))
            return claims.exp > ngx.time() and claims.sub or nil
        end
    }
"#;

fn nginx_config(port: u16, ports: Ports, path: &Path, how: &str) -> String {
    let modules = if how == LUA {
        "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
         load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n"
    } else {
        ""
    };
    let init = if how == LUA { LUA_INIT.replace("KEY", KEY) } else { String::new() };
    format!(
        "{modules}daemon off; worker_processes 1; pid {path}.pid; error_log {path}.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ {init}\n access_log {path}.access combined buffer=64k flush=1s;\n\
         client_body_temp_path {path}.body; proxy_temp_path {path}.proxy;\n\
         fastcgi_temp_path {path}.f; uwsgi_temp_path {path}.u; scgi_temp_path {path}.s;\n\
         keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;\n\
         upstream php {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port};\n\
         location = /auth {{ internal; proxy_pass http://php; proxy_pass_request_body off;\n\
         proxy_set_header Content-Length \"\"; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
         location / {{ {how}\n proxy_pass http://php; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n",
        path = path.display(),
        backend = ports.backend,
    )
}

/// Without a log, which HAProxy can only send line by line: what it would cost is not charged.
fn haproxy(port: u16, ports: Ports, _: &Path) -> String {
    format!(
        "global\n nbthread 1\n maxconn 4096\n\
         defaults\n mode http\n timeout client 75s\n timeout server 30s\n timeout connect 1s\n\
         timeout http-keep-alive 75s\n option http-keep-alive\n http-reuse always\n\
         frontend f\n bind 127.0.0.1:{port}\n\
         http-request set-var(txn.bearer) http_auth_bearer\n\
         http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n\
         http-request deny unless {{ var(txn.alg) -m str HS256 }}\n\
         http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{KEY}\") -m int 1 }}\n\
         http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')\n\
         http-request set-var(txn.now) date()\n\
         http-request deny if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}\n\
         http-request del-header x-wx- -m beg\n\
         http-request set-header X-WX-OPENID %[var(txn.bearer),jwt_payload_query('$.sub')]\n\
         http-request del-header authorization\n\
         option forwardfor\n default_backend b\n\
         backend b\n server s 127.0.0.1:{}\n",
        ports.backend
    )
}

impl Start {
    pub(crate) fn run(&self, wxgate: &str, directory: &Path, ports: Ports) -> Option<Candidate> {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = directory.join(self.name.replace([' ', ','], "-"));
        std::fs::write(&config, (self.config)(address.port(), ports, &config)).unwrap();
        let program = if self.program == "wxgate" { wxgate } else { self.program };
        Command::new(program)
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        let child = Command::new("taskset")
            .args(["-c", "1", program])
            .args((self.arguments)(&config))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(config.with_extension("stderr")).unwrap())
            .spawn()
            .unwrap();
        Some(Candidate { name: self.name, address, child })
    }
}

impl Candidate {
    pub(crate) async fn await_listening(&self) {
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not listen", self.name);
    }

    /// The process and its children.
    fn pids(&self) -> Vec<u32> {
        let me = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children"));
        let children = children.unwrap_or_default();
        std::iter::once(me).chain(children.split(' ').filter_map(|pid| pid.parse().ok())).collect()
    }

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
        drop(self.child.wait());
    }
}
