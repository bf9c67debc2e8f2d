//! The signing key that is made on the first start and kept beside the store, so that sessions
//! outlive a restart though nobody configured a key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::keys::{Algorithm, KeyError, KeySet, keygen};
use crate::config;
use crate::secret::Secret;

/// Reads `STORE.key`, or makes it with mode 0600 if it is not there.
///
/// # Errors
/// [`KeyError::File`] if it can be neither read nor made; what [`KeySet::only`] says of a key
/// that cannot be used.
pub(super) fn beside(store: &Path) -> Result<KeySet, KeyError> {
    let mut path = store.as_os_str().to_owned();
    path.push(".key");
    let path = PathBuf::from(path);
    let failed =
        |error: io::Error| KeyError::File { path: path.clone(), reason: error.to_string() };
    let secret = match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(&path, &keygen(Algorithm::Hs256)?).map_err(failed)?;
            // Another process may have been first: what stands in the file counts.
            read(&path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    KeySet::only(&id_of(&secret), &secret)
}

/// The key that [`beside`] would take, if there is one that can be read; none is made.
pub(super) fn kept(store: &Path) -> Option<config::SigningKey> {
    let mut path = store.as_os_str().to_owned();
    path.push(".key");
    let secret = read(Path::new(&path)).ok()?;
    Some(config::SigningKey { id: id_of(&secret), secret })
}

fn read(path: &Path) -> io::Result<Secret<String>> {
    let text = Secret::new(fs::read_to_string(path)?);
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        log::warn!(
            "`{}` holds the signing key and is open to others: chmod 600 it",
            path.display()
        );
    }
    Ok(text)
}

/// Whole or not at all: written aside, made durable, then linked into place, which fails where
/// a file stands already.
fn make(path: &Path, key: &Secret<String>) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = write(&aside, key).and_then(|()| match fs::hard_link(&aside, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    fs::remove_file(&aside)?;
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn write(path: &Path, key: &Secret<String>) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(key.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// The same at every start, and no help in finding the key.
fn id_of(secret: &Secret<String>) -> String {
    let hash = Sha256::digest(secret.expose().trim().as_bytes());
    URL_SAFE_NO_PAD.encode(hash.get(..6).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("wxgate.db");
        let first = beside(&store).unwrap();
        let path = folder.path().join("wxgate.db.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = beside(&store).unwrap();
        assert_eq!(first.signer().header(), again.signer().header());
        assert_eq!(first.signer().sign("a.b"), again.signer().sign("a.b"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let elsewhere = beside(&folder.path().join("other.db")).unwrap();
        assert_ne!(first.signer().id(), elsewhere.signer().id());
    }

    #[test]
    fn a_key_file_of_the_operator_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("wxgate.db");
        let pem = keygen(Algorithm::EdDsa).unwrap();
        fs::write(folder.path().join("wxgate.db.key"), pem.expose()).unwrap();
        assert_eq!(beside(&store).unwrap().signer().algorithm(), Algorithm::EdDsa);
    }

    #[test]
    fn a_key_file_that_cannot_be_used_says_which_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("no/such/wxgate.db");
        let error = beside(&absent).unwrap_err();
        assert!(matches!(&error, KeyError::File { path, .. } if path.ends_with("wxgate.db.key")));
        let store = folder.path().join("wxgate.db");
        fs::write(folder.path().join("wxgate.db.key"), "short\n").unwrap();
        assert!(matches!(beside(&store), Err(KeyError::Short { bytes: 5, .. })));
    }
}
