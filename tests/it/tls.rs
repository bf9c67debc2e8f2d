//! TLS in front: what is spoken, and certificates that change while the gateway runs.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::client::Connection;
use crate::harness::gateway::wxgate;
use crate::harness::http2::{Call, Http2};
use crate::harness::site::Settings;
use crate::harness::tls::{Authority, NAME, Pair, Stream, connect, connect_to, shown_at};
use crate::harness::upstream::block;
use crate::harness::{Reply, Site, StopAtEnd, eventually, for_as_long_as, size, within};

/// Two seconds are promised; a busy machine takes its time.
const BUSY: Duration = Duration::from_secs(10);

/// A site that speaks TLS with this certificate.
pub(crate) fn with(pair: &Pair) -> Settings {
    Site::with()
        .server("tls = { cert = \"cert.pem\", key = \"key.pem\" }")
        .file("cert.pem", &pair.cert)
        .file("key.pem", &pair.key)
}

/// Replaces the files as an operator's tool does: one after the other, each by a rename.
fn install(site: &Site, pair: &Pair) {
    for (name, text) in [("cert.pem", &pair.cert), ("key.pem", &pair.key)] {
        std::fs::write(site.gateway.file("new"), text).unwrap();
        std::fs::rename(site.gateway.file("new"), site.gateway.file(name)).unwrap();
    }
}

/// Sends a request that closes the connection, and reads to its orderly end.
fn ask(mut stream: Stream, lines: &str) -> String {
    write!(stream, "{lines}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\n")
}

/// Sends a request and reads its answer, which is known to be `ok`-like and short.
fn ask_and_keep(stream: &mut Stream) -> std::io::Result<()> {
    write!(stream, "{}\r\n", get("/open/x"))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body)
}

#[test]
fn http_1_passes_over_tls_and_the_backend_hears_of_https() {
    let authority = Authority::new();
    let site = with(&authority.issue()).start();
    let client = authority.client(&["http/1.1"]);
    let stream = connect(site.gateway.address(), &client).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(ask(stream, &get("/open/x")).starts_with("HTTP/1.1 200"));
    let seen = site.upstream.last();
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("https"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some(NAME));
    let without_alpn = connect(site.gateway.address(), &authority.client(&[])).unwrap();
    let answer = ask(without_alpn, &get("/open?q=1"));
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(answer.contains("/open/?q=1\r\n"), "{answer}");
}

#[test]
fn several_requests_and_large_bodies_pass_on_one_connection() {
    let authority = Authority::new();
    let site = with(&authority.issue()).start();
    let mut stream = connect(site.gateway.address(), &authority.client(&[])).unwrap();
    for _ in 0..3 {
        ask_and_keep(&mut stream).unwrap();
    }
    let body = vec![b'x'; 3_000_000];
    write!(
        stream,
        "POST /open/upload HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    site.upstream.await_request_to("/open/upload");
    eventually("the upload is whole", || {
        site.upstream.requests_to("/open/upload").iter().any(|seen| seen.complete)
    });
    assert_eq!(site.upstream.requests_to("/open/upload")[0].body_length, 3_000_000);
}

#[test]
fn tls_1_2_is_spoken_and_whoever_speaks_no_tls_gets_nothing() {
    let authority = Authority::new();
    let site = with(&authority.issue()).server("header_timeout = \"1s\"").start();
    let ca = site.gateway.file("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    for (option, works) in [("--tls-max 1.2", true), ("--tls-max 1.1", false), ("--tlsv1.3", true)]
    {
        let port = site.gateway.address().port();
        let output = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(&ca)
            .args(option.split(' '))
            .args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")])
            .arg(format!("https://{NAME}:{port}/open/x"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), works, "{option}: {error}");
    }
    let mut plain = Connection::open(site.gateway.address());
    plain.send(format!("{}\r\n", get("/open/x")));
    let rest = plain.rest().unwrap();
    assert!(!rest.starts_with(b"HTTP"), "plain HTTP was answered");
    let mut silent = Connection::open(site.gateway.address());
    assert_eq!(silent.rest(), Some(Vec::new()), "a handshake that never begins is ended");
}

#[test]
fn a_new_certificate_is_shown_within_two_seconds_and_drops_nothing() {
    let authority = Authority::new();
    let (first, second) = (authority.issue_until(2098), authority.issue());
    let site = with(&first).start();
    let client = authority.client(&["http/1.1"]);
    let expiry = || site.gateway.metric("wxgate_tls_certificate_expiry_seconds", &[]);
    let address = site.gateway.address();
    assert_eq!(expiry(), 4_039_372_800.0);
    let mut kept = connect(address, &client).unwrap();
    ask_and_keep(&mut kept).unwrap();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = connect(address, &client).unwrap();
                ask_and_keep(&mut stream).unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = StopAtEnd(&stop);
        install(&site, &second);
        within(BUSY, "the new certificate is shown", || shown_at(address, &client) == second.der());
    });
    assert!(asked.load(Ordering::Relaxed) > 0);
    ask_and_keep(&mut kept).unwrap();
    assert_eq!(expiry(), 4_070_908_800.0);
}

#[test]
fn a_broken_new_certificate_leaves_the_old_one_and_is_logged() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(), authority.issue());
    let site = with(&first).start();
    let client = authority.client(&[]);
    let shown = || shown_at(site.gateway.address(), &client);
    // The key of another certificate.
    std::fs::write(site.gateway.file("key.pem"), &second.key).unwrap();
    eventually("it is logged", || site.gateway.stderr().contains("is not the key"));
    for_as_long_as(Duration::from_millis(200), "the old one is shown", || shown() == first.der());
    std::fs::write(site.gateway.file("cert.pem"), "-----BEGIN").unwrap();
    eventually("it is logged", || site.gateway.stderr().contains("holds no certificate"));
    assert_eq!(shown(), first.der());
    std::fs::remove_file(site.gateway.file("cert.pem")).unwrap();
    eventually("it is logged", || site.gateway.stderr().contains("cannot be read"));
    assert_eq!(shown(), first.der());
    std::fs::write(site.gateway.file("cert.pem"), &second.cert).unwrap();
    eventually("the good one is shown", || shown() == second.der());
    assert!(!site.gateway.stderr().contains("PRIVATE"));
}

#[test]
fn a_reload_takes_other_files_and_refuses_a_wrong_pair() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(), authority.issue());
    let mut site = with(&first).start();
    let client = authority.client(&[]);
    let files = |settings: Settings, key: &str| {
        let settings = settings.file("other.pem", &second.cert).file("other.key", &second.key);
        settings.replace_server(&format!("tls = {{ cert = \"other.pem\", key = \"{key}\" }}"))
    };
    assert!(!site.reload(|settings| files(settings, "key.pem")));
    assert_eq!(shown_at(site.gateway.address(), &client), first.der());
    assert!(site.reload(|settings| files(settings, "other.key")));
    assert_eq!(shown_at(site.gateway.address(), &client), second.der());
}

#[test]
fn wrong_files_are_named_before_anything_starts() {
    let authority = Authority::new();
    let (pair, other) = (authority.issue(), authority.issue());
    let expired = authority.issue_until(2021);
    let cases = [
        (Pair { key: other.key.clone(), ..pair.clone() }, 2, "server.tls.key: is not the key of"),
        (Pair { key: "nothing".to_owned(), ..pair.clone() }, 2, "server.tls.key: holds no private"),
        (Pair { cert: pair.key.clone(), ..pair.clone() }, 2, "server.tls.cert: holds no certifi"),
        (expired, 0, "server.tls.cert: has expired"),
    ];
    for (pair, status, told) in cases {
        let directory = with(&pair).write("http://127.0.0.1:1", "127.0.0.1:1");
        let output = wxgate_check(directory.path());
        assert_eq!(output.0, Some(status), "{}", output.1);
        assert!(output.1.contains(told), "{}", output.1);
        assert!(!output.1.contains("PRIVATE"), "{}", output.1);
    }
    let directory = with(&pair).write("http://127.0.0.1:1", "127.0.0.1:1");
    std::fs::remove_file(directory.path().join("key.pem")).unwrap();
    let output = wxgate_check(directory.path());
    assert_eq!(output.0, Some(2), "{}", output.1);
    assert!(output.1.contains("server.tls.key: cannot be read: No such file"), "{}", output.1);
}

#[test]
fn an_idle_connection_is_ended_with_a_close_notify() {
    let authority = Authority::new();
    let site = with(&authority.issue()).server("idle_timeout = \"1s\"").start();
    let mut stream = connect(site.gateway.address(), &authority.client(&["http/1.1"])).unwrap();
    ask_and_keep(&mut stream).unwrap();
    // Without it this is an error: the end may be an attacker's.
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_client_that_reads_slowly_holds_the_backend_back_and_gets_everything() {
    let length = size(96 << 20, 1 << 30);
    let authority = Authority::new();
    let site = with(&authority.issue()).start();
    let mut stream = connect(site.gateway.address(), &authority.client(&["http/1.1"])).unwrap();
    ask_and_keep(&mut stream).unwrap();
    let before = site.gateway.resident_memory();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    site.upstream.answers("/open/large", Reply::raw(head).then_stream(length));
    write!(stream, "{}Connection: close\r\n\r\n", get("/open/large")).unwrap();
    site.upstream.await_request_to("/open/large");
    let grown = || site.gateway.peak_memory().saturating_sub(before) >> 20;
    for_as_long_as(Duration::from_secs(1), "memory stays flat", || grown() < 24);
    let read = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    assert!(read > length, "{read} bytes");
    assert!(grown() < 24, "grew by {} MiB", grown());
}

#[test]
fn a_large_upload_passes_in_bounded_memory() {
    let length = size(96 << 20, 2 << 30);
    let authority = Authority::new();
    let site = with(&authority.issue()).server("max_body_bytes = 0").start();
    let mut stream = connect(site.gateway.address(), &authority.client(&["http/1.1"])).unwrap();
    ask_and_keep(&mut stream).unwrap();
    let before = site.gateway.resident_memory();
    write!(stream, "POST /open/large HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    let block = block();
    let mut left = length;
    while left > 0 {
        let now = left.min(block.len() as u64);
        stream.write_all(&block[..now as usize]).unwrap();
        left -= now;
    }
    eventually("the upload is whole", || {
        site.upstream.requests_to("/open/large").iter().any(|seen| seen.complete)
    });
    let seen = site.upstream.requests_to("/open/large");
    assert!(seen[0].body_length == length && seen[0].body_is_blocks, "it changed on the way");
    let grown = site.gateway.peak_memory().saturating_sub(before) >> 20;
    assert!(grown < 24, "grew by {grown} MiB");
}

/// A site with a certificate of its own for `shop.example.com` and for all beside it.
fn with_several(authority: &Authority, first: &Pair) -> (Settings, Pair, Pair) {
    let exact = authority.issue_for(&["shop.example.com"], 2099);
    let wide = authority.issue_for(&["*.shop.example.com", "*.example.com"], 2097);
    let settings = Site::with()
        .server(
            "tls = { cert = \"cert.pem\", key = \"key.pem\", certificates = [\
             { cert = \"exact.pem\", key = \"exact.key\" }, \
             { cert = \"wide.pem\", key = \"wide.key\" }] }",
        )
        .file("cert.pem", &first.cert)
        .file("key.pem", &first.key)
        .file("exact.pem", &exact.cert)
        .file("exact.key", &exact.key)
        .file("wide.pem", &wide.cert)
        .file("wide.key", &wide.key);
    (settings, exact, wide)
}

/// The certificate that is shown to whoever asks for this host, whether it fits or not.
fn shown_to(host: &str, address: SocketAddr) -> CertificateDer<'static> {
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", host])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    CertificateDer::from_pem_slice(&output.stdout).unwrap()
}

#[test]
fn each_name_is_shown_its_own_certificate_and_every_other_the_first() {
    let authority = Authority::new();
    let first = authority.issue();
    let (settings, exact, wide) = with_several(&authority, &first);
    let site = settings.start();
    let address = site.gateway.address();
    for (host, pair) in [
        ("shop.example.com", &exact),
        ("SHOP.example.com", &exact),
        ("other.example.com", &wide),
        ("a.shop.example.com", &wide),
        (NAME, &first),
        ("a.other.example.com", &first),
        ("example.com", &first),
        ("example.org", &first),
    ] {
        assert!(shown_to(host, address) == pair.der(), "{host}");
    }
    let client = authority.client(&[]);
    for host in ["shop.example.com", "any.example.com", NAME] {
        let stream = connect_to(host, address, &client).unwrap();
        let answer = ask(stream, &format!("GET /open/x HTTP/1.1\r\nHost: {host}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    let expiry = |file: &str| {
        let path = site.gateway.file(file).display().to_string();
        site.gateway.metric("wxgate_tls_certificate_expiry_seconds", &[("certificate", &path)])
    };
    assert_eq!(expiry("exact.pem"), 4_070_908_800.0);
    assert_eq!(expiry("wide.pem"), 4_007_836_800.0);
}

#[test]
fn one_of_several_certificates_changes_alone() {
    let authority = Authority::new();
    let first = authority.issue();
    let (settings, exact, wide) = with_several(&authority, &first);
    let mut site = settings.start();
    let address = site.gateway.address();
    let renewed = authority.issue_for(&["renewed.example.com"], 2099);
    std::fs::write(site.gateway.file("exact.key"), "nothing").unwrap();
    eventually("it is logged", || site.gateway.stderr().contains("holds no private key"));
    assert!(shown_to("shop.example.com", address) == exact.der());
    std::fs::write(site.gateway.file("wide.key"), &renewed.key).unwrap();
    std::fs::write(site.gateway.file("wide.pem"), &renewed.cert).unwrap();
    eventually("the renewed one is shown", || {
        shown_to("renewed.example.com", address) == renewed.der()
    });
    assert!(shown_to("other.example.com", address) == first.der(), "{wide:?}", wide = wide.cert);
    assert!(shown_to("shop.example.com", address) == exact.der());
    let only_first = "tls = { cert = \"cert.pem\", key = \"key.pem\" }";
    assert!(site.reload(|settings| settings.replace_server(only_first)));
    assert!(shown_to("shop.example.com", address) == first.der());
    let rows = site.admin("/metrics").send().text();
    assert_eq!(rows.matches("\nwxgate_tls_certificate_expiry_seconds{").count(), 1, "{rows}");
}

#[test]
fn only_clients_of_the_named_authority_come_in_and_with_optional_those_without_too() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let pair = authority.issue();
    let tls = |auth: &str| {
        format!(
            "tls = {{ cert = \"cert.pem\", key = \"key.pem\", client_ca = \"clients.pem\"{auth} }}"
        )
    };
    let mut site = Site::with()
        .server(&tls(""))
        .file("cert.pem", &pair.cert)
        .file("key.pem", &pair.key)
        .file("clients.pem", &clients.pem())
        .start();
    let address = site.gateway.address();
    let comes_in = |own: Option<&Pair>| {
        // Under TLS 1.3 a client hears of its refusal when it reads.
        let stream = connect(address, &authority.client_with(&["http/1.1"], own));
        let asked = stream.and_then(|mut stream| {
            write!(stream, "{}Connection: close\r\n\r\n", get("/open/x"))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)
        });
        asked.is_ok()
    };
    let (good, bad) = (clients.issue(), others.issue());
    assert!(comes_in(Some(&good)));
    assert!(!comes_in(Some(&bad)) && !comes_in(None));
    let http2 = Http2::open(address, &authority.client_with(&["h2"], Some(&good)));
    assert_eq!(http2.send(&Call::get("/open/x", &[])).unwrap().status, 200);
    let seen = site.upstream.last().raw().to_lowercase();
    assert!(!seen.contains("client-cert") && !seen.contains("ssl"), "{seen}");
    assert!(site.reload(|settings| settings.replace_server(&tls(", client_auth = \"optional\""))));
    assert!(comes_in(Some(&good)) && comes_in(None) && !comes_in(Some(&bad)));
    // Another authority by a reload.
    assert!(site.reload(|settings| {
        settings.replace_server(&tls("")).file("clients.pem", &others.pem())
    }));
    assert!(!comes_in(Some(&good)) && comes_in(Some(&bad)));
}

/// Exit status and standard error of `wxgate check`.
fn wxgate_check(directory: &std::path::Path) -> (Option<i32>, String) {
    // The secret of the app comes from the environment of a site.
    let toml = std::fs::read_to_string(directory.join("gateway.toml")).unwrap();
    let toml = toml.replace("{ env = \"WX_SECRET\" }", "\"secret\"");
    std::fs::write(directory.join("gateway.toml"), toml).unwrap();
    let output = wxgate(directory, &["check", "-c", "gateway.toml"]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
