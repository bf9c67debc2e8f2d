//! A certificate and its private key, read from two PEM files and checked to belong together.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

/// No chain and no key is longer; what is longer is refused rather than read into memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A certificate, its chain and its key.
#[derive(Debug)]
pub struct Certificate {
    /// What a handshake shows and signs with.
    pub pair: Arc<CertifiedKey>,
    /// When the certificate itself (not one of its chain) runs out, in seconds since 1970.
    pub expires_at: i64,
    /// The host names that it is for, lower case; `*.` stands for one label.
    pub names: Vec<String>,
}

/// Which of the two files is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFile {
    /// The certificate and its chain.
    Cert,
    /// The private key.
    Key,
}

/// Why a certificate cannot be used. Holds nothing of what the files say.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file is missing, or the system refuses to read it.
    #[error("cannot be read: {cause}")]
    Unreadable {
        /// Which of the two.
        file: CertificateFile,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The file has no certificate in PEM, or one that is no certificate.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// The file has no private key in PEM, or one of a kind that TLS does not know.
    #[error("holds no private key in PEM that TLS can use (RSA, ECDSA P-256 or P-384, Ed25519)")]
    NoKey,
    /// The two files do not belong together.
    #[error("is not the key of the certificate")]
    Mismatch,
}

impl CertificateError {
    /// The file to look at.
    pub fn file(&self) -> CertificateFile {
        match self {
            Self::Unreadable { file, .. } => *file,
            Self::NoCertificate => CertificateFile::Cert,
            Self::NoKey | Self::Mismatch => CertificateFile::Key,
        }
    }
}

/// Reads the PEM files of a certificate with its chain, the leaf first, and of its key.
///
/// # Errors
/// [`CertificateError`], if one cannot be read or the two are no pair.
pub fn load_certificate(cert: &Path, key: &Path) -> Result<Certificate, CertificateError> {
    let chain = load_chain(cert)?;
    let leaf = chain.first().ok_or(CertificateError::NoCertificate)?;
    let expires_at = expiry(leaf).ok_or(CertificateError::NoCertificate)?;
    let names = names(leaf);
    match CertifiedKey::from_der(chain, load_key(key)?, &ring::default_provider()) {
        Ok(pair) => Ok(Certificate { pair: Arc::new(pair), expires_at, names }),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(CertificateError::Mismatch)
        }
        Err(Error::InvalidCertificate(_)) => Err(CertificateError::NoCertificate),
        Err(_) => Err(CertificateError::NoKey),
    }
}

/// Reads every certificate of a PEM file; there is at least one.
///
/// # Errors
/// [`CertificateError`], if it cannot be read or holds none.
pub fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read(path, CertificateFile::Cert)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() && chain.iter().all(|one| expiry(one).is_some()) => {
            Ok(chain)
        }
        Ok(_) | Err(_) => Err(CertificateError::NoCertificate),
    }
}

/// Reads the private key of a PEM file.
///
/// # Errors
/// [`CertificateError`], if it cannot be read or holds none.
pub fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(&read(path, CertificateFile::Key)?)
        .map_err(|_| CertificateError::NoKey)
}

/// When a certificate runs out; `None` if it is none.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    rest.is_empty().then(|| certificate.validity().not_after.timestamp())
}

/// The DNS names of a certificate (RFC 6125 section 6.4); the common name has not counted for
/// years.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_) => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

fn read(path: &Path, file: CertificateFile) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let mut text = Zeroizing::new(Vec::new());
    std::fs::File::open(path)
        .and_then(|opened| opened.take(MAX_FILE_BYTES).read_to_end(&mut text))
        .map_err(|cause| CertificateError::Unreadable { file, cause })?;
    Ok(text)
}

/// Where a certificate and its key are found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its chain.
    pub cert: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}
