//! Sessions for a command that only looks at a configuration: nothing is opened, made or asked.

use super::key_file;
use crate::config::{Session, Store};

/// Whether the tokens of the running gateway can be told from others without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Its signing keys can be read.
    Known,
    /// It makes its key when it starts, or the key cannot be read.
    Unknown,
}

/// The same settings with a store in memory, and with the key that is kept beside a file store if
/// none is configured.
pub fn offline(session: &Session) -> (Session, Keys) {
    let mut offline = session.clone();
    if let (Store::Sqlite(path), true) = (&session.store, session.signing_keys.is_empty()) {
        offline.signing_keys.extend(key_file::kept(path));
    }
    offline.store = Store::Memory;
    let keys = if offline.signing_keys.is_empty() { Keys::Unknown } else { Keys::Known };
    (offline, keys)
}
