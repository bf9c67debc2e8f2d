//! `[server]`: where clients come in, and what they may ask of the gateway.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// TLS on every listener; `None`: plain HTTP.
    pub tls: Option<ServerTls>,
}

/// `[server.tls]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerTls {
    /// What clients are shown, by the name that they ask for; never empty. The first is for every
    /// name that no other one is for.
    pub certificates: Vec<CertificateFiles>,
    /// Whom clients must be certified by; `None`: they show nothing.
    pub clients: Option<ClientCertificates>,
}

/// `client_ca` and `client_auth`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientCertificates {
    /// PEM file of the authorities that are believed.
    pub ca: PathBuf,
    /// Whether a client may come without.
    pub auth: ClientAuth,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ClientAuth {
    /// It must show one, or the handshake fails.
    Required,
    /// It may; one that is shown must be good.
    Optional,
}
