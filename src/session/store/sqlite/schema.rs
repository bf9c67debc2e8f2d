//! The file's layout, and how an older one becomes today's.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB, TransactionBehavior};

use super::super::StoreError;

/// The step from each version to the next; `user_version` counts the steps that were taken.
/// Steps are only ever added.
const STEPS: [&str; 1] = ["
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        sid TEXT NOT NULL UNIQUE,
        openid TEXT NOT NULL,
        appid TEXT NOT NULL,
        unionid TEXT,
        session_key BLOB NOT NULL,
        scope TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        ends_at INTEGER NOT NULL,
        last_token_expires_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_user ON sessions (openid, sid);
    CREATE INDEX sessions_by_app ON sessions (appid, sid);
    CREATE INDEX sessions_by_end ON sessions (ends_at);
    CREATE TABLE jars (
        sid TEXT NOT NULL REFERENCES sessions (sid) ON DELETE CASCADE,
        upstream TEXT NOT NULL,
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (sid, upstream)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE revoked (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        sid TEXT NOT NULL,
        until INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX revoked_by_end ON revoked (until);
"];

const KNOWN: u32 = STEPS.len() as u32;

/// How long a call waits for another process that shares the file, as while a new binary takes
/// over.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes to the file what it holds already.
///
/// # Errors
/// As any write: on a full disk and the like.
pub(super) fn rewrite_version(connection: &Connection) -> Result<(), StoreError> {
    Ok(connection.pragma_update(None, "user_version", KNOWN)?)
}

/// Opens the file, or makes it with mode 0600, and brings it to today's layout.
///
/// # Errors
/// [`StoreError::Open`] for what is no store, cannot be written or is locked;
/// [`StoreError::Newer`] for one of a newer program, which is left alone.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |reason: String| StoreError::Open { path: path.to_owned(), reason };
    // It holds openids: SQLite itself would leave it open to whoever may read the folder.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    let prepare = || -> Result<Result<Connection, u32>, rusqlite::Error> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // FULL: an answer is on disk when it is given, whatever happens to the machine.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;
             PRAGMA journal_size_limit = 67108864;",
        )?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(migrate(&mut connection)?.map_or(Ok(connection), Err))
    };
    let connection = prepare().map_err(|error| failed(error.to_string()))?;
    let newer = |found| StoreError::Newer { path: path.to_owned(), found, known: KNOWN };
    let connection = connection.map_err(newer)?;
    match connection.is_readonly(MAIN_DB) {
        Ok(false) => Ok(connection),
        Ok(true) => Err(failed("it is read-only".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Takes the steps that are missing, all or none. `Some`: the version of a newer program.
fn migrate(connection: &mut Connection) -> Result<Option<u32>, rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let taken = usize::try_from(found).unwrap_or(usize::MAX);
    let Some(missing) = STEPS.get(taken..) else { return Ok(Some(found)) };
    for step in missing {
        transaction.execute_batch(step)?;
    }
    // Written even where nothing changes, so that a file that cannot be is found out now.
    transaction.pragma_update(None, "user_version", KNOWN)?;
    transaction.commit()?;
    Ok(None)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_its_owners_alone_and_opens_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wxgate.db");
        drop(open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = open(&path).unwrap();
        let count: u32 =
            again.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
    }

    #[test]
    fn a_file_of_a_newer_program_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wxgate.db");
        open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error, StoreError::Newer { path: path.clone(), found: 7, known: 1 });
        assert!(error.to_string().ends_with("has version 7; this wxgate knows versions up to 1"));
    }

    #[test]
    fn what_is_no_store_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(&text, "not a database, but long enough to be taken for one".repeat(100))
            .unwrap();
        for (path, reason) in [
            (text, "not a database"),
            (folder.path().to_owned(), "directory"),
            ("/no/such/folder/x.db".into(), "No such file"),
        ] {
            let error = open(&path).unwrap_err();
            let StoreError::Open { path: named, reason: given } = &error else {
                unreachable!("{error}")
            };
            assert_eq!(*named, path);
            assert!(given.contains(reason), "{given}");
        }
    }
}
