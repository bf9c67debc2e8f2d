//! HTTP/2 to the backends that offer it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::harness::http2::{Call, Http2};
use crate::harness::site::Settings;
use crate::harness::tls::{Authority, NAME};
use crate::harness::wechat::openid_of;
use crate::harness::{Site, eventually};

/// A backend that speaks HTTP/2 within TLS, and nothing else.
struct Backend {
    address: SocketAddr,
    authority: Authority,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

/// A request as it came.
#[derive(Debug)]
struct Seen {
    head: Request<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The stream was ended by its sender and not reset.
    complete: bool,
}

impl Backend {
    fn start() -> Self {
        let authority = Authority::new();
        let pair = authority.issue();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.der()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::default(), Arc::<AtomicUsize>::default());
        let (recorded, counted) = (Arc::clone(&seen), Arc::clone(&connections));
        runtime.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, recorded) = (acceptor.clone(), Arc::clone(&recorded));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let Ok(mut http2) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = http2.accept().await {
                        tokio::spawn(answer(request, respond, Arc::clone(&recorded)));
                    }
                });
            }
        });
        Self { address, authority, seen, connections, _runtime: runtime }
    }

    fn settings(&self) -> Settings {
        let tls = format!("tls = {{ sni = \"{NAME}\", ca = \"ca.pem\", http2 = true }}");
        Site::with()
            .servers(&format!("[\"{}\"]", self.address))
            .upstream(&tls)
            .file("ca.pem", &self.authority.pem())
    }

    fn take(&self) -> Seen {
        self.seen.lock().unwrap().pop().unwrap()
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let is_head = head.method == http::Method::HEAD;
    let head = Request::from_parts(head, ());
    let mut record = Seen { head, body: Vec::new(), trailers: None, complete: true };
    while let Some(bytes) = body.data().await {
        let Ok(bytes) = bytes else {
            record.complete = false;
            break;
        };
        drop(body.flow_control().release_capacity(bytes.len()));
        record.body.extend_from_slice(&bytes);
    }
    record.trailers = body.trailers().await.ok().flatten();
    seen.lock().unwrap().push(record);
    let response = Response::builder().header("x-spoken", "h2").header("set-cookie", "a=1");
    match path.as_str() {
        "/open/empty" => {
            drop(respond.send_response(response.status(204).body(()).unwrap(), true));
        }
        _ if is_head => drop(respond.send_response(response.body(()).unwrap(), true)),
        "/open/reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        _ => {
            let Ok(mut sending) = respond.send_response(response.body(()).unwrap(), false) else {
                return;
            };
            let pieces = if path == "/open/large" { 256 } else { 1 };
            for _ in 0..pieces {
                let piece = if pieces == 1 { Bytes::from("hello") } else { vec![7; 4096].into() };
                drop(sending.send_data(piece, false));
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-wx-openid", "evil".parse().unwrap());
            drop(sending.send_trailers(trailers));
        }
    }
}

#[test]
fn a_request_arrives_over_http_2_as_it_does_over_http_1() {
    let backend = Backend::start();
    let site = backend.settings().start();
    let token = site.log_in("alice");
    let answer = site
        .post("/api/me?a=1")
        .bearer(&token)
        .host("shop.test:8443")
        .header("X-Wx-OpenId", "forged")
        .header("Cookie", "a=1; wxgate_session=x; b=2")
        .header("Connection", "keep-alive, X-Hop")
        .header("X-Hop", "1")
        .header("TE", "trailers")
        .body("whole")
        .send();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("X-Spoken"), Some("h2"));
    let seen = backend.take();
    assert_eq!(seen.head.version(), http::Version::HTTP_2);
    let uri = seen.head.uri();
    assert_eq!(uri.authority().unwrap().as_str(), "shop.test:8443");
    assert_eq!((uri.path(), uri.query()), ("/api/me", Some("a=1")));
    assert_eq!(seen.body, b"whole");
    let values = |name: &str| {
        let values = seen.head.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values("x-wx-openid"), [openid_of("alice")]);
    assert_eq!(values("cookie"), ["a=1; b=2"]);
    assert_eq!(values("content-length"), ["5"]);
    assert_eq!(values("x-forwarded-host"), ["shop.test:8443"]);
    for name in ["host", "connection", "x-hop", "te", "transfer-encoding", "authorization"] {
        assert!(values(name).is_empty(), "{name}: {:?}", values(name));
    }
}

#[test]
fn bodies_of_every_framing_pass_and_trailers_do_not() {
    let backend = Backend::start();
    let authority = Authority::new();
    let pair = authority.issue();
    let site = backend
        .settings()
        .server("tls = { cert = \"cert.pem\", key = \"key.pem\" }")
        .file("cert.pem", &pair.cert)
        .file("key.pem", &pair.key)
        .start();
    let http2 = Http2::open(site.gateway.address(), &authority.client(&["h2"]));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-wx-openid", "evil".parse().unwrap());
    let call = Call {
        trailers: Some(trailers),
        ..Call::post("/open/x", &[("x-wx-openid", "evil")], &[b"some", b"", b"thing"])
    };
    let answer = http2.send(&call).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert!(answer.trailers.is_none_or(|trailers| trailers.is_empty()), "trailers passed");
    let seen = backend.take();
    assert_eq!(seen.body, b"something");
    assert!(seen.trailers.is_none() && seen.complete);
    assert!(!seen.head.headers().contains_key("x-wx-openid"));
    assert_eq!(http2.send(&Call::get("/open/large", &[])).unwrap().body.len(), 256 * 4096);
    assert_eq!(http2.send(&Call::get("/open/empty", &[])).unwrap().status, 204);
    assert_eq!(http2.send(&Call::get("/open/reset", &[])).unwrap().status, 502);
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200);
}

#[test]
fn http_1_clients_get_answers_framed_for_them() {
    let backend = Backend::start();
    let site = backend.settings().start();
    let mut connection = site.connect();
    for _ in 0..3 {
        let answer = site.get("/open/x").send_on(&mut connection);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(site.get("/open/empty").send_on(&mut connection).status, 204);
        let answer = site.get("/open/large").send_on(&mut connection);
        assert_eq!(answer.body.len(), 256 * 4096);
        assert_eq!(site.request("HEAD", "/open/x").send_on(&mut connection).status, 200);
    }
    let chunked = "POST /open/x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4\r\nbody\r\n0\r\nX-WX-OPENID: evil\r\n\r\n";
    connection.send(chunked);
    assert_eq!(connection.answer().status, 200);
    assert_eq!(backend.take().body, b"body");
    let all = backend.connections.load(Ordering::SeqCst);
    assert!(all <= 2, "{all} connections for one client's requests in turn");
}

#[test]
fn an_upload_that_is_cut_is_reset_and_never_looks_complete() {
    let backend = Backend::start();
    let site = backend.settings().start();
    let mut connection = site.connect();
    connection.send("POST /open/x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100\r\n\r\nhalf");
    eventually("it is under way", || backend.connections.load(Ordering::SeqCst) > 0);
    drop(connection);
    eventually("the stream ends", || !backend.seen.lock().unwrap().is_empty());
    assert!(!backend.take().complete);
}

#[test]
fn a_websocket_is_not_asked_for_over_http_2() {
    let backend = Backend::start();
    let site = backend.settings().start();
    // The backend speaks HTTP/2 alone, so a WebSocket finds nobody there.
    let answer = site
        .get("/open/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send();
    answer.assert_refused(502, "bad_gateway");
    assert!(backend.seen.lock().unwrap().is_empty());
}
