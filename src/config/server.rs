//! `[server]`: where clients come in, and what they may ask of the gateway.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::CertificateFiles;

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Addresses to listen on; never empty. Port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Plain listeners that send everybody to https.
    pub redirect_listen: Vec<SocketAddr>,
    /// The port of the https addresses that they send to.
    pub redirect_port: u16,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Peers whose X-Forwarded-* and X-Request-Id are believed.
    #[serde(serialize_with = "super::redact::texts")]
    pub trusted_proxies: Vec<IpNet>,
    /// Largest header section in bytes, request line included.
    pub max_header_bytes: usize,
    /// Largest request body in bytes; `None`: unlimited.
    pub max_body_bytes: Option<u64>,
    /// From the first byte of a request head to its last.
    #[serde(serialize_with = "super::redact::period")]
    pub header_timeout: Duration,
    /// How long a connection may stand idle, between requests or within a body.
    #[serde(serialize_with = "super::redact::period")]
    pub idle_timeout: Duration,
    /// Connections that may be open at once; `None`: any number.
    pub max_connections: Option<usize>,
    /// Connections that may be open at once from one address, IPv6 by /64; `None`: any number.
    pub max_connections_per_address: Option<usize>,
    /// Bytes of a body that a client must send for each second it is waited for; `None`: any.
    pub min_body_rate: Option<NonZeroU64>,
    /// How long a drain may take.
    #[serde(serialize_with = "super::redact::period")]
    pub shutdown_grace: Duration,
    /// Whether plain requests take the fast lane. Off: every request the full one, with the same
    /// behaviour and more work.
    pub fast_lane: bool,
    /// The certificate that clients are shown; `None`: no TLS.
    pub tls: Option<CertificateFiles>,
}
