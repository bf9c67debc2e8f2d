//! The house rules, kept by a test: who may import whom, who alone may use what, how a file opens
//! and how long it may be. Good codebases grow import circles because nobody checks; this checks.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that every room may import.
const EVERYWHERE: [&str; 4] = ["observe", "config", "clock", "secret"];

/// Who may import whom besides itself and [`EVERYWHERE`].
const MAY_IMPORT: [(&str, &[&str]); 17] = [
    ("main", &["cli"]),
    ("lib", &[]),
    ("cli", &["serve", "sandbox", "session"]),
    (
        "serve",
        &["proxy", "admin", "endpoints", "route", "session", "upstream", "wechat", "identity"],
    ),
    ("proxy", &["endpoints", "route", "session", "identity", "upstream"]),
    ("admin", &["route", "session", "upstream", "wechat", "identity"]),
    ("endpoints", &["session", "wechat", "identity", "route"]),
    ("session", &["identity"]),
    ("route", &[]),
    ("wechat", &[]),
    ("identity", &[]),
    ("upstream", &[]),
    ("sandbox", &[]),
    ("observe", &["config", "secret"]),
    ("config", &["secret", "clock"]),
    ("clock", &[]),
    ("secret", &[]),
];

/// Rooms that [`EVERYWHERE`] does not hold for: what everybody imports imports nobody.
const LOWEST: [&str; 5] = ["observe", "config", "clock", "secret", "lib"];

/// What only some places may use, so that each thing is decided in one place.
const SOLE_OWNERS: [(&str, &[&str]); 9] = [
    ("reqwest::", &["src/wechat/", "src/upstream/health.rs", "src/cli/sessions/"]),
    (
        "jsonwebtoken::",
        &["src/session/token.rs", "src/session/keys.rs", "src/identity/assertion.rs"],
    ),
    ("moka::", &["src/session/"]),
    ("toml::", &["src/config/"]),
    ("prometheus::", &["src/observe/"]),
    (
        "pingora::proxy",
        &["src/proxy/full.rs", "src/proxy/answering.rs", "src/proxy/gateway.rs", "src/serve/"],
    ),
    (
        ".expose()",
        &[
            "src/session/",
            "src/wechat/",
            "src/admin/",
            "src/secret.rs",
            "src/sandbox/",
            "src/cli/keygen.rs",
            // The admin token, for the gateway that it belongs to.
            "src/cli/sessions.rs",
            // The key that signs assertions.
            "src/identity/assertion.rs",
            // Whether a signing key is a PEM, before anything listens.
            "src/config/check/session.rs",
        ],
    ),
    ("println!", &["src/cli/"]),
    ("SystemTime::now", &["src/clock.rs"]),
];

/// Longest file without its tests.
const LONGEST: usize = 500;

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `src/proxy/full.rs`
fn name(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string()
}

/// `proxy` for `src/proxy/full.rs`, `clock` for `src/clock.rs`
fn room(name: &str) -> &str {
    let rest = name.strip_prefix("src/").unwrap();
    rest.split_once('/').map_or(rest.trim_end_matches(".rs"), |(room, _)| room)
}

/// The lines before the tests of a file; a file of tests has none.
fn product(name: &str, text: &str) -> Vec<(usize, String)> {
    if name.ends_with("tests.rs") || name.contains("/tests/") {
        return Vec::new();
    }
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(|line| line.trim().to_owned())
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.starts_with("//"))
        .collect()
}

fn check(rule: impl Fn(&str, &str, &mut Vec<String>)) {
    let mut problems = Vec::new();
    for path in sources() {
        rule(&name(&path), &fs::read_to_string(&path).unwrap(), &mut problems);
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn a_room_imports_only_downward() {
    check(|file, text, problems| {
        let room = room(file);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            problems.push(format!("{file}:1: `{room}` is no room of the house"));
            return;
        };
        for (line, code) in product(file, text) {
            for imported in code.split("crate::").skip(1) {
                let imported: String = imported
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let everywhere = !LOWEST.contains(&room) && EVERYWHERE.contains(&imported.as_str());
                let is_room = MAY_IMPORT.iter().any(|(name, _)| *name == imported);
                if is_room && imported != room && !everywhere && !allowed.contains(&&*imported) {
                    problems.push(format!("{file}:{line}: `{room}` may not import `{imported}`"));
                }
            }
        }
    });
}

#[test]
fn each_thing_is_decided_in_one_place() {
    check(|file, text, problems| {
        for (line, code) in product(file, text) {
            for (what, owners) in SOLE_OWNERS {
                let owned = owners.iter().any(|owner| file.starts_with(owner));
                let at_word = code.split_once(what).is_some_and(|(before, _)| {
                    !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                });
                if at_word && !owned {
                    problems
                        .push(format!("{file}:{line}: `{what}` belongs to {}", owners.join(", ")));
                }
            }
            let names_identity = code.to_ascii_lowercase().contains("\"x-wx-");
            if names_identity
                && !file.starts_with("src/config/")
                && file != "src/identity/headers.rs"
            {
                problems.push(format!(
                    "{file}:{line}: identity headers are named by src/identity/headers.rs and the configuration"
                ));
            }
        }
    });
}

#[test]
fn a_file_opens_with_what_it_is_for_and_stays_short() {
    check(|file, text, problems| {
        if !text.starts_with("//! ") {
            problems.push(format!("{file}:1: does not open with `//!`"));
        }
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > LONGEST && !file.ends_with("tests.rs") {
            problems.push(format!("{file}:{LONGEST}: {lines} lines without its tests"));
        }
    });
}

#[test]
fn names_that_say_nothing_are_not_used() {
    const BANNED: [&str; 10] = [
        "util",
        "utils",
        "helper",
        "helpers",
        "common",
        "misc",
        "manager",
        "handler",
        "processor",
        "types",
    ];
    check(|file, _, problems| {
        for part in Path::new(file).with_extension("").iter() {
            if BANNED.contains(&part.to_str().unwrap()) {
                problems.push(format!("{file}:1: a name that says nothing"));
            }
        }
    });
}
