//! The certificate that clients are shown: taken from its files, and taken again when they change,
//! without a connection being dropped.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use super::ServeError;
use crate::config::{Certificate, CertificateFile, CertificateFiles, load_certificate};
use crate::observe::Metrics;

/// How often the files are looked at. A change is taken on the second look that sees the same, so
/// within a second and a half.
const POLL: Duration = Duration::from_millis(500);

/// What is left of a certificate's life when the operator is told.
const NEAR_END: i64 = 7 * 24 * 3600;

/// The certificate in force. Lives as long as the process; handshakes read it, the watcher and
/// reloads replace it.
pub(crate) struct Shown {
    pair: ArcSwap<CertifiedKey>,
    files: ArcSwap<CertificateFiles>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shown").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }
}

impl Shown {
    /// Reads the pair for the first time.
    pub(crate) fn load(
        files: &CertificateFiles,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, ServeError> {
        let certificate = read(files).map_err(ServeError::Build)?;
        let shown = Self {
            pair: ArcSwap::from(Arc::clone(&certificate.pair)),
            files: ArcSwap::from_pointee(files.clone()),
            metrics: Arc::clone(metrics),
        };
        shown.tell(&certificate);
        Ok(Arc::new(shown))
    }

    /// From now on this pair of these files is shown.
    pub(crate) fn show(&self, files: &CertificateFiles, certificate: &Certificate) {
        self.files.store(Arc::new(files.clone()));
        self.take(certificate);
    }

    /// Looks at the files until the process ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first look reads again, since the files may have changed while they were read.
        let mut look = Look::default();
        loop {
            ticks.tick().await;
            let shown = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || shown.look(look)).await {
                Ok(next) => look = next,
                Err(error) => log::error!("the certificate was not looked at: {error}"),
            }
        }
    }

    fn look(&self, mut look: Look) -> Look {
        let files = self.files.load_full();
        let stamp = (Stamp::of(&files.cert), Stamp::of(&files.key));
        let is_settled = look.seen.replace(stamp) == Some(stamp);
        if !is_settled || look.read == Some(stamp) {
            return look;
        }
        look.read = Some(stamp);
        match read(&files) {
            Ok(certificate) if certificate.pair.cert == self.pair.load().cert => {}
            Ok(certificate) => {
                self.take(&certificate);
                log::info!("{}: a new certificate is shown", files.cert.display());
            }
            Err(error) => log::error!("{error}; the certificate in force stays"),
        }
        look
    }

    fn take(&self, certificate: &Certificate) {
        self.pair.store(Arc::clone(&certificate.pair));
        self.tell(certificate);
    }

    fn tell(&self, certificate: &Certificate) {
        let expiry = &self.metrics.tls_certificate_expiry;
        expiry.with_label_values::<&str>(&[]).set(certificate.expires_at);
        let now = i64::try_from(crate::clock::system_unix_millis() / 1000).unwrap_or(i64::MAX);
        let path = self.files.load();
        let path = path.cert.display();
        if certificate.expires_at <= now {
            log::warn!("{path}: the certificate has expired; clients refuse it");
        } else if certificate.expires_at - now < NEAR_END {
            log::warn!("{path}: the certificate expires within a week");
        }
    }
}

/// What a look at the files remembers.
#[derive(Clone, Copy, Default)]
struct Look {
    seen: Option<(Option<Stamp>, Option<Stamp>)>,
    read: Option<(Option<Stamp>, Option<Stamp>)>,
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

/// Reads a pair; the error names the file.
pub(crate) fn read(files: &CertificateFiles) -> Result<Certificate, String> {
    load_certificate(&files.cert, &files.key).map_err(|error| {
        let path = match error.file() {
            CertificateFile::Cert => &files.cert,
            CertificateFile::Key => &files.key,
        };
        format!("{}: {error}", path.display())
    })
}

/// Handshakes with TLS 1.2 and 1.3, and HTTP/2 for whoever offers it.
pub(crate) fn acceptor(shown: &Arc<Shown>) -> Result<TlsAcceptor, ServeError> {
    let refused = |error: rustls::Error| ServeError::Build(format!("TLS: {error}"));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(shown) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A client that comes again saves a signature; the keys change every few hours.
    config.ticketer = ring::Ticketer::new().map_err(refused)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
