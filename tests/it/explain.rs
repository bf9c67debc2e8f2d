//! `wxgate explain` says what really happens, and says it clearly.

use std::process::Command;

use serde_json::Value;

use crate::harness::gateway::wxgate;
use crate::harness::site::environment;
use crate::harness::{Site, Upstream};

const CONFIG: &str = r#"
[server]
trusted_proxies = ["10.0.0.0/8"]

[[apps]]
appid = "wx0123456789abcdef"
secret = "explained"

[session]
store = "memory"
signing_keys = [{ id = "k1", secret = "SENTINEL-0123456789-0123456789-key" }]

[identity]
session = "X-Session"

[[upstreams]]
name = "php"
servers = ["127.0.0.1:8081", { address = "backend.invalid:8082", weight = 2 }]
balance = "hash_openid"

[[upstreams]]
name = "java"
servers = ["127.0.0.1:8083"]

[[routes]]
name = "orders"
host = "*.example.com"
path = "/api/orders/"
methods = ["GET", "POST"]
upstream = "java"
strip_prefix = "/api"
read_timeout = "5m"
max_body_bytes = "2GiB"
allow = { appids = ["wx0123456789abcdef"] }
rate_limit = { per_openid = "20/s", burst = 40 }
cors = { origins = ["https://h5.example.com"], credentials = true }
request_headers = { set = { "X-Env" = "prod" }, remove = ["X-Debug"] }
response_headers = { remove = ["Server"] }

[[routes]]
name = "api"
path = "/api/"
upstream = "php"
auth = "optional"
cookie_bridge = true

[[routes]]
name = "verified"
path = "/api/verified"
upstream = "php"
allow = { scope = ["phone"] }

[[routes]]
name = "open"
path = "/open/"
upstream = "php"
auth = "public"
"#;

fn told(directory: &std::path::Path, arguments: &[&str]) -> String {
    let output = wxgate(directory, &[&["explain"], arguments].concat());
    let (out, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (out, error) = (out.unwrap(), error.unwrap());
    // The warnings are those of the secrets in the file.
    let error: Vec<&str> = error.lines().filter(|line| line.starts_with("wxgate:")).collect();
    let status = output.status.code().unwrap();
    format!("$ wxgate explain {}\n{out}{}\n({status})\n", arguments.join(" "), error.join("\n"))
}

/// What is another each time, by a name for it.
fn settled(page: &str) -> String {
    let line = |line: &str| match line.split_once("X-Request-Id: ") {
        Some((before, id)) if line.contains("gateway") || id.len() == 32 => {
            format!("{before}X-Request-Id: (new)")
        }
        _ => match line.split_once("X-Session: ") {
            Some((before, _)) => format!("{before}X-Session: (new)"),
            None => line.trim_end().to_owned(),
        },
    };
    page.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_it_says_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("gateway.toml"), CONFIG).unwrap();
    let api = "https://api.example.com/api/orders/7;v=1?x=1";
    let page: String = [
        &["GET", api, "--as", "oUSER_of_the_docs", "-H", "X_WX_OPENID: forged", "-H", "X-Debug: 1"]
            [..],
        &["GET", api, "-H", "Origin: https://h5.example.com"],
        &["DELETE", api],
        &[
            "OPTIONS",
            api,
            "-H",
            "Origin: https://h5.example.com",
            "-H",
            "Access-Control-Request-Method: POST",
        ],
        &["GET", api, "-H", "Authorization: Bearer a.b.c"],
        &["GET", "/api", "-H", "Host: a.test"],
        &["HEAD", "/api/x", "-H", "Cookie: a=b; wxgate_session=; c=d"],
        &["GET", "/api/verified", "--as", "oUSER_of_the_docs"],
        &[
            "GET",
            "/open/x",
            "--client",
            "10.1.2.3",
            "-H",
            "X-Forwarded-For: 192.0.2.7",
            "-H",
            "Connection: close, X-Hop",
            "-H",
            "X-Hop: 1",
        ],
        &["POST", "/wx/auth"],
        &["GET", "/nothing"],
        &["GET", "/open/%2e%2e%2fapi"],
        &["TRACE", "/api/x"],
        &["GET", "/open/x", "-H", "Host: a b"],
        &["GET", "ftp://a/b"],
        &["GET", "api/me"],
        &["GET", "/x", "--as", "?"],
    ]
    .map(|arguments| told(directory.path(), arguments))
    .join("\n");
    assert!(!page.contains("SENTINEL") && !page.contains("a.b.c  "), "{page}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was written");
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("explain", settled(&page)));
}

#[test]
fn without_the_running_gateways_key_a_token_is_not_judged() {
    let directory = tempfile::tempdir().unwrap();
    let config = CONFIG.replace("store = \"memory\"", "store = \"sqlite:wxgate.db\"");
    let config = config.lines().filter(|line| !line.contains("signing_keys"));
    let config = config.collect::<Vec<_>>().join("\n");
    std::fs::write(directory.path().join("gateway.toml"), config).unwrap();
    let token = crate::harness::token::Forge::of("alice").token();
    let bearer = format!("Authorization: Bearer {token}");
    let page = told(directory.path(), &["GET", "https://a.example.com/api/orders/", "-H", &bearer]);
    let (_, said) = page.split_once('\n').unwrap();
    assert!(said.contains("cannot be judged") && said.contains("hangs on the token"), "{said}");
    assert!(!said.contains(&token), "{said}");
    let page = told(directory.path(), &["GET", "/open/x", "-H", &bearer]);
    assert!(!page.split_once('\n').unwrap().1.contains(&token), "{page}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no key, no store");
}

/// Headers as a test compares them: those that are another each time left out.
fn compared(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-request-id"));
    for (name, _) in &mut headers {
        name.make_ascii_lowercase();
    }
    // The lanes write them in different orders.
    headers.sort();
    headers
}

#[test]
fn the_headers_that_it_prints_are_those_that_a_backend_sees() {
    let routes = r#"
[[routes]]
path = "/api/"
upstream = "php"
strip_prefix = "/api"
request_headers = { set = { "X-Env" = "prod" }, remove = ["X-Debug"] }

[[routes]]
path = "/open/"
upstream = "php"
auth = "public"
"#;
    let site = Site::with().routes(routes).identity("session = \"X-Session\"").start();
    let token = site.log_in("alice");
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; wxgate_session={token}; PHPSESSID=1");
    let requests: [(&str, &[(&str, &str)]); 4] = [
        (
            "/api/%6de/../me;v=1?x=1",
            &[
                ("Authorization", &bearer),
                ("x_wx_openid", "forged"),
                ("X.DEBUG", "1"),
                ("Connection", "keep-alive, X-Hop"),
                ("X-Hop", "1"),
                ("X-Forwarded-For", "6.6.6.6"),
                ("Accept-Language", "zh"),
                ("accept-language", "en"),
            ],
        ),
        ("/api/x", &[("Cookie", &cookie), ("Cookie", "c=d"), ("Content_Length", "7")]),
        ("/open/x?y", &[("Authorization", &bearer), ("X-Session-Token", &token), ("Proxy", "a")]),
        ("/open/", &[("Cookie", "a=b"), ("Host", "Shop.TEST:8080")]),
    ];
    for (target, headers) in requests {
        let mut request = site.get(target);
        let mut explain = Command::new(env!("CARGO_BIN_EXE_wxgate"));
        explain.args(["explain", "GET", &format!("http://shop.test{target}"), "--json", "-c"]);
        explain.arg(site.gateway.file("gateway.toml")).envs(environment());
        for (name, value) in headers {
            request = match *name {
                "Host" => request.host(value),
                name => request.header(name, value),
            };
            explain.args(["-H", &format!("{name}: {value}")]);
        }
        let answer = request.send();
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let seen = site.upstream.last();
        let output = explain.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains(&token), "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        let outcome = &said["outcome"];
        assert_eq!(outcome["request_line"], format!("{} {}", seen.method, seen.target));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let headers = outcome["headers"].as_array().unwrap().iter();
        let headers = headers.map(|it| (text(&it["name"]), text(&it["value"]))).collect();
        assert_eq!(compared(headers), compared(seen.headers), "{target}");
    }
}

#[test]
fn it_needs_no_gateway_and_disturbs_none() {
    let upstream = Upstream::start();
    let site = Site::with().start_with(upstream);
    let before = site.upstream.connections();
    let mut explain = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    let config = site.gateway.file("gateway.toml");
    explain.args(["explain", "GET", "/open/x", "-c"]).arg(config).envs(environment());
    let output = explain.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(site.upstream.connections(), before);
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("forwarded  GET /open/x"), "{page}");
}
