//! Every wrong configuration is refused with place and mend, and no secret in it is shown.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SENTINEL: &str = "SENTINEL";

/// The environment that the configurations name. `WX_SECRET_OF_THE_SECOND`, `WX_UNSET` and
/// `WXGATE_ADMIN_TOKEN` are not in it.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] = [
    ("WX_SECRET", "SENTINEL of the environment"),
    ("WX_EMPTY", " \n"),
    ("WX_KEY", "SENTINEL-0123456789-0123456789-key"),
];

/// The folder of the right or the wrong configurations.
fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/configs").join(kind)
}

/// Names of the configurations in it, sorted.
fn configurations(kind: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder(kind)).unwrap();
    let mut names: Vec<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Runs the real binary in the folder of the configuration.
fn wxgate(kind: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wxgate"))
        .args(arguments)
        .current_dir(folder(kind))
        .env_clear()
        .envs(ENVIRONMENT)
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    format!(
        "exit status: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().expect("an exit status"),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    )
}

fn snapshot(kind: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{kind}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for name in configurations(kind) {
        let output = told(&wxgate(kind, &["check", "-c", &name]));
        assert!(!output.contains(SENTINEL), "{name}: {output}");
        insta::assert_snapshot!(name.trim_end_matches(".toml"), output);
    }
}

#[test]
fn check_explains_every_wrong_configuration() {
    assert!(configurations("wrong").len() >= 35);
    snapshot("wrong");
}

#[test]
fn check_accepts_right_configurations_and_warns() {
    snapshot("right");
}

#[test]
fn wrong_configurations_end_with_status_2_and_nothing_on_stdout() {
    for name in configurations("wrong") {
        let output = wxgate("wrong", &["check", "-c", &name]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(output.stdout.is_empty(), "{name}");
        for line in String::from_utf8(output.stderr).unwrap().lines() {
            let placed = line.starts_with(&format!("{name}:"));
            assert!(placed || line.starts_with("   hint: ") || line.contains("problem"), "{line}");
        }
    }
}

#[test]
fn run_refuses_what_check_refuses_and_starts_nothing() {
    for name in configurations("wrong") {
        let run = wxgate("wrong", &["run", "-c", &name]);
        assert_eq!(run.status.code(), Some(2), "{name}");
        assert!(run.stdout.is_empty(), "{name}");
        let check = String::from_utf8(wxgate("wrong", &["check", "-c", &name]).stderr).unwrap();
        let expected = format!("{}; nothing was started\n", check.trim_end());
        assert_eq!(String::from_utf8(run.stderr).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_missing_file_is_named_with_the_mend() {
    for (command, file, outcome) in
        [("check", "no-such.toml", ""), ("run", "gateway.toml", "; nothing was started")]
    {
        let output = wxgate("right", &[command, "-c", file]);
        assert_eq!(
            told(&output),
            format!(
                "exit status: 2\n--- stdout\n--- stderr\n\
                 {file}: cannot be read: No such file or directory (os error 2)\n   \
                 hint: name the configuration with `-c FILE`; `wxgate demo` needs none\n\
                 1 problem{outcome}\n"
            )
        );
    }
}

#[test]
fn a_file_in_another_encoding_is_told_with_place_and_mend() {
    let directory = tempfile::tempdir().unwrap();
    // \u{7f51}\u{5173} in GBK, as an editor on Windows may save it.
    let text = b"[server]\nthreads = 2 # \xcd\xf8\xb9\xd8\n";
    std::fs::write(directory.path().join("gateway.toml"), text).unwrap();
    let output = crate::harness::gateway::wxgate(directory.path(), &["check"]);
    assert_eq!(
        told(&output),
        "exit status: 2\n--- stdout\n--- stderr\n\
         gateway.toml:2:15: is not UTF-8, which TOML is written in\n   \
         hint: save the file as UTF-8; an editor may have written GBK\n1 problem\n"
    );
}

#[test]
fn wrong_usage_ends_with_status_2() {
    for arguments in [&["chekc"][..], &["check", "--config"], &["check", "a.toml"], &[]] {
        let output = wxgate("right", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(wxgate("right", &["--help"]).status.code(), Some(0));
    let version = wxgate("right", &["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        concat!("wxgate ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_file_full_of_mistakes_is_told_in_bounds_and_without_guesses() {
    let text: String = (0..1000).map(|number| format!("key{number} = 1\n")).collect();
    let problems = wxgate::config::parse(Path::new("gateway.toml"), &text, &|_| None).unwrap_err();
    assert_eq!(problems.len(), 100);
    assert!(!problems.to_string().contains("no app is configured"));
}

/// A good configuration with a literal secret at every place for one.
const LITERALS: &str = r#"
[admin]
token = "SENTINEL-admin-token-0123456789"

[session]
signing_keys = [{ id = "a", secret = "SENTINEL-key-0123456789-0123456789" }]

[[apps]]
appid = "wx0123456789abcdef"
secret = "SENTINEL-app-secret"
kind = "miniprogram"

[[upstreams]]
name = "php"
servers = ["127.0.0.1:8081"]

[[routes]]
path = "/"
upstream = "php"
"#;

/// What `check` prints for `text`, and what a debugger would see of it.
fn everything_told(text: &str) -> String {
    match wxgate::config::parse(Path::new("gateway.toml"), text, &|_| None) {
        Ok(loaded) => format!("{}{loaded:?}", loaded.warnings),
        Err(problems) => format!("{problems}{problems:?}"),
    }
}

#[test]
fn a_secret_is_shown_by_no_file_that_is_cut_off_or_lacks_a_character() {
    assert!(wxgate::config::parse(Path::new("gateway.toml"), LITERALS, &|_| None).is_ok());
    for (index, character) in LITERALS.char_indices() {
        let (before, after) = LITERALS.split_at(index);
        let without = after.strip_prefix(character).unwrap();
        for text in [before.to_owned(), format!("{before}{without}")] {
            let told = everything_told(&text);
            assert!(!told.contains("SENTINEL"), "{text}\n---\n{told}");
        }
    }
}

#[test]
fn a_secret_is_shown_by_no_file_in_which_it_has_another_type() {
    for (whole, part) in [
        ("\"SENTINEL-app-secret\"", "[\"SENTINEL-app-secret\"]"),
        ("\"SENTINEL-app-secret\"", "{ env = \"SENTINEL-app-secret\" }"),
        ("\"SENTINEL-app-secret\"", "{ file = \"SENTINEL-app-secret\" }"),
        ("\"SENTINEL-app-secret\"", "{ file = [\"SENTINEL-app-secret\"] }"),
        ("\"SENTINEL-app-secret\"", "{ evn = \"SENTINEL-app-secret\" }"),
        ("\"SENTINEL-app-secret\"", "\"\"\"\nSENTINEL-app-secret"),
        ("secret = \"SENTINEL-app-secret\"", "secert = \"SENTINEL-app-secret\""),
        ("appid = \"wx0123456789abcdef\"", "appid = \"SENTINEL app secret\""),
        ("kind = \"miniprogram\"", "kind = \"SENTINEL-app-secret\""),
        ("[[apps]]", "[apps]"),
        ("[[apps]]", "[[server]]"),
        ("[session]", "[session.token_from]"),
        ("[admin]", "[log]"),
        ("[{ id = \"a\", secret = \"SENTINEL-key-0123456789-0123456789\" }]", "\"SENTINEL-key\""),
        ("[{ id = \"a\", secret = \"SENTINEL-key-0123456789-0123456789\" }]", "[\"SENTINEL-key\"]"),
        ("\"SENTINEL-key-0123456789-0123456789\"", "\"SENTINEL-short\""),
        ("id = \"a\"", "id = \"SENTINEL, not an id\""),
    ] {
        let text = LITERALS.replacen(whole, part, 1);
        assert_ne!(text, LITERALS);
        let told = everything_told(&text);
        assert!(told.contains("problems:"), "{text}");
        assert!(!told.contains("SENTINEL"), "{text}\n---\n{told}");
    }
}
