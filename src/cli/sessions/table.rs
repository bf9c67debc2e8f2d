//! Sessions as a person reads them.

use serde_json::Value;

/// What is shown of a session, and the field of the admin API that it stands in.
const COLUMNS: [(&str, &str); 6] = [
    ("SESSION", "sid"),
    ("OPENID", "openid"),
    ("APP", "appid"),
    ("SCOPE", "scope"),
    ("SINCE (UTC)", "created_at"),
    ("UNTIL (UTC)", "expires_at"),
];

/// A line for each session below a line of headings, each column as wide as its longest value.
pub(super) fn rows(sessions: &[Value]) -> String {
    let headings = COLUMNS.map(|(heading, _)| heading.to_owned());
    let cells = |session: &Value| COLUMNS.map(|(_, field)| text(session, field));
    let lines: Vec<_> = std::iter::once(headings).chain(sessions.iter().map(cells)).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |cells: &[String; COLUMNS.len()]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A line for each thing that is known of a session.
pub(super) fn one(session: &Value) -> String {
    let lines = [
        ("session", "sid"),
        ("openid", "openid"),
        ("unionid", "unionid"),
        ("app", "appid"),
        ("scope", "scope"),
        ("since", "created_at"),
        ("until", "expires_at"),
    ]
    .map(|(name, field)| {
        let utc = if field.ends_with("_at") { " UTC" } else { "" };
        format!("{name:9}{}{utc}", text(session, field))
    });
    lines.join("\n")
}

/// JSON as a person reads it too.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}")
}

/// A field; `-` where there is none. Times without the `T` and `Z` that nobody speaks.
fn text(session: &Value, field: &str) -> String {
    let value = session.get(field).and_then(Value::as_str).filter(|value| !value.is_empty());
    // What a listener sends is not trusted to leave the terminal alone.
    let value = value.filter(|value| value.chars().all(|letter| !letter.is_control()));
    let value = value.unwrap_or("-");
    if field.ends_with("_at") {
        value.trim_end_matches('Z').replacen('T', " ", 1)
    } else {
        value.to_owned()
    }
}
