//! Where a secret comes from: the environment, a file, or (with a warning) gateway.toml itself.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::value::{FromText, text_or_table};

// No `Debug`: it may hold the secret itself.
/// `{ env = "NAME" }`, `{ file = "PATH" }` or, with a warning, the secret itself.
#[derive(JsonSchema)]
#[schemars(inline, untagged, extend("format" = "secret"))]
pub(super) enum SecretSource {
    /// `{ env = "NAME" }`: an environment variable.
    Env {
        /// The variable's name.
        env: String,
    },
    /// `{ file = "PATH" }`: the text of a file, without white space around it.
    File {
        /// Path of the file, relative to the folder of gateway.toml.
        file: PathBuf,
    },
    /// The secret itself. Whoever reads gateway.toml reads it: a warning.
    Literal(#[schemars(with = "String")] Zeroizing<String>),
    /// A table without exactly one of `env` and `file`.
    #[schemars(skip)]
    Neither,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl From<Table> for SecretSource {
    fn from(table: Table) -> Self {
        match (table.env, table.file) {
            (Some(env), None) => Self::Env { env },
            (None, Some(file)) => Self::File { file },
            (Some(_), Some(_)) | (None, None) => Self::Neither,
        }
    }
}

impl FromText for SecretSource {
    const EXPECTED: &'static str = "{ env = \"NAME\" } or { file = \"PATH\" }";

    fn from_text(text: &str) -> Self {
        Self::Literal(Zeroizing::new(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_table::<D, Self, Table>(deserializer)
    }
}
