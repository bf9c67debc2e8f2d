//! gateway.toml at the top of the project is a good configuration that shows every key.

use std::path::Path;

use serde_json::Value;

use crate::harness::tls::Authority;

fn sample() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml")).unwrap()
}

/// The sample with the comment taken off every key.
fn uncommented() -> String {
    let shown = |line: &str| match line.strip_prefix("# ") {
        Some(key) if key.split_once(" = ").is_some_and(|(name, _)| is_key(name)) => key.to_owned(),
        _ => line.to_owned(),
    };
    sample().lines().map(shown).collect::<Vec<_>>().join("\n")
}

fn is_key(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn environment(name: &str) -> Option<String> {
    matches!(name, "WX_SECRET" | "WXGATE_ADMIN_TOKEN").then(|| "0123456789abcdef".to_owned())
}

#[test]
fn the_sample_is_valid_without_a_warning() {
    let loaded = wxgate::config::parse(Path::new("gateway.toml"), &sample(), &environment).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn the_sample_is_valid_with_every_comment_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["beta.txt", "banned.txt"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::write(folder.path().join("k1.key"), "k1 of the tests, 0123456789 abcdefgh\n").unwrap();
    let (server, client) = (Authority::new(), Authority::new());
    let (shown, more, own) = (server.issue(), server.issue(), client.issue());
    for (name, text) in [
        ("fullchain.pem", &shown.cert),
        ("privkey.pem", &shown.key),
        ("shop.pem", &more.cert),
        ("shop.key", &more.key),
        ("clients.pem", &client.pem()),
        ("ca.pem", &client.pem()),
        ("client.pem", &own.cert),
        ("client.key", &own.key),
        ("assertion.pem", &include_str!("configs/lists/ed25519.pem").to_owned()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("gateway.toml");
    let loaded = wxgate::config::parse(&path, &uncommented(), &environment).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.files.len(), 13);
}

#[test]
fn what_the_sample_shows_without_a_comment_is_the_default() {
    let shown = wxgate::config::parse(Path::new("gateway.toml"), &sample(), &environment).unwrap();
    let smallest = r#"
        [[apps]]
        appid = "wx0123456789abcdef"
        secret = { env = "WX_SECRET" }
        [[upstreams]]
        name = "php"
        servers = ["127.0.0.1:8081", { address = "127.0.0.1:8082", weight = 2 }]
        [[routes]]
        path = "/api/"
        upstream = "php"
    "#;
    let default = wxgate::config::parse(Path::new("gateway.toml"), smallest, &environment).unwrap();
    assert_eq!(format!("{:#?}", shown.config), format!("{:#?}", default.config));
}

#[test]
fn every_key_of_the_schema_stands_in_the_sample() {
    let sample: Value =
        serde_json::to_value(uncommented().parse::<toml::Table>().unwrap()).unwrap();
    let mut missing = Vec::new();
    compare(&wxgate::config::schema(), &sample, "", &mut missing);
    // The sample shows one of two forms: these are the other.
    let other = [".routes.rate_limit.per_ip"];
    missing.retain(|key| !other.contains(&key.as_str()));
    assert_eq!(missing, Vec::<String>::new());
}

/// Notes the keys of `schema` that `shown` lacks.
fn compare(schema: &Value, shown: &Value, path: &str, missing: &mut Vec<String>) {
    if let Some(items) = schema.get("items") {
        let last = shown.as_array().and_then(|list| list.last());
        compare(items, last.unwrap_or(&Value::Null), path, missing);
    }
    // A secret has two tables to choose from.
    let choices =
        schema.get("anyOf").and_then(Value::as_array).filter(|choices| choices.len() == 2);
    for choice in choices.into_iter().flatten() {
        compare(choice, shown, path, missing);
    }
    for (name, property) in
        schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let path = format!("{path}.{name}");
        match shown.get(name) {
            Some(value) => compare(property, value, &path, missing),
            None => missing.push(path),
        }
    }
}
