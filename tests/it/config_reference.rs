//! docs/configuration.md is made from the schema, which is made from the code.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

/// Set, the test writes the file in place of comparing it.
const REGENERATE: &str = "WXGATE_REGENERATE_DOCS";

#[test]
fn the_reference_in_docs_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let made = reference(&wxgate::config::schema());
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "run {REGENERATE}=1 cargo test --test it reference");
}

const OPENING: &str = "\
# Configuration reference

wxgate reads one file in [TOML](https://toml.io): `wxgate run -c gateway.toml`. `wxgate check -c gateway.toml` \
tells every problem with its place and mend; `wxgate schema` prints the JSON Schema, from which this page is \
made. [gateway.toml](../gateway.toml) is a commented sample.

| written | means |
| --- | --- |
| duration | `\"500ms\"`, `\"10s\"`, `\"2h\"`, `\"30d\"`, also `\"1h30m\"`; a number without a unit is an error |
| size | `\"512B\"`, `\"16KiB\"`, `\"100MiB\"`, `\"2GiB\"`; `KB`, `MB` and `GB` count in thousands; `0` where it means unlimited |
| rate | `\"20/s\"`, `\"30/m\"`, `\"100/h\"`, `\"1000/d\"` |
| secret | `{ env = \"NAME\" }`, `{ file = \"PATH\" }`, or the secret itself, which earns a warning; white space around it is left out |

Relative paths start at the folder of the configuration. Unknown keys, names given twice, references to \
nothing, routes that no request reaches and missing files are errors.
";

fn reference(schema: &Value) -> String {
    let mut page = OPENING.to_owned();
    for (name, section) in schema["properties"].as_object().unwrap() {
        let (title, table) = match section.get("items") {
            Some(items) => (format!("[[{name}]]"), items),
            None => (format!("[{name}]"), section),
        };
        write!(page, "\n## `{title}`\n\n{}\n\n", line(&section["description"])).unwrap();
        page.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        rows(table, "", &mut page);
    }
    page
}

/// One row for each key of `table`, those of tables within it below their own.
fn rows(table: &Value, within: &str, page: &mut String) {
    for (name, property) in table["properties"].as_object().unwrap() {
        let key = format!("{within}{name}");
        let required = table["required"]
            .as_array()
            .is_some_and(|keys| keys.contains(&Value::from(name.as_str())));
        let default = match property.get("default") {
            Some(default) => format!("`{}`", toml(default)),
            None if required => "required".to_owned(),
            None => String::new(),
        };
        let (kind, mut meaning) = (kind(property), line(&property["description"]));
        for choice in property["oneOf"].as_array().into_iter().flatten() {
            let name = choice["const"].as_str().unwrap();
            write!(meaning, " `{name}`: {}", line(&choice["description"])).unwrap();
        }
        writeln!(page, "| `{key}` | {kind} | {default} | {meaning} |").unwrap();
        let inner = property.get("items").unwrap_or(property);
        let tables = inner.get("anyOf").and_then(Value::as_array).into_iter().flatten();
        for table in tables.chain([inner]).filter(|table| table.get("properties").is_some()) {
            if inner.get("format").is_none_or(|format| format != "secret") {
                let list = if property.get("items").is_some() { "[]" } else { "" };
                rows(table, &format!("{key}{list}."), page);
            }
        }
    }
}

/// What may be written there.
fn kind(property: &Value) -> String {
    if let Some(format) = property["format"].as_str()
        && ["duration", "size", "rate", "secret"].contains(&format)
    {
        return format.to_owned();
    }
    if let Some(choices) = property["oneOf"].as_array() {
        let choices: Vec<String> =
            choices.iter().map(|choice| format!("`{}`", toml(&choice["const"]))).collect();
        return choices.join(" or ");
    }
    if let Some(choices) = property["anyOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match property["type"].as_str() {
        Some("array") => {
            format!(
                "list of {}",
                kind(&property["items"]).replace("string", "strings").replace("table", "tables")
            )
        }
        Some("object") => "table".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some(other) => other.to_owned(),
        None => panic!("no type: {property}"),
    }
}

/// A default as it is written in TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let pairs: Vec<String> =
                table.iter().map(|(name, value)| format!("{name} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// A description in one line of a table.
fn line(description: &Value) -> String {
    description.as_str().expect("every key has a comment").replace('\n', " ").replace('|', "\\|")
}
