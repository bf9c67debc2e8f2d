//! The operator's listener: health, metrics, and who may see them.

use std::collections::HashSet;

use crate::harness::client::Request;
use crate::harness::{Reply, Site, eventually};

#[test]
fn a_running_gateway_is_live_and_ready() {
    let site = Site::start();
    for path in ["/livez", "/readyz"] {
        assert_eq!(site.admin(path).send().status, 200, "{path}");
    }
}

#[test]
fn readyz_says_what_in_json() {
    let site = Site::start();
    let answer = site.admin("/readyz").send();
    assert!(answer.json().is_object(), "{}", answer.text());
    assert!(answer.header("Content-Type").unwrap().starts_with("application/json"));
}

#[test]
fn a_backend_that_is_down_without_a_health_check_counts_as_up() {
    let nobody = crate::harness::Refusing::start();
    let site = Site::with().servers(&format!("[\"{}\"]", nobody.address())).start();
    for _ in 0..5 {
        assert_eq!(site.get("/open/x").send().status, 502);
    }
    assert_eq!(site.admin("/readyz").send().status, 200);
}

#[test]
fn the_admin_endpoints_are_not_on_the_clients_listener() {
    let site = Site::start();
    for path in ["/metrics", "/livez", "/readyz", "/api/v1/config"] {
        let answer = site.get(path).send();
        assert!(matches!(answer.status, 401 | 404), "{path}: {}", answer.status);
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn an_admin_token_guards_all_but_health() {
    let site = Site::with()
        .admin("token = { file = \"admin.token\" }")
        .file("admin.token", "an-admin-token-of-some-length\n")
        .start();
    let get = |path: &str, authorization: Option<&str>| {
        let request = Request::new(site.gateway.admin(), "GET", path).host("127.0.0.1");
        match authorization {
            Some(value) => request.header("Authorization", value).send(),
            None => request.send(),
        }
    };
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(path, None).status, 200, "{path}");
    }
    for authorization in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Bearer an-admin-token-of-some-lengt"),
        Some("Bearer an-admin-token-of-some-length2"),
        Some("Basic an-admin-token-of-some-length"),
    ] {
        for path in ["/metrics", "/metrics?x", "/nothing"] {
            let answer = get(path, authorization);
            assert_eq!(answer.status, 401, "{path} {authorization:?}");
            assert!(answer.header("WWW-Authenticate").is_some());
            assert!(!answer.text().contains("wxgate_"), "{path} {authorization:?}");
        }
    }
    let answer = get("/metrics", Some("Bearer an-admin-token-of-some-length"));
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("wxgate_build_info"));
}

#[test]
fn what_is_not_there_is_404_and_only_reading_is_allowed() {
    let site = Site::start();
    assert_eq!(site.admin("/nothing").send().status, 404);
    let answer = Request::new(site.gateway.admin(), "POST", "/metrics").body("").send();
    assert_eq!(answer.status, 405);
}

#[test]
fn the_metrics_are_prometheus_text() {
    let site = Site::start();
    let answer = site.admin("/metrics").send();
    assert_eq!(answer.status, 200);
    assert!(answer.header("Content-Type").unwrap().starts_with("text/plain"), "{answer:?}");
    for line in answer.text().lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        let fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(name.bytes().all(fit), "{line}");
        assert!(name.starts_with("wxgate_") || name.starts_with("process_"), "{line}");
    }
}

#[test]
fn every_metric_that_applies_is_there_after_some_traffic() {
    let site = Site::start();
    let token = site.log_in("alice");
    site.get("/api/x").bearer(&token).send();
    site.get("/api/x").bearer(&token).send();
    assert!(
        site.gateway.reload(&std::fs::read_to_string(site.gateway.file("gateway.toml")).unwrap())
    );
    let report = site.admin("/metrics").send().text();
    let names: HashSet<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    for name in [
        "wxgate_http_requests_total",
        "wxgate_http_request_duration_seconds",
        "wxgate_http_requests_in_flight",
        "wxgate_auth_decisions_total",
        "wxgate_token_cache_total",
        "wxgate_logins_total",
        "wxgate_wechat_requests_total",
        "wxgate_wechat_request_duration_seconds",
        "wxgate_sessions_active",
        "wxgate_upstream_requests_total",
        "wxgate_upstream_request_duration_seconds",
        "wxgate_upstream_up",
        "wxgate_config_reloads_total",
        "wxgate_config_last_reload_success",
        "wxgate_access_log_dropped_total",
        "wxgate_build_info",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
    ] {
        assert!(names.contains(name), "{name} is missing");
    }
}

#[test]
fn requests_are_counted_by_route_method_and_code() {
    let site = Site::start();
    site.upstream.answers("/open/missing", Reply::with_body("404 Not Found", &[], "no"));
    site.get("/open/x").send();
    site.request("HEAD", "/open/x").send();
    site.get("/open/missing").send();
    site.get("/api/x").send();
    let requests =
        |labels: &[(&str, &str)]| site.gateway.metric("wxgate_http_requests_total", labels);
    for (route, method, code) in [
        ("open", "GET", "200"),
        ("open", "HEAD", "200"),
        ("open", "GET", "404"),
        ("api", "GET", "401"),
    ] {
        let labels = [("route", route), ("method", method), ("code", code)];
        eventually(&format!("{labels:?}"), || requests(&labels) == 1.0);
    }
    let count = "wxgate_http_request_duration_seconds_count";
    eventually("durations", || site.gateway.metric(count, &[("route", "open")]) == 3.0);
}

#[test]
fn no_label_holds_what_a_client_chose() {
    let site = Site::start();
    let token = site.log_in("alice");
    site.get("/api/secret-path-7f3a?secret-query-7f3a=1").bearer(&token).send();
    site.get("/nothing-7f3a").host("host-7f3a.test").send();
    site.request("BREW7F3A", "/open/x").send();
    site.get("/api/x").bearer("token-7f3a").header("User-Agent", "agent-7f3a").send();
    let body = serde_json::json!({ "code": "code-7f3a", "appid": "wx7f3a7f3a7f3a" });
    site.post("/wx/auth").json(&body).send();
    let other = [("method", "other")];
    eventually("the unknown method is counted as other", || {
        site.gateway.metric("wxgate_http_requests_total", &other) == 1.0
    });
    let report = site.admin("/metrics").send().text();
    let openid = crate::harness::wechat::openid_of("alice");
    for secret in ["7f3a", "7F3A", &openid, &token] {
        assert!(!report.contains(secret), "{secret}");
    }
}

#[test]
fn open_sessions_are_counted() {
    let site = Site::start();
    let active = || site.gateway.metric("wxgate_sessions_active", &[]);
    assert_eq!(active(), 0.0);
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    assert_eq!(active(), 2.0);
    site.post("/wx/refresh").bearer(&alice).send();
    assert_eq!(active(), 2.0);
    site.post("/wx/logout").bearer(&alice).send();
    assert_eq!(active(), 1.0);
    site.post("/wx/logout").bearer(&bob).send();
    assert_eq!(active(), 0.0);
}

/// Section 8 of what scrapers may rely on: each name with labels that it has at least.
#[test]
fn every_metric_is_reported_from_the_start() {
    let site = Site::start();
    let report = site.admin("/metrics").send().text();
    for row in [
        "wxgate_http_requests_total{code=\"200\",method=\"GET\",route=\"api\"}",
        "wxgate_http_request_duration_seconds_count{route=\"api\"}",
        "wxgate_http_requests_in_flight",
        "wxgate_auth_decisions_total{result=\"expired\",route=\"api\"}",
        "wxgate_token_cache_total{result=\"hit\"}",
        "wxgate_token_cache_total{result=\"miss\"}",
        "wxgate_logins_total{appid=\"wx0123456789abcdef\",result=\"ok\"}",
        "wxgate_logins_total{appid=\"wx0123456789abcdef\",result=\"rate_limited\"}",
        "wxgate_logins_total{appid=\"unknown\",result=\"error\"}",
        "wxgate_wechat_requests_total{api=\"jscode2session\",errcode=\"0\"}",
        "wxgate_wechat_requests_total{api=\"jscode2session\",errcode=\"timeout\"}",
        "wxgate_wechat_request_duration_seconds_count{api=\"jscode2session\"}",
        "wxgate_sessions_active",
        "wxgate_store_errors_total{operation=\"find\",store=\"memory\"}",
        "wxgate_store_request_duration_seconds_count{operation=\"insert\",store=\"memory\"}",
        "wxgate_upstream_requests_total{code=\"200\",server=\"",
        "wxgate_upstream_request_duration_seconds_count{upstream=\"php\"}",
        "wxgate_upstream_up{server=\"",
        "wxgate_upstream_retries_total{server=\"",
        "wxgate_config_reloads_total{result=\"ok\"}",
        "wxgate_config_reloads_total{result=\"error\"}",
        "wxgate_config_last_reload_success 1",
        "wxgate_access_log_dropped_total",
        "wxgate_build_info{version=\"",
        "process_start_time_seconds",
    ] {
        assert!(report.lines().any(|line| line.starts_with(row)), "{row} is missing:\n{report}");
    }
}

#[test]
fn an_empty_cursor_is_the_first_page_and_one_of_no_list_is_refused() {
    let site = Site::start();
    site.log_in("alice");
    let first = site.admin("/api/v1/sessions?cursor=").send();
    assert_eq!(first.json()["sessions"].as_array().unwrap().len(), 1, "{}", first.text());
    for query in ["cursor=garbage", "cursor=0", "cursor=%00", "openid=openid_ann&cursor=garbage"] {
        let answer = site.admin(&format!("/api/v1/sessions?{query}")).send();
        assert_eq!((answer.status, &answer.json()["error"]), (400, &"invalid_request".into()));
    }
    assert_eq!(site.gateway.metric("wxgate_store_errors_total", &[]), 0.0, "the store is well");
}
