//! The text of gateway.toml → its shape as written, with every mistake of shape found at once.
//!
//! serde stops at the first mistake. Here each one is noted, the key at fault is taken out of the
//! parsed document, and the rest is tried again.

use std::collections::HashSet;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::File;
use super::problem::{Key, Part, Problem, nearest, quote};
use super::value::HINT;

/// More mistakes than this are not told in one run.
const MOST: usize = 100;

/// A parsed document, in which places are found by key.
pub(super) struct Document<'a>(Spanned<DeTable<'a>>);

/// Reads the document.
///
/// # Errors
/// What is no TOML, the first mistake of each line.
pub(super) fn parse(text: &str) -> Result<Document<'_>, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Document(table));
    }
    let mut lines = HashSet::new();
    let mut problems = Vec::new();
    for error in errors {
        // Neither Display nor Debug of the error: both hold source text, secrets too.
        let mut problem = Problem::new(Key::default(), format!("not TOML: {}", error.message()));
        let span = error.span().unwrap_or_default();
        let line = text.get(..span.start).unwrap_or_default().matches('\n').count();
        problem.span = Some(span);
        if lines.insert(line) {
            problems.push(problem);
        }
    }
    Err(problems)
}

impl Document<'_> {
    /// The file's shape, and what of it had to be left out; no shape if that was too much.
    pub(super) fn read(&self) -> (Option<File>, Vec<Problem>) {
        let mut rest = self.0.clone();
        let mut problems = Vec::new();
        while problems.len() < MOST {
            let error = match File::deserialize(toml::Deserializer::from(rest.clone())) {
                Ok(file) => return (Some(file), problems),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let key = key_at(rest.get_ref(), &span).unwrap_or_default();
            problems.push(told(error.message(), key.clone(), span));
            if !remove(rest.get_mut(), key.parts()) {
                break;
            }
        }
        (None, problems)
    }

    /// Bytes of the value of `key`, or of the innermost table around it that is there.
    pub(super) fn span(&self, key: &Key) -> Range<usize> {
        let mut span = 0..0;
        let mut table = Some(self.0.get_ref());
        let mut list = None;
        for part in key.parts() {
            let value = match part {
                Part::Name(name) => table.and_then(|table| table.get(name.as_str())),
                Part::Index(index) => {
                    list.and_then(|list: &toml::de::DeArray<'_>| list.get(*index))
                }
            };
            let Some(value) = value else { return span };
            span = value.span();
            table = value.get_ref().as_table();
            list = value.get_ref().as_array();
        }
        span
    }
}

/// The key whose name or value covers exactly the bytes `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<Key> {
    fn within(value: &Spanned<DeValue<'_>>, key: Key, span: &Range<usize>) -> Option<Key> {
        if value.span() == *span {
            return Some(key);
        }
        if let Some(table) = value.get_ref().as_table() {
            return table.iter().find_map(|(name, value)| {
                let key = key.name(name.get_ref());
                if name.span() == *span { Some(key) } else { within(value, key, span) }
            });
        }
        let list = value.get_ref().as_array()?;
        list.iter().enumerate().find_map(|(index, value)| within(value, key.item(index), span))
    }

    table.iter().find_map(|(name, value)| {
        let key = Key::of(name.get_ref());
        if name.span() == *span { Some(key) } else { within(value, key, span) }
    })
}

/// Takes the innermost table key of `parts` out. An element of a list stays, and its whole list
/// goes, so that the other elements keep their numbers.
fn remove(table: &mut DeTable<'_>, parts: &[Part]) -> bool {
    let Some((Part::Name(name), rest)) = parts.split_first() else { return false };
    if let Some(value) = table.get_mut(name.as_str())
        && remove_within(value.get_mut(), rest)
    {
        return true;
    }
    table.remove(name.as_str()).is_some()
}

fn remove_within(value: &mut DeValue<'_>, parts: &[Part]) -> bool {
    match (value, parts.split_first()) {
        (DeValue::Table(table), Some((Part::Name(_), _))) => remove(table, parts),
        (DeValue::Array(list), Some((Part::Index(index), rest))) => {
            list.get_mut(*index).is_some_and(|value| remove_within(value.get_mut(), rest))
        }
        _ => false,
    }
}

/// What a serde error says, without the text that it quotes from the file.
fn told(message: &str, key: Key, span: Range<usize>) -> Problem {
    let (what, hint) = if let Some(rest) = message.strip_prefix("unknown field ") {
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let (unknown, known) = known.split_first().unwrap_or((&"", &[]));
        ("is not a key that wxgate knows".to_owned(), Some(choice(unknown, known)))
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let (unknown, known) = known.split_first().unwrap_or((&"", &[]));
        // A line below the secret of an app: text of one may have slipped into the other.
        let text =
            if key.is_within(&Key::of("apps")) { "this value".into() } else { quote(unknown) };
        (format!("{text} is not known here"), Some(choice(unknown, known)))
    } else if let Some((kind, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let (wanted, found) = (wanted(expected), found(kind));
        (format!("must be {wanted}, not {found}"), respelled(wanted, found).map(str::to_owned))
    } else {
        match message.split_once(HINT) {
            Some((what, hint)) => (what.to_owned(), Some(hint.to_owned())),
            None => (message.to_owned(), None),
        }
    };
    let mut problem = Problem::new(key, what);
    problem.hint = hint;
    problem.span = Some(span);
    problem
}

/// Names the nearest of what is known, or all of it.
fn choice(unknown: &str, known: &[&str]) -> String {
    match nearest(unknown, known.iter().copied()) {
        Some(name) => format!("is `{name}` meant?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// How to write what is there as what is wanted, where that is a matter of spelling.
fn respelled(wanted: &str, found: &str) -> Option<&'static str> {
    match (wanted, found) {
        ("a list", A_STRING) => Some("put it in brackets: [\"…\"]"),
        ("a string", A_NUMBER) => Some("put it in quotes"),
        (A_WHOLE_NUMBER | "true or false", A_STRING) => Some("write it without quotes"),
        _ => None,
    }
}

const A_WHOLE_NUMBER: &str = "a whole number from 0 up";
const A_STRING: &str = "a string";
const A_NUMBER: &str = "this number";

/// serde's names of Rust types in an operator's words.
fn wanted(expected: &str) -> &str {
    match expected {
        "usize" | "u32" => A_WHOLE_NUMBER,
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "path string" => A_STRING,
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
}

/// What kind of value stands there; the value itself may be a secret.
fn found(kind: &str) -> &'static str {
    match kind.split([' ', '`']).next() {
        Some("string") => A_STRING,
        Some("integer") => A_NUMBER,
        Some("floating") => "a fraction",
        Some("boolean") => "true or false",
        Some("sequence") => "a list",
        Some("map") => "a table",
        _ => "this",
    }
}
