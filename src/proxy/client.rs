//! Who really calls: the client's address behind trusted proxies, the scheme, the request id.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::head::{Headers, RequestHead};

/// How a request reached the gateway. What a header says of it counts only where the peer is a
/// trusted proxy.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// The right-most address that is not a trusted proxy's.
    pub(crate) address: IpAddr,
    /// Names this request in logs, answers and at the upstream.
    pub(crate) request_id: Arc<str>,
    /// `X-Forwarded-For` as the upstream gets it.
    pub(crate) forwarded_for: Arc<str>,
    /// `X-Forwarded-Proto` as the upstream gets it.
    pub(crate) forwarded_proto: Cow<'static, str>,
    /// `X-Forwarded-Host` as the upstream gets it, where a trusted proxy says another than `Host`.
    pub(crate) forwarded_host: Option<String>,
    /// Whether the peer is a trusted proxy: then `Forwarded` and `X-Real-IP` pass.
    pub(crate) behind_trusted_proxy: bool,
}

/// What the socket says. Made once for a connection, whose requests share it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Address of the other end; an IPv4 one is never written as IPv6.
    pub(crate) address: IpAddr,
    /// The same in letters.
    text: Arc<str>,
    /// The scheme that the peer speaks to us.
    pub(crate) scheme: &'static str,
}

impl Peer {
    /// The other end of a connection.
    pub(crate) fn new(address: IpAddr, scheme: &'static str) -> Self {
        let address = address.to_canonical();
        Self { address, text: address.to_string().into(), scheme }
    }
}

impl Client {
    /// Reads the head of a request from `peer`.
    pub(crate) fn of(head: &RequestHead<'_>, peer: &Peer, trusted: &[IpNet]) -> Self {
        let address = peer.address;
        if !is_trusted(address, trusted) {
            return Self {
                address,
                request_id: new_request_id(),
                forwarded_for: Arc::clone(&peer.text),
                forwarded_proto: Cow::Borrowed(peer.scheme),
                forwarded_host: None,
                behind_trusted_proxy: false,
            };
        }
        let hops = hops(head.headers);
        let mut forwarded_for = String::new();
        for hop in &hops {
            forwarded_for.push_str(hop);
            forwarded_for.push_str(", ");
        }
        forwarded_for.push_str(&peer.text);
        Self {
            address: right_most_untrusted(&hops, address, trusted),
            request_id: head
                .headers
                .text("x-request-id")
                .filter(|id| is_request_id(id))
                .map_or_else(new_request_id, Arc::from),
            forwarded_for: forwarded_for.into(),
            forwarded_proto: one_token(head.headers, "x-forwarded-proto")
                .map_or(Cow::Borrowed(peer.scheme), Cow::Owned),
            forwarded_host: one_token(head.headers, "x-forwarded-host"),
            behind_trusted_proxy: true,
        }
    }

    /// The host that the client asked for: a trusted proxy's word, else the request's own.
    pub(crate) fn host<'a>(&'a self, host: &'a str) -> &'a str {
        self.forwarded_host.as_deref().unwrap_or(host)
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The hops that proxies wrote, left to right.
fn hops(headers: Headers<'_>) -> Vec<String> {
    headers
        .get_all("x-forwarded-for")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|hop| hop.trim().to_owned())
        .filter(|hop| !hop.is_empty())
        .collect()
}

/// Walks from the peer to the left while the hops are trusted. A hop that is no address ends the
/// walk: what stands left of it nobody vouches for.
fn right_most_untrusted(hops: &[String], peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer;
    for hop in hops.iter().rev() {
        let Some(address) = hop_address(hop) else {
            return nearest;
        };
        nearest = address;
        if !is_trusted(address, trusted) {
            return nearest;
        }
    }
    nearest
}

/// An address, also with a port as some proxies write it.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>()
        .or_else(|_| hop.parse::<std::net::SocketAddr>().map(|address| address.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

/// A trusted proxy's header if it is one plain word.
fn one_token(headers: Headers<'_>, name: &str) -> Option<String> {
    let mut values = headers.get_all(name);
    let is_word = |text: &&str| {
        !text.is_empty()
            && text.len() <= 255
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
    };
    match (values.next().and_then(|value| std::str::from_utf8(value).ok()), values.next()) {
        (Some(word), None) => Some(word.trim()).filter(is_word).map(ToOwned::to_owned),
        _ => None,
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

/// 32 hex digits from the system's random source's seeded generator.
pub(crate) fn new_request_id() -> Arc<str> {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(rand::random::<u128>().to_be_bytes()) {
        pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
    }
    Arc::from(std::str::from_utf8(&digits).unwrap_or_default())
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        10.. => b'a' + nibble - 10,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[(&str, &str)]) -> Client {
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        let head = RequestHead {
            method: "GET",
            target: "/",
            host: "api.example.com",
            version: http::Version::HTTP_11,
            headers: Headers(&lines),
        };
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        Client::of(&head, &Peer::new(peer.parse().unwrap(), "http"), &trusted)
    }

    #[test]
    fn an_untrusted_peer_says_nothing_about_itself() {
        let client = client(
            "192.0.2.7",
            &[
                ("X-Forwarded-For", "1.2.3.4"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "evil.example"),
                ("X-Request-Id", "chosen"),
            ],
        );
        assert_eq!(client.address.to_string(), "192.0.2.7");
        assert_eq!(&*client.forwarded_for, "192.0.2.7");
        assert_eq!(client.forwarded_proto, "http");
        assert_eq!(client.host("api.example.com"), "api.example.com");
        assert_eq!(client.request_id.len(), 32);
        assert!(client.request_id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn behind_trusted_proxies_the_right_most_untrusted_hop_is_the_client() {
        for (hops, address) in [
            ("198.51.100.9", "198.51.100.9"),
            ("6.6.6.6, 198.51.100.9", "198.51.100.9"),
            ("198.51.100.9, 10.1.2.3", "198.51.100.9"),
            ("6.6.6.6, garbage, 10.1.2.3", "10.1.2.3"),
            ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
            ("198.51.100.9:4711", "198.51.100.9"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("", "10.0.0.1"),
        ] {
            let client = client("10.0.0.1", &[("x-forwarded-for", hops)]);
            assert_eq!(client.address.to_string(), address, "{hops}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_appended_and_its_id_and_scheme_are_taken() {
        let client = client(
            "::ffff:10.0.0.1",
            &[
                ("X-Forwarded-For", "6.6.6.6"),
                ("X-Forwarded-For", "198.51.100.9"),
                ("X-Forwarded-Proto", "https"),
                ("X-Request-Id", "abc-1"),
            ],
        );
        assert_eq!(&*client.forwarded_for, "6.6.6.6, 198.51.100.9, 10.0.0.1");
        assert_eq!(client.forwarded_proto, "https");
        assert_eq!(&*client.request_id, "abc-1");
        assert!(client.behind_trusted_proxy);
    }
}
