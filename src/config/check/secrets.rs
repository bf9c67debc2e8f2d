//! Reads secrets from where the file says they are. No message holds any of their text.

use zeroize::Zeroizing;

use super::super::problem::Key;
use super::super::source::SecretSource;
use super::{Checker, RELATIVE};

/// A secret file larger than this is not one.
const LARGEST: u64 = 64 * 1024;

impl Checker<'_> {
    /// The secret that `source` names; `whose` ends the messages, e.g. "app `wx…`".
    pub(super) fn secret(
        &mut self,
        key: &Key,
        source: &SecretSource,
        whose: &str,
    ) -> Option<Zeroizing<String>> {
        let text = match source {
            SecretSource::Env { env } => self.read_variable(key, env, whose)?,
            SecretSource::File { file } => self.read_secret_file(key, file, whose)?,
            SecretSource::Literal(text) => {
                let what = format!("the secret of {whose} stands in the configuration itself");
                self.warn(key, what, "write { env = \"NAME\" } or { file = \"PATH\" } instead");
                text.clone()
            }
            SecretSource::Neither => {
                let what =
                    format!("the secret of {whose} must name exactly one of `env` and `file`");
                self.wrong(key, what, "write { env = \"NAME\" } or { file = \"PATH\" }");
                return None;
            }
        };
        let secret = Zeroizing::new(text.trim().to_owned());
        if secret.is_empty() {
            let what = format!("the secret of {whose} is empty");
            self.wrong(key, what, "an empty value protects nothing");
            return None;
        }
        Some(secret)
    }

    fn read_variable(&mut self, key: &Key, name: &str, whose: &str) -> Option<Zeroizing<String>> {
        let shaped = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let text = (self.env)(name).map(Zeroizing::new);
        if text.is_none() && !name.is_empty() && name.bytes().all(shaped) {
            let what = format!(
                "the environment variable `{name}` is not set; it holds the secret of {whose}"
            );
            self.wrong(&key.name("env"), what, format!("export {name}=… before wxgate starts"));
        } else if text.is_none() {
            // Not shaped like a variable's name: perhaps the secret itself, so it is not printed.
            let what = format!(
                "names no environment variable that is set; it holds the secret of {whose}"
            );
            let hint = "write the name of a variable, such as \"WX_SECRET\", not its value";
            self.wrong(&key.name("env"), what, hint);
        }
        text
    }

    fn read_secret_file(
        &mut self,
        key: &Key,
        file: &std::path::Path,
        whose: &str,
    ) -> Option<Zeroizing<String>> {
        let key = key.name("file");
        let path = self.folder.join(file);
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        let text = match size {
            Ok(size) if size > LARGEST => {
                let what = format!("the file with the secret of {whose} is larger than 64 KiB");
                self.wrong(&key, what, "name the file that holds the secret and nothing else");
                return None;
            }
            Ok(_) => std::fs::read_to_string(&path),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => {
                self.files.push(path);
                Some(Zeroizing::new(text))
            }
            Err(error) => {
                // The path is not printed: it may be the secret itself, written at the wrong place.
                let what = format!("the file with the secret of {whose} cannot be read: {error}");
                self.wrong(&key, what, RELATIVE);
                None
            }
        }
    }
}
