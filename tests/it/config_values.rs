//! What is written becomes what the program uses.

use std::path::Path;
use std::time::Duration;

use wxgate::config::{
    AccessFormat, Auth, Config, HostPattern, Loaded, RateKey, RateLimit, TokenSource, load, parse,
    redacted,
};

use crate::config_errors::ENVIRONMENT;

fn right(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/configs/right").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let environment = |name: &str| {
        ENVIRONMENT.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    parse(&path, &text, &environment).unwrap()
}

/// The smallest configuration with `before` and `after` around it.
fn with(before: &str, after: &str) -> Config {
    let text = format!(
        "{before}\n[[apps]]\nappid = \"wx0123456789abcdef\"\nsecret = \"s\"\n[[upstreams]]\nname = \"php\"\n\
         servers = [\"127.0.0.1:8081\"]\n[[routes]]\npath = \"/api/\"\nupstream = \"php\"\n{after}"
    );
    parse(Path::new("gateway.toml"), &text, &|_| None).unwrap().config
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = right("smallest.toml").config;
    assert_eq!(config.server.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert!(config.server.threads >= 1);
    assert_eq!(config.server.max_header_bytes, 32 * 1024);
    assert_eq!(config.server.max_body_bytes, Some(100 * 1024 * 1024));
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(config.admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert!(config.admin.token.is_none());
    assert_eq!(config.log.access, AccessFormat::Json);
    assert_eq!(config.login.replay_window, Duration::from_secs(10));
    let limit =
        RateLimit { key: RateKey::Ip, count: 30, period: Duration::from_secs(60), burst: 30 };
    assert_eq!(config.login.rate_limit, Some(limit));
    assert_eq!(config.session.max_age, Duration::from_secs(30 * 24 * 3600));
    let places = [
        TokenSource::Authorization,
        TokenSource::Cookie("wxgate_session".to_owned()),
        TokenSource::Header("x-session-token".to_owned()),
    ];
    assert_eq!(config.session.token_from, places);
    assert_eq!(config.routes[0].name, "/api/");
    assert_eq!(config.routes[0].auth, Auth::Required);
    assert_eq!(config.routes[0].max_body_bytes, config.server.max_body_bytes);
}

#[test]
fn routes_keep_their_order_and_their_meaning() {
    let config = right("routes-that-differ.toml").config;
    let [get, post, exact, wildcard, host, literal] = config.routes.as_slice() else {
        panic!("{}", config.routes.len())
    };
    assert_eq!((get.methods.as_slice(), get.auth), (&["GET".to_owned()][..], Auth::Public));
    assert_eq!(post.methods, ["POST", "PUT"]);
    assert_eq!(exact.path, "/api");
    assert_eq!(wildcard.host, HostPattern::Wildcard(".example.com".to_owned()));
    assert_eq!(wildcard.name, "*.example.com/api/");
    let allow = wildcard.allow.as_ref().unwrap();
    assert_eq!(allow.appids, ["wx0123456789abcdef"]);
    assert_eq!(allow.scope, ["phone"]);
    assert!(allow.openids_file.as_ref().unwrap().is_file());
    assert!(wildcard.deny_openids_file.as_ref().unwrap().is_file());
    assert_eq!(host.host, HostPattern::Exact("api.example.com".to_owned()));
    assert_eq!(host.name, "API.example.com./api/");
    assert_eq!(host.auth, Auth::Optional);
    assert_eq!(host.strip_prefix.as_deref(), Some("/api"));
    assert_eq!(host.max_body_bytes, None);
    assert_eq!(literal.host, HostPattern::Exact("[::1]".to_owned()));
}

#[test]
fn zero_bytes_mean_unlimited_and_routes_inherit_it() {
    let config = with("[server]\nmax_body_bytes = \"0\"", "");
    assert_eq!(config.server.max_body_bytes, None);
    assert_eq!(config.routes[0].max_body_bytes, None);
    let config = with("[server]\nmax_body_bytes = 0", "max_body_bytes = \"1KiB\"");
    assert_eq!(config.routes[0].max_body_bytes, Some(1024));
}

#[test]
fn proxies_are_addresses_or_networks() {
    let config = with("[server]\ntrusted_proxies = [\"10.0.0.7\", \"10.1.2.3/8\", \"::1\"]", "");
    let networks: Vec<String> =
        config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.7/32", "10.0.0.0/8", "::1/128"]);
}

#[test]
fn a_burst_is_the_number_of_its_rate_unless_it_is_written() {
    let config = with(
        "[login]\nrate_limit = { per_ip = \"7/h\" }",
        "rate_limit = { per_openid = \"20/s\", burst = 40 }",
    );
    assert_eq!(config.login.rate_limit.unwrap().burst, 7);
    let limit =
        RateLimit { key: RateKey::OpenId, count: 20, period: Duration::from_secs(1), burst: 40 };
    assert_eq!(config.routes[0].rate_limit, Some(limit));
}

#[test]
fn secrets_come_without_the_white_space_around_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.key"), "\n the secret \r\n").unwrap();
    let path = folder.path().join("gateway.toml");
    let text = "[[apps]]\nappid = \"wx0123456789abcdef\"\nsecret = { file = \"app.key\" }\n[[upstreams]]\nname = \"a\"\n\
                servers = [\"b:80\"]\n[[routes]]\npath = \"/\"\nupstream = \"a\"\n";
    std::fs::write(&path, text).unwrap();
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.config.apps[0].secret.expose(), "the secret");
    assert_eq!(loaded.files, [path, folder.path().join("app.key")]);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn keys_keep_their_order_because_the_first_one_signs() {
    let config = right("keys-from-files.toml").config;
    let ids: Vec<&str> = config.session.signing_keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, ["2026-11", "2026-10"]);
    assert!(
        config.session.signing_keys[0].secret.expose().starts_with("-----BEGIN PRIVATE KEY-----")
    );
}

#[test]
fn what_operators_see_of_a_configuration_holds_no_secret() {
    let mut shown = redacted(&right("keys-from-files.toml").config);
    let text = shown.to_string();
    assert!(!text.contains("SENTINEL") && !text.contains("PRIVATE KEY"), "{text}");
    assert_eq!(shown["apps"][0]["secret"], "[secret]");
    assert_eq!(shown["session"]["signing_keys"][1]["secret"], "[secret]");
    assert_eq!(shown["session"]["ttl"], "2h");
    assert_eq!(shown["routes"][0]["upstream"], "php");
    shown = redacted(&right("unwise.toml").config);
    assert_eq!(shown["admin"]["token"], "[secret]");
    assert_eq!(shown["server"]["trusted_proxies"][1], "10.0.0.0/8");
    assert_eq!(shown["wechat"]["api_base"][0], "http://sandbox:8900/");
}
