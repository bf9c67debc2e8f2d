//! What is written about requests, and what never is.

use std::time::Duration;

use serde_json::json;

use crate::harness::token::Forge;
use crate::harness::wechat::{Play, SECRET, openid_of, session_key_of, unionid_of};
use crate::harness::{Site, eventually, token};

#[test]
fn a_request_leaves_one_json_line_with_the_promised_fields() {
    let site = Site::start();
    let token = site.log_in("alice");
    site.post("/api/orders?id=7")
        .bearer(&token)
        .header("User-Agent", "agent \"one\"")
        .header("Referer", "https://servicewechat.com/x/1/page-frame.html")
        .body("12345")
        .send();
    let line = site.access_line(|line| line["path"] == "/api/orders");
    let fields = [
        "ts",
        "request_id",
        "client",
        "method",
        "host",
        "path",
        "status",
        "bytes_in",
        "bytes_out",
        "duration_ms",
        "route",
        "upstream",
        "server",
        "auth",
        "user",
        "user_agent",
        "referer",
    ];
    for field in fields {
        assert!(line.get(field).is_some(), "{field} is missing: {line}");
    }
    for field in line.as_object().unwrap().keys() {
        assert!(fields.contains(&field.as_str()), "{field} is not promised: {line}");
    }
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["host"], "shop.test");
    assert_eq!(line["status"], 200);
    assert_eq!(line["bytes_in"], 5);
    assert_eq!(line["bytes_out"], 5);
    assert!(line["duration_ms"].as_f64().is_some_and(|ms| (0.0..30_000.0).contains(&ms)), "{line}");
    assert_eq!(line["route"], "api");
    assert_eq!(line["upstream"], "php");
    assert_eq!(line["server"], site.upstream.address().to_string());
    assert_eq!(line["auth"], "ok");
    assert_eq!(line["user_agent"], "agent \"one\"");
    assert_eq!(line["request_id"], site.upstream.last().header("X-Request-Id").unwrap());
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.starts_with("20") && ts.contains('T') && ts.ends_with('Z'), "{ts}");
    assert_eq!(site.gateway.stdout().matches("/api/orders").count(), 1);
}

#[test]
fn every_request_leaves_a_line_refused_ones_too() {
    let site = Site::start();
    let token = site.log_in("alice");
    site.get("/api/1").send();
    site.get("/api/2").bearer("bad").send();
    site.get("/nothing").send();
    site.get("/maybe/3").send();
    site.get("/open/4").bearer(&token).send();
    site.request("TRACE", "/open/5").send();
    for (path, status, auth) in [
        ("/api/1", 401, "missing"),
        ("/api/2", 401, "invalid"),
        ("/maybe/3", 200, "guest"),
        ("/open/4", 200, "public"),
    ] {
        let line = site.access_line(|line| line["path"] == path);
        assert_eq!(
            (line["status"].as_i64(), line["auth"].as_str()),
            (Some(status), Some(auth)),
            "{path}"
        );
    }
    for (path, status) in [("/nothing", 404), ("/open/5", 405), ("/wx/auth", 200)] {
        assert_eq!(site.access_line(|line| line["path"] == path)["status"], status, "{path}");
    }
}

#[test]
fn a_user_is_a_hash_that_is_the_same_for_the_same_user_only() {
    let site = Site::start();
    let (first, again) = (site.log_in("alice"), site.log_in("alice"));
    let bob = site.log_in("bob");
    for (path, token) in [("/api/a1", &first), ("/api/a2", &again), ("/api/b", &bob)] {
        site.get(path).bearer(token).send();
    }
    let user = |path: &str| {
        site.access_line(|line| line["path"] == path)["user"].as_str().unwrap().to_owned()
    };
    assert_eq!(user("/api/a1"), user("/api/a2"));
    assert_ne!(user("/api/a1"), user("/api/b"));
    assert!(user("/api/b").len() >= 16 && !user("/api/b").contains("bob"));
}

#[test]
fn combined_lines_are_what_log_readers_expect() {
    let site = Site::with().log("access = \"combined\"").start();
    let token = site.log_in("alice");
    site.get("/api/orders?id=7")
        .bearer(&token)
        .header("User-Agent", "agent \"one\"\\")
        .header("Referer", "https://shop.test/")
        .send();
    let find = || {
        site.gateway.stdout().lines().find(|line| line.contains("/api/orders")).map(str::to_owned)
    };
    eventually("the line is written", || find().is_some());
    let line = find().unwrap();
    assert!(line.starts_with("127.0.0.1 - "), "{line}");
    assert!(
        line.contains("] \"GET /api/orders HTTP/1.1\" 200 5 \"https://shop.test/\" \""),
        "{line}"
    );
    assert!(!line.contains("id=7"), "{line}");
    assert!(!line.contains("agent \"one\""), "a quote is escaped: {line}");
}

#[test]
fn with_access_off_nothing_is_written_to_standard_output() {
    let site = Site::with().log("access = \"off\"").start();
    for _ in 0..10 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    crate::harness::for_as_long_as(Duration::from_millis(500), "it stays empty", || {
        site.gateway.stdout().is_empty()
    });
}

#[test]
fn the_access_log_can_be_a_file() {
    let site = Site::with().log("access_file = \"access.log\"").start();
    site.get("/open/filed").send();
    let text = || std::fs::read_to_string(site.gateway.file("access.log")).unwrap_or_default();
    eventually("the line is in the file", || text().contains("/open/filed"));
    assert!(site.gateway.stdout().is_empty(), "{}", site.gateway.stdout());
}

#[test]
fn a_full_disk_costs_log_lines_and_no_requests() {
    let site = Site::with().log("access_file = \"/dev/full\"").start();
    for _ in 0..50 {
        assert_eq!(site.get("/open/x").send().status, 200);
    }
    eventually("lost lines are counted", || {
        site.gateway.metric("wxgate_access_log_dropped_total", &[]) >= 50.0
    });
    assert!(!site.gateway.stderr().contains("panicked"));
}

#[test]
fn what_a_client_sends_cannot_forge_or_break_a_line() {
    let site = Site::start();
    for (index, evil) in [
        "\"} {\"status\":200",
        "\\\"",
        "\u{9}tab",
        "\u{1b}[2J".trim_start_matches('\u{1b}'),
        "é\u{2028}",
    ]
    .iter()
    .enumerate()
    {
        let path = format!("/open/line{index}");
        site.get(&path).header("User-Agent", evil).header("Referer", evil).send();
        let line = site.access_line(|line| line["path"] == *path);
        assert_eq!(line["status"], 200, "{evil:?}");
    }
    for line in site.gateway.stdout().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_token_that_a_client_writes_where_none_belongs_stands_in_no_line() {
    for access in ["json", "combined"] {
        let site = Site::with().log(&format!("access = \"{access}\"")).start();
        let token = site.log_in("alice");
        site.get(&format!("/open/{token}/x"))
            .header("User-Agent", &format!("app/1 ({token})"))
            .header("Referer", &format!("https://shop.test/{token}"))
            .send();
        let seen = site.upstream.last();
        assert!(seen.target.contains(&token), "the backend gets what was sent");
        eventually("it is logged", || site.gateway.stdout().contains("/open/[token]/x"));
        let log = site.gateway.stdout();
        assert!(log.contains("app/1 ([token])"), "{log}");
        assert!(log.contains("https://shop.test/[token]"), "{log}");
        for part in token.split('.') {
            assert!(!log.contains(part) && !site.gateway.stderr().contains(part), "{log}");
        }
    }
}

#[test]
fn the_host_and_path_of_a_line_are_those_of_the_request_without_its_query() {
    let site = Site::start();
    site.get("/open//a/../b?secret=7f3a#".trim_end_matches('#')).host("Shop.Test:80").send();
    let line = site.access_line(|line| line["path"].as_str().is_some_and(|p| p.contains("/b")));
    assert!(!line.to_string().contains("7f3a"), "{line}");
    assert!(line["host"].as_str().unwrap().to_lowercase().starts_with("shop.test"), "{line}");
}

/// One whole run with everything that could tempt a program to log a secret.
#[test]
fn no_secret_stands_in_any_output_of_a_whole_run_at_any_level() {
    for level in ["info", "trace"] {
        let site = Site::with()
            .log(&format!("level = \"{level}\""))
            .wechat("timeout = \"300ms\"")
            .session("token_from = [\"authorization\", \"cookie:sess\", \"query:token\"]")
            .admin("token = { file = \"admin.token\" }")
            .file("admin.token", "admin-token-7c1d9e")
            .start();
        let mut secrets = vec![
            SECRET.to_owned(),
            token::KEY.to_owned(),
            "admin-token-7c1d9e".to_owned(),
            openid_of("alice"),
            unionid_of("alice"),
            session_key_of("alice"),
            session_key_of("bob"),
            openid_of("bob"),
        ];
        let mut answers = String::new();
        let code = site.wechat.code_with_unionid_of("alice");
        let login = site.auth(&code).json();
        let alice = login["access_token"].as_str().unwrap().to_owned();
        secrets.push(code);
        for play in [
            Play::Hang,
            Play::Reset,
            Play::Half("bob".to_owned()),
            Play::Status(500, "<html>".to_owned()),
            Play::Body("not json".to_owned()),
            Play::Body(format!(
                "{{\"openid\": \"{}\", \"session_key\": \"AAAA\"}}",
                openid_of("bob")
            )),
            Play::Errcode(40125),
            Play::Errcode(-1),
            Play::Raw(b"nonsense\r\n\r\n".to_vec()),
        ] {
            let code = site.wechat.code_that(play);
            answers.push_str(&site.auth(&code).text());
            secrets.push(code);
        }
        answers.push_str(&site.auth("code-that-nobody-knows").text());
        secrets.push("code-that-nobody-knows".to_owned());
        let refreshed = site.post("/wx/refresh").bearer(&alice).send().json();
        let refreshed = refreshed["access_token"].as_str().unwrap().to_owned();
        let forged = Forge::of("alice").key(b"another-signing-key-of-32-bytes-").token();
        let admin = |path: &str, token: &str| {
            crate::harness::client::Request::new(site.gateway.admin(), "GET", path)
                .bearer(token)
                .send()
                .text()
        };
        for token in [&alice, &refreshed, &forged] {
            site.get("/api/x").bearer(token).send();
            site.get(&format!("/api/x?token={token}")).send();
            site.get(&format!("/nothing?token={token}")).send();
            site.get("/api/x").header("Cookie", &format!("sess={token}")).send();
            site.raw(format!("GET /api/x\u{1} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"));
            site.raw(format!("GET /api/x?token={token}\u{1} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
            site.raw(format!(
                "POST /api/x HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\n\
                 Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            ));
            secrets.push(token.clone());
        }
        site.upstream.answers("/api/broken", crate::harness::Reply::default().then_reset());
        site.get(&format!("/api/broken?token={alice}")).send();
        site.upstream.stop();
        site.get(&format!("/api/x?token={alice}")).send();
        site.post("/wx/auth").json(&json!({ "code": "code-of-nobody", "appid": SECRET })).send();
        secrets.push("code-of-nobody".to_owned());
        site.gateway.signal(rustix::process::Signal::HUP);
        answers.push_str(&site.get("/wx/session").bearer(&forged).send().text());
        answers.push_str(&admin("/metrics", "admin-token-7c1d9e"));
        answers.push_str(&admin("/readyz", "wrong"));
        site.get("/open/last").send();
        site.access_line(|line| line["path"] == "/open/last");
        let logs = format!("{}{}", site.gateway.stdout(), site.gateway.stderr());
        for secret in &secrets {
            assert!(!answers.contains(secret), "{secret} stands in an answer");
            let line = logs.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} stands in the log at {level}: {line:?}");
        }
        // Pieces are as bad.
        let signature = alice.rsplit('.').next().unwrap();
        assert!(!logs.contains(signature), "a token's signature at {level}");
    }
}

#[test]
fn every_answer_names_the_request_that_the_log_tells_of() {
    let cors = "cors = { origins = [\"https://h5.example.com\"] }";
    let site = Site::with().login(cors).start();
    let token = site.log_in("alice");
    let preflight = site
        .request("OPTIONS", "/wx/auth")
        .header("Origin", "https://h5.example.com")
        .header("Access-Control-Request-Method", "POST");
    for (path, request) in [
        ("/open/x", site.get("/open/x")),
        ("/open", site.get("/open")),
        ("/wx/session", site.get("/wx/session").bearer(&token)),
        ("/wx/logout", site.post("/wx/logout").bearer(&token)),
        ("/nowhere", site.get("/nowhere")),
        ("/wx/auth", preflight),
    ] {
        let answer = request.send();
        let id = answer.header("X-Request-Id").unwrap_or_else(|| panic!("{path}: no id"));
        assert_eq!(site.access_line(|line| line["request_id"] == id)["path"], path);
    }
}
