//! Reads gateway.toml: text → shape as written → valid configuration, or every problem at once.

use std::path::{Path, PathBuf};

use super::check::{self, Checker};
use super::problem::{Key, Problem, Problems, place_of};
use super::{Config, document};

/// A valid configuration and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed and yet not wise.
    pub warnings: Problems,
    /// The files that were read, gateway.toml first.
    pub files: Vec<PathBuf>,
}

/// Reads and checks the file at `path`, with the environment of this process.
///
/// # Errors
/// Every problem of it, in the order of the file.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let bytes = std::fs::read(path).map_err(|error| {
        let mut problem = Problem::new(Key::default(), format!("cannot be read: {error}"));
        problem.hint("name the configuration with `-c FILE`; `wxgate demo` needs none");
        Problems::new(path, vec![problem])
    })?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let good = str::from_utf8(good).unwrap_or_default();
        let mut problem = Problem::new(Key::default(), "is not UTF-8, which TOML is written in");
        problem.hint("save the file as UTF-8; an editor may have written GBK");
        problem.place = Some(place_of(good, good.len()));
        Problems::new(path, vec![problem])
    })?;
    parse(path, text, &|name| std::env::var(name).ok())
}

/// Checks `text` as if it stood at `path`; `env` is asked for environment variables.
///
/// # Errors
/// Every problem of it, in the order of the file.
pub fn parse(
    path: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Problems> {
    let placed = |mut problems: Vec<Problem>, span_of: &dyn Fn(&Key) -> usize| {
        for problem in &mut problems {
            let start = problem.span.as_ref().map_or_else(|| span_of(&problem.key), |s| s.start);
            problem.place = Some(place_of(text, start));
        }
        Problems::new(path, problems)
    };
    let document = document::parse(text).map_err(|problems| placed(problems, &|_| 0))?;
    let (file, mut problems) = document.read();
    let broken: Vec<Key> = problems.iter().map(|problem| problem.key.clone()).collect();

    let folder = path.parent().unwrap_or(Path::new(""));
    let mut checker = Checker::new(folder, env);
    let config = file.and_then(|file| check::check(file, &mut checker));

    // What could not be read is not also missing, nor is the table around it incomplete.
    let known = |key: &Key| broken.iter().any(|part| key.is_within(part) || part.is_within(key));
    checker.problems.retain(|problem| !known(&problem.key));
    problems.append(&mut checker.problems);
    let span_of = |key: &Key| document.span(key).start;
    let warnings = placed(checker.warnings, &span_of);
    match config {
        Some(config) if problems.is_empty() => {
            let mut files = vec![path.to_owned()];
            files.append(&mut checker.files);
            Ok(Loaded { config, warnings, files })
        }
        Some(_) | None => Err(placed(problems, &span_of)),
    }
}
