//! TLS to the backends: whom the gateway believes, and what it shows.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::harness::site::Settings;
use crate::harness::tls::{Authority, NAME, Pair};
use crate::harness::{Site, eventually};

/// A backend within TLS that answers every request with `hello`.
struct Backend {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Backend {
    /// `clients`: only whoever shows a certificate of this authority is let in.
    fn start(pair: &Pair, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = Arc::new(builder.with_single_cert(vec![pair.der()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = BufReader::new(StreamOwned::new(session, socket.unwrap()));
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let mut line = String::new();
                    while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                        if line == "\r\n" {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
                            if stream.get_mut().write_all(answer).is_err() {
                                return;
                            }
                        }
                        line.clear();
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// A site in front of it.
    fn site(&self, tls: &str) -> Settings {
        Site::with().servers(&format!("[\"{}\"]", self.address)).upstream(&format!("tls = {tls}"))
    }
}

#[test]
fn a_backend_of_the_named_authority_is_believed_by_its_name() {
    let authority = Authority::new();
    let backend = Backend::start(&authority.issue(), None);
    let site = backend
        .site(&format!("{{ sni = \"{NAME}\", ca = \"ca.pem\" }}"))
        .file("ca.pem", &authority.pem())
        .start();
    for _ in 0..3 {
        let answer = site.get("/open/x").send();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    assert_eq!(backend.requests(), 3);
}

#[test]
fn a_backend_that_nobody_vouches_for_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let backend = Backend::start(&authority.issue(), None);
    let expired = Backend::start(&authority.issue_until(2021), None);
    let cases = [
        // The system's authorities.
        (&backend, format!("{{ sni = \"{NAME}\" }}"), "UnknownIssuer"),
        // Another authority.
        (&backend, format!("{{ sni = \"{NAME}\", ca = \"other.pem\" }}"), "certificate"),
        // Another name: the host of the address, an IP that is not in the certificate.
        (&backend, "{ ca = \"ca.pem\" }".to_owned(), "not valid for name"),
        (&backend, "{ ca = \"ca.pem\", sni = \"other.example.com\" }".to_owned(), "not valid for"),
        (&expired, format!("{{ sni = \"{NAME}\", ca = \"ca.pem\" }}"), "expired"),
    ];
    for (backend, tls, cause) in cases {
        let site = backend
            .site(&tls)
            .file("ca.pem", &authority.pem())
            .file("other.pem", &other.pem())
            .start();
        site.get("/open/x?SENTINEL").send().assert_refused(502, "bad_gateway");
        assert_eq!(backend.requests(), 0, "{tls}");
        eventually("the operator is told why", || site.gateway.stderr().contains(cause));
        assert!(!site.gateway.stderr().contains("SENTINEL"), "{tls}");
    }
    let careless = backend.site("{ verify = false }").start();
    assert_eq!(careless.get("/open/x").send().status, 200);
}

#[test]
fn the_gateway_shows_its_certificate_to_a_backend_that_asks() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let backend = Backend::start(&authority.issue(), Some(&clients));
    let own = clients.issue();
    let with = |settings: Settings| {
        settings
            .file("ca.pem", &authority.pem())
            .file("client.pem", &own.cert)
            .file("client.key", &own.key)
            .start()
    };
    let tls = format!("sni = \"{NAME}\", ca = \"ca.pem\"");
    let without = with(backend.site(&format!("{{ {tls} }}")));
    assert_eq!(without.get("/open/x").send().status, 502);
    assert_eq!(backend.requests(), 0);
    let shown = format!("{{ {tls}, cert = \"client.pem\", key = \"client.key\" }}");
    assert_eq!(with(backend.site(&shown)).get("/open/x").send().status, 200);
}

#[test]
fn a_reload_to_another_authority_uses_no_connection_of_the_old_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let backend = Backend::start(&authority.issue(), None);
    let mut site = backend
        .site(&format!("{{ sni = \"{NAME}\", ca = \"ca.pem\" }}"))
        .file("ca.pem", &authority.pem())
        .start();
    assert_eq!(site.get("/open/x").send().status, 200);
    assert!(site.reload(|settings| settings.file("ca.pem", &other.pem())));
    assert_eq!(site.get("/open/x").send().status, 502);
    assert_eq!(backend.requests(), 1);
}
