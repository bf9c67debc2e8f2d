//! Plain HTTP is sent to https: to the same address, whatever it was, and never anywhere else.

use std::net::SocketAddr;

use crate::harness::client::{Connection, Request};
use crate::harness::site::environment;
use crate::harness::tls::{Authority, NAME};
use crate::harness::{Site, eventually};
use crate::tls;

/// Where a site's gateway redirects.
fn address(site: &Site) -> SocketAddr {
    let log = site.gateway.stderr();
    let line = log.lines().find_map(|line| line.split_once("redirecting to https on "));
    line.expect("a listener that redirects").1.parse().unwrap()
}

fn start(lines: &str) -> Site {
    let settings = tls::with(&Authority::new().issue());
    settings.server("redirect_listen = [\"127.0.0.1:0\"]").server(lines).start()
}

#[test]
fn everybody_is_sent_to_the_same_address_by_https() {
    let site = start("");
    let address = address(&site);
    for (host, target, location) in [
        ("a.test", "/", "https://a.test/"),
        ("a.test:80", "/x/y?b=1&c=%20", "https://a.test/x/y?b=1&c=%20"),
        ("A.test.", "/x/../y//z;p", "https://A.test./x/../y//z;p"),
        ("192.0.2.7:8080", "/wx/auth", "https://192.0.2.7/wx/auth"),
        ("[2001:db8::1]", "/", "https://[2001:db8::1]/"),
        ("[2001:db8::1]:80", "/", "https://[2001:db8::1]/"),
        ("a.test", "http://a.test/x", "https://a.test/x"),
        ("a.test", "//evil.test/x", "https://a.test//evil.test/x"),
        ("a.test", "/?//evil.test", "https://a.test/?//evil.test"),
    ] {
        let answer = Request::new(address, "GET", target).host(host).send();
        assert_eq!(answer.status, 308, "{target}: {}", answer.text());
        assert_eq!(answer.header("Location"), Some(location));
        assert_eq!(answer.header("Connection"), Some("close"));
    }
    for method in ["HEAD", "OPTIONS", "DELETE"] {
        let answer = Request::new(address, method, "/x").host("a.test").send();
        assert_eq!((answer.status, answer.body.len()), (308, 0), "{method}");
    }
    let answer = Request::new(address, "POST", "/wx/auth").host("a.test").body("{}").send();
    assert_eq!(answer.header("Location"), Some("https://a.test/wx/auth"));
    assert_eq!(site.upstream.connections(), 0);
    let line = site.access_line(|line| line["path"] == "/x/y");
    assert_eq!(line["status"], 308);
}

#[test]
fn what_is_no_request_is_refused_and_nobody_is_sent_anywhere() {
    let site = start("");
    let address = address(&site);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/evil\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a@evil.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (&long, 414),
    ] {
        let mut connection = Connection::open(address);
        let answer = connection.send(bytes).answer();
        assert_eq!(answer.status, status, "{bytes:?}: {}", answer.text());
        assert_eq!(answer.header("Location"), None, "{bytes:?}");
        assert!(answer.json()["error"].is_string());
        assert!(connection.is_closed_by_gateway(), "{bytes:?}");
    }
}

#[test]
fn another_port_of_https_is_named() {
    let site = start("redirect_port = 8443");
    let answer = Request::new(address(&site), "GET", "/x?y").host("[2001:db8::1]:80").send();
    assert_eq!(answer.header("Location"), Some("https://[2001:db8::1]:8443/x?y"));
}

#[test]
fn the_listener_is_handed_over_to_a_new_process_and_drained() {
    let mut site = start("");
    let before = address(&site);
    let mut idle = Connection::open(before);
    idle.send(format!("GET /slow HTTP/1.1\r\nHost: {NAME}\r\n"));
    let new = site.gateway.upgrade(&environment());
    let mut old = std::mem::replace(&mut site.gateway, new);
    assert_eq!(address(&site), before);
    // The old process finishes what it has, and ends.
    let answer = idle.send("\r\n").answer();
    assert_eq!(answer.header("Location"), Some(&*format!("https://{NAME}/slow")));
    assert_eq!(old.await_exit(crate::harness::DEADLINE).code(), Some(0));
    let answer = Request::new(before, "GET", "/new").host("a.test").send();
    assert_eq!(answer.header("Location"), Some("https://a.test/new"));
    site.gateway.signal(rustix::process::Signal::TERM);
    eventually("it listens no more", || Connection::try_open(before).is_none());
}
