//! What is wrong in gateway.toml, where it stands, and how to mend it.
//!
//! Source lines are never kept or printed: a secret may stand in them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where in the file something stands, as a person writes it: `routes[0].upstream`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Key(Vec<Part>);

/// One step of a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A key of a table.
    Name(String),
    /// An element of a list, from 0.
    Index(usize),
}

impl Key {
    /// A section of the file.
    pub(super) fn of(section: &str) -> Self {
        Self::default().name(section)
    }

    /// The key `name` of the table that this key names.
    pub(super) fn name(&self, name: &str) -> Self {
        self.then(Part::Name(name.to_owned()))
    }

    /// The element `index` of the list that this key names.
    pub(super) fn item(&self, index: usize) -> Self {
        self.then(Part::Index(index))
    }

    /// The steps from the top of the file.
    pub(super) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Whether this key is `outer` or stands within it.
    pub(super) fn is_within(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }

    fn then(&self, part: Part) -> Self {
        let mut parts = self.0.clone();
        parts.push(part);
        Self(parts)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, part) in self.0.iter().enumerate() {
            match part {
                Part::Index(index) => write!(formatter, "[{index}]")?,
                Part::Name(name) => {
                    let dot = if depth == 0 { "" } else { "." };
                    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                    if !name.is_empty() && name.bytes().all(bare) {
                        write!(formatter, "{dot}{name}")?;
                    } else {
                        // A quoted TOML key may hold anything, line ends too.
                        write!(formatter, "{dot}\"{}\"", name.escape_debug())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Nothing is started with it.
    Wrong,
    /// It works, and is not wise.
    Unwise,
}

/// One thing that is wrong, or that deserves a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) key: Key,
    pub(super) what: String,
    pub(super) hint: Option<String>,
    /// Bytes of the file, where they are known better than by the key.
    pub(super) span: Option<Range<usize>>,
    pub(super) severity: Severity,
    /// Line and column from 1; none if the file could not be read at all.
    pub(super) place: Option<(usize, usize)>,
}

impl Problem {
    pub(super) fn new(key: Key, what: impl Into<String>) -> Self {
        Self {
            key,
            what: what.into(),
            hint: None,
            span: None,
            severity: Severity::Wrong,
            place: None,
        }
    }

    /// Says how to mend it.
    pub(super) fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// Everything that is wrong with a configuration, in the order of the file.
///
/// `Display` prints for each `FILE:LINE:COL: key: what is wrong`, and below it the mend; every
/// line ends in a line feed. `Debug` prints the same facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    path: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    /// Problems of the file at `path`, sorted by their place.
    pub(super) fn new(path: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        Self { path: path.to_owned(), problems }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            write!(formatter, "{}:", self.path.display())?;
            if let Some((line, column)) = problem.place {
                write!(formatter, "{line}:{column}:")?;
            }
            if problem.severity == Severity::Unwise {
                formatter.write_str(" warning:")?;
            }
            if problem.key != Key::default() {
                write!(formatter, " {}:", problem.key)?;
            }
            writeln!(formatter, " {}", problem.what)?;
            if let Some(hint) = &problem.hint {
                writeln!(formatter, "   hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Line and column, from 1, of the byte at `offset`; columns are counted in characters.
pub(super) fn place_of(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// `text` between backticks if it is short and dull, else only a name for it: what was written
/// at the wrong place may be a secret.
pub(super) fn quote(text: &str) -> String {
    let dull = |character: char| !character.is_control() && character != '`';
    if text.is_empty() {
        "an empty string".to_owned()
    } else if text.chars().count() <= 64 && text.chars().all(dull) {
        format!("`{text}`")
    } else {
        "this value".to_owned()
    }
}

/// The known name that looks most like `unknown`, if one looks like it at all.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance * 3 < name.len().max(unknown.len()))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_in_the_file() {
        let key = Key::of("routes").item(2).name("allow").name("openids_file");
        assert_eq!(key.to_string(), "routes[2].allow.openids_file");
        assert!(key.is_within(&Key::of("routes").item(2)) && !key.is_within(&Key::of("apps")));
    }

    #[test]
    fn a_key_with_a_line_end_cannot_forge_a_line_of_output() {
        let key = Key::of("server").name("a\n\u{1b}[2J");
        assert_eq!(key.to_string(), "server.\"a\\n\\u{1b}[2J\"");
        assert_eq!(quote("a\nb"), "this value");
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let text = "a = 1\r\n中文 = 2\n";
        assert_eq!(place_of(text, 0), (1, 1));
        assert_eq!(place_of(text, text.find('=').unwrap_or_default()), (1, 3));
        assert_eq!(place_of(text, text.rfind('2').unwrap_or_default()), (2, 6));
        assert_eq!(place_of(text, text.len()), (3, 1));
    }

    #[test]
    fn only_a_name_that_looks_alike_is_proposed() {
        let known = ["listen", "threads", "idle_timeout"];
        assert_eq!(nearest("listne", known.into_iter()), Some("listen"));
        assert_eq!(nearest("fast_lane", known.into_iter()), None);
    }
}
