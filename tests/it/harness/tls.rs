//! Certificates for a site, and clients that check them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::DEADLINE;

/// The name in every certificate.
pub(crate) const NAME: &str = "api.example.com";

/// A certificate authority of a test's own.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    /// The certificate itself.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A name of its own: a certificate whose issuer is its subject counts as self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A certificate that is good until 2099.
    pub(crate) fn issue(&self) -> Pair {
        self.issue_until(2099)
    }

    /// A certificate that expires with the beginning of this year.
    pub(crate) fn issue_until(&self, year: i32) -> Pair {
        self.issue_for(&[NAME], year)
    }

    /// A certificate of these host names.
    pub(crate) fn issue_for(&self, names: &[&str], year: i32) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// What a client needs that trusts only this authority.
    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_with(protocols, None)
    }

    /// As [`Authority::client`], and shows this certificate where it is asked for one.
    pub(crate) fn client_with(&self, protocols: &[&str], own: Option<&Pair>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![own.der()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A connection within TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects and makes the handshake.
pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    connect_to(NAME, address, config)
}

/// As [`connect`], to this host.
pub(crate) fn connect_to(
    host: &str,
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<Stream> {
    let mut socket = TcpStream::connect_timeout(&address, DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// The certificate that is shown at this address.
pub(crate) fn shown_at(address: SocketAddr, config: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let stream = connect(address, config).unwrap();
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}
