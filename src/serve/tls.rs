//! The certificates that clients are shown, by the name they ask for: taken from their files, and
//! taken again when those change, without a connection being dropped.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::{MissedTickBehavior, interval};

use super::ServeError;
use crate::config::{
    Certificate, CertificateFile, CertificateFiles, ClientAuth, ClientCertificates, ServerTls,
    load_certificate, load_chain,
};
use crate::observe::Metrics;

/// How often the files are looked at. A change is taken on the second look that sees the same, so
/// within a second and a half.
const POLL: Duration = Duration::from_millis(500);

/// What is left of a certificate's life when the operator is told.
const NEAR_END: i64 = 7 * 24 * 3600;

/// The certificates in force. They live as long as the process; handshakes read them, the watcher
/// and reloads replace them.
pub(crate) struct Shown {
    table: ArcSwap<Table>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        table.find(hello.server_name()).map(|entry| Arc::clone(&entry.certificate.pair))
    }
}

/// A certificate, and where it was read.
#[derive(Clone)]
pub(crate) struct Entry {
    files: CertificateFiles,
    certificate: Arc<Certificate>,
}

/// Which certificate is for which name.
#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

impl Table {
    /// Where several are for one name, the first is shown.
    fn of(entries: Vec<Entry>) -> Self {
        let mut by_name = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for name in &entry.certificate.names {
                by_name.entry(name.clone()).or_insert(index);
            }
        }
        Self { entries, by_name }
    }

    /// The one for exactly this name, else for all beside it (`*.`), else the first.
    fn find(&self, name: Option<&str>) -> Option<&Entry> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let beside = || {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            };
            self.by_name.get(&name).or_else(beside)
        });
        named.and_then(|index| self.entries.get(*index)).or_else(|| self.entries.first())
    }

    /// The same with another certificate of these files.
    fn with(&self, new: &Entry) -> Self {
        let replaced = |old: &Entry| if old.files == new.files { new } else { old }.clone();
        Self::of(self.entries.iter().map(replaced).collect())
    }
}

impl Shown {
    /// Reads every pair for the first time.
    pub(crate) fn load(tls: &ServerTls, metrics: &Arc<Metrics>) -> Result<Arc<Self>, ServeError> {
        let shown =
            Self { table: ArcSwap::from_pointee(Table::default()), metrics: Arc::clone(metrics) };
        shown.show(read_all(tls).map_err(ServeError::Build)?);
        Ok(Arc::new(shown))
    }

    /// From now on these are shown.
    pub(crate) fn show(&self, entries: Vec<Entry>) {
        // Those that are no longer configured have no row any more.
        self.metrics.tls_certificate_expiry.reset();
        for entry in &entries {
            self.tell(entry);
        }
        self.table.store(Arc::new(Table::of(entries)));
    }

    /// Looks at the files until the process ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first look reads again, since the files may have changed while they were read.
        let mut looks = Vec::new();
        loop {
            ticks.tick().await;
            let shown = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || shown.look(&looks)).await {
                Ok(next) => looks = next,
                Err(error) => {
                    log::error!("the certificates were not looked at: {error}");
                    looks = Vec::new();
                }
            }
        }
    }

    fn look(&self, looks: &[Look]) -> Vec<Look> {
        let table = self.table.load_full();
        let look = |entry: &Entry| {
            let before = looks.iter().find(|look| look.files == entry.files);
            let (look, is_new) = Look::at(&entry.files, before);
            if is_new {
                self.look_into(entry);
            }
            look
        };
        table.entries.iter().map(look).collect()
    }

    fn look_into(&self, entry: &Entry) {
        match read(&entry.files) {
            Ok(new) if new.certificate.pair.cert == entry.certificate.pair.cert => {}
            Ok(new) => {
                self.table.rcu(|table| table.with(&new));
                self.tell(&new);
                log::info!("{}: a new certificate is shown", new.files.cert.display());
            }
            Err(error) => log::error!("{error}; the certificate in force stays"),
        }
    }

    fn tell(&self, entry: &Entry) {
        let path = entry.files.cert.display().to_string();
        let expires_at = entry.certificate.expires_at;
        self.metrics.tls_certificate_expiry.with_label_values(&[&path]).set(expires_at);
        let now = i64::try_from(crate::clock::system_unix_millis() / 1000).unwrap_or(i64::MAX);
        if expires_at <= now {
            log::warn!("{path}: the certificate has expired; clients refuse it");
        } else if expires_at - now < NEAR_END {
            log::warn!("{path}: the certificate expires within a week");
        }
    }
}

/// What a look at the files of a pair remembers.
struct Look {
    files: CertificateFiles,
    seen: Stamps,
    read: Option<Stamps>,
}

/// Of the certificate's file and the key's.
type Stamps = (Option<Stamp>, Option<Stamp>);

impl Look {
    /// Looks again; tells whether there is something new to be read.
    fn at(files: &CertificateFiles, before: Option<&Self>) -> (Self, bool) {
        let seen = (Stamp::of(&files.cert), Stamp::of(&files.key));
        let read = before.and_then(|before| before.read);
        // Two looks that see the same: nobody is writing any more.
        let is_settled = before.is_some_and(|before| before.seen == seen);
        let is_new = is_settled && read != Some(seen);
        (Self { files: files.clone(), seen, read: if is_new { Some(seen) } else { read } }, is_new)
    }
}

/// What a file looks like from outside: changes whenever its content does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: (file.dev(), file.ino()),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Reads every pair; the error names the file.
pub(crate) fn read_all(tls: &ServerTls) -> Result<Vec<Entry>, String> {
    tls.certificates.iter().map(read).collect()
}

fn read(files: &CertificateFiles) -> Result<Entry, String> {
    match load_certificate(&files.cert, &files.key) {
        Ok(certificate) => Ok(Entry { files: files.clone(), certificate: Arc::new(certificate) }),
        Err(error) => {
            let path = match error.file() {
                CertificateFile::Cert => &files.cert,
                CertificateFile::Key => &files.key,
            };
            Err(format!("{}: {error}", path.display()))
        }
    }
}

/// Handshakes with TLS 1.2 and 1.3, and HTTP/2 for whoever offers it. The error names the file.
pub(crate) fn accepting(tls: &ServerTls, shown: &Arc<Shown>) -> Result<Arc<ServerConfig>, String> {
    let refused = |error: rustls::Error| format!("TLS: {error}");
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(shown) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A client that comes again saves a signature; the keys change every few hours.
    config.ticketer = ring::Ticketer::new().map_err(refused)?;
    Ok(Arc::new(config))
}

/// Whom clients must be certified by.
fn verifier(
    clients: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let path = clients.ca.display();
    let authorities = load_chain(&clients.ca).map_err(|error| format!("{path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| format!("{path}: {error}"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients.auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| format!("{path}: {error}"))
}
