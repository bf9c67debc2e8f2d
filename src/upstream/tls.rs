//! TLS to the servers of an upstream: whom to believe, and what to show.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{ALPN, HttpPeer};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};

use crate::config::{self, CertificateError, load_chain, load_key};

/// A file of an upstream's `tls` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream {upstream}: {path}: {cause}", path = .path.display())]
pub struct BadFile {
    upstream: String,
    path: PathBuf,
    cause: CertificateError,
}

/// Streams of one HTTP/2 connection that are open at once.
const STREAMS: usize = 32;
/// What a server may send ahead of a slow client.
const STREAM_WINDOW: u32 = 256 * 1024;

/// What is spoken within TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1, whatever else the server offers.
    Http1,
    /// HTTP/2 where the upstream is configured for it and the server offers it.
    Best,
}

/// TLS as one upstream speaks it. Read once, with the configuration.
pub(super) struct Tls {
    sni: Option<String>,
    verify: bool,
    http2: bool,
    ca: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    /// Tells kept connections apart: one that was made to another authority's servers, or with
    /// another certificate, is not used. Pingora itself does not look at the authority.
    group: u64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").field("sni", &self.sni).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn load(upstream: &str, tls: &config::UpstreamTls) -> Result<Self, BadFile> {
        let bad = |path: &Path| {
            let (upstream, path) = (upstream.to_owned(), path.to_owned());
            move |cause| BadFile { upstream, path, cause }
        };
        let mut hasher = DefaultHasher::new();
        (upstream, &tls.sni, tls.verify).hash(&mut hasher);
        let mut chain = |path: &Path| {
            let chain: Vec<Vec<u8>> = load_chain(path)
                .map_err(bad(path))?
                .into_iter()
                .map(|certificate| certificate.to_vec())
                .collect();
            chain.hash(&mut hasher);
            Ok(chain)
        };
        let ca = tls.ca.as_deref().map(&mut chain).transpose()?;
        let client = match &tls.client {
            None => None,
            Some(files) => {
                let key = load_key(&files.key).map_err(bad(&files.key))?;
                let key = CertKey::new(chain(&files.cert)?, key.secret_der().to_vec());
                Some(Arc::new(key))
            }
        };
        let wrap = |ca: Vec<Vec<u8>>| {
            ca.into_iter().map(|certificate| WrappedX509::new(certificate, parse_x509)).collect()
        };
        let group = hasher.finish();
        let (sni, verify, http2) = (tls.sni.clone(), tls.verify, tls.http2);
        Ok(Self { sni, verify, http2, ca: ca.map(wrap), client, group })
    }

    /// How Pingora connects to `address` of the server that the operator wrote as `server`.
    pub(super) fn peer(&self, server: &str, address: SocketAddr, spoken: Spoken) -> HttpPeer {
        // Pingora checks no certificate where there is no name, so there always is one.
        let name = self.sni.as_deref().unwrap_or_else(|| host(server));
        let mut peer = HttpPeer::new(address, true, name.to_owned());
        peer.group_key = self.group;
        peer.client_cert_key.clone_from(&self.client);
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.options.ca.clone_from(&self.ca);
        if self.http2 && spoken == Spoken::Best {
            peer.options.alpn = ALPN::H2H1;
            peer.options.max_h2_streams = STREAMS;
            peer.options.h2_stream_window_size = Some(STREAM_WINDOW);
            // As much as all streams together: a client that does not read holds up no other.
            peer.options.h2_connection_window_size = Some(STREAM_WINDOW * 32);
        }
        peer
    }
}

/// `HOST:PORT` without the port; an IPv6 address without its brackets.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_checked_is_the_host_as_written() {
        assert_eq!(host("backend.internal:8443"), "backend.internal");
        assert_eq!(host("10.0.0.7:443"), "10.0.0.7");
        assert_eq!(host("[2001:db8::1]:443"), "2001:db8::1");
    }
}
