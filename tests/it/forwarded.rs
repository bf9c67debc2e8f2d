//! What the backend learns about where a request came from, and whom that is believed.

use std::collections::HashSet;

use crate::harness::{Recorded, Site};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\", \"2001:db8::/32\"]";

fn seen(site: &Site, headers: &[(&str, &str)]) -> Recorded {
    let mut request = site.get("/open/x");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send();
    assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
    site.upstream.last()
}

#[test]
fn the_backend_learns_address_scheme_and_host() {
    let site = Site::start();
    let seen = seen(&site, &[]);
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("shop.test"));
    assert_eq!(seen.header("Host"), Some("shop.test"));
}

#[test]
fn what_an_untrusted_client_says_is_replaced() {
    let site = Site::start();
    let seen = seen(
        &site,
        &[
            ("X-Forwarded-For", "198.51.100.1"),
            ("X-Forwarded-For", "198.51.100.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.test"),
            ("X-Request-Id", "chosen-by-the-client"),
            ("Forwarded", "for=198.51.100.1;proto=https;host=evil.test"),
            ("X-Real-IP", "198.51.100.1"),
        ],
    );
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("shop.test"));
    assert_ne!(seen.header("X-Request-Id").unwrap(), "chosen-by-the-client");
    assert!(seen.values("Forwarded").is_empty() && seen.values("X-Real-IP").is_empty());
    assert!(!seen.raw().contains("198.51.100") && !seen.raw().contains("evil.test"));
}

#[test]
fn other_spellings_are_always_removed() {
    for trusted in ["", TRUSTED] {
        let site = Site::with().server(trusted).start();
        for name in [
            "X_Forwarded_For",
            "x.forwarded.for",
            "X-Forwarded_For",
            "X_FORWARDED_PROTO",
            "X.Forwarded.Host",
            "x-forwarded_host",
            "X_Request_Id",
            "X.Request-Id",
            "X_Real_IP",
            "x.real.ip",
        ] {
            let seen = seen(&site, &[(name, "evil")]);
            assert!(seen.values(name).is_empty(), "{name}: {}", seen.raw());
            assert!(!seen.raw().contains("evil"), "{name}: {}", seen.raw());
        }
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_appended() {
    let site = Site::with().server(TRUSTED).start();
    let seen = seen(
        &site,
        &[
            ("X-Forwarded-For", "198.51.100.1, 10.1.2.3"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "public.test"),
            ("X-Request-Id", "from-the-proxy-1"),
        ],
    );
    assert_eq!(seen.values("X-Forwarded-For").join(", "), "198.51.100.1, 10.1.2.3, 127.0.0.1");
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("https"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("public.test"));
    assert_eq!(seen.header("X-Request-Id"), Some("from-the-proxy-1"));
    assert_eq!(seen.header("Host"), Some("shop.test"), "Host is the client's");
}

#[test]
fn a_trusted_proxy_that_says_nothing_is_completed() {
    let site = Site::with().server(TRUSTED).start();
    let seen = seen(&site, &[]);
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("shop.test"));
    assert!(seen.header("X-Request-Id").is_some_and(|id| !id.is_empty()));
}

#[test]
fn the_clients_address_is_the_right_most_one_that_is_not_trusted() {
    let site = Site::with().server(TRUSTED).start();
    for (forwarded, client) in [
        ("198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1, 10.1.1.1, 10.1.1.2", "198.51.100.1"),
        ("198.51.100.1,10.1.1.1", "198.51.100.1"),
        ("2001:db9::7", "2001:db9::7"),
        ("2001:db9::7, 2001:db8::1", "2001:db9::7"),
        // Several headers are one list.
        ("10.1.1.1", "10.1.1.1"),
    ] {
        seen(&site, &[("X-Forwarded-For", forwarded), ("User-Agent", forwarded)]);
        let line = site.access_line(|line| line["user_agent"] == forwarded);
        assert_eq!(line["client"], client, "{forwarded}");
    }
    seen(
        &site,
        &[
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-For", "198.51.100.1"),
            ("User-Agent", "two"),
        ],
    );
    let line = site.access_line(|line| line["user_agent"] == "two");
    assert_eq!(line["client"], "198.51.100.1", "several headers are one list");
}

#[test]
fn an_address_that_is_none_ends_the_belief() {
    let site = Site::with().server(TRUSTED).start();
    for forwarded in ["garbage", "203.0.113.9, unknown", "203.0.113.9, 999.1.1.1", ", ,", ""] {
        let marker = format!("agent-{}", forwarded.len());
        seen(&site, &[("X-Forwarded-For", forwarded), ("User-Agent", &marker)]);
        let line = site.access_line(|line| line["user_agent"] == *marker);
        assert_eq!(line["client"], "127.0.0.1", "{forwarded:?}");
    }
}

#[test]
fn a_request_id_is_made_for_every_request_and_differs() {
    let site = Site::start();
    let ids: HashSet<String> =
        (0..20).map(|_| seen(&site, &[]).header("X-Request-Id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 20);
    for id in ids {
        assert!(id.len() >= 16 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }
}

#[test]
fn the_request_id_is_the_same_for_backend_answer_and_log() {
    let site = Site::start();
    let id = seen(&site, &[("User-Agent", "id")]).header("X-Request-Id").unwrap().to_owned();
    assert_eq!(site.access_line(|line| line["user_agent"] == "id")["request_id"], id);
    let refused = site.get("/api/x").header("User-Agent", "refused").send();
    let line = site.access_line(|line| line["user_agent"] == "refused");
    assert_eq!(refused.json()["request_id"], line["request_id"]);
}

#[test]
fn a_request_id_of_a_trusted_proxy_that_is_unfit_is_made_anew() {
    let site = Site::with().server(TRUSTED).start();
    let long = "x".repeat(1000);
    for id in ["", "with space", "quote\"", "semi;colon,", &long] {
        let seen = seen(&site, &[("X-Request-Id", id)]);
        let got = seen.header("X-Request-Id").unwrap();
        assert!(!got.is_empty() && got != id, "{id:?} came through");
    }
    let seen = seen(&site, &[("X-Request-Id", "one"), ("X-Request-Id", "two")]);
    assert_eq!(seen.values("X-Request-Id").len(), 1);
}

#[test]
fn a_refusal_does_not_echo_what_the_client_sent() {
    let site = Site::start();
    let answer = site
        .get("/nothing/<echoed-7f3a>?q=<echoed-7f3a>")
        .header("X-Request-Id", "<echoed-7f3a>")
        .host("shop.test")
        .send();
    assert!(matches!(answer.status, 400 | 404));
    assert!(!answer.text().contains("7f3a"), "{}", answer.text());
}

#[test]
fn a_host_arrives_in_the_clients_spelling() {
    let site = Site::start();
    for name in ["hOsT", "host", "HOST"] {
        let head = format!("GET /open/x HTTP/1.1\r\n{name}: Shop.test\r\n\r\n");
        assert_eq!(site.raw(head).status, 200);
        let seen = site.upstream.last();
        assert_eq!(seen.values("Host"), ["Shop.test"]);
        assert!(seen.headers.iter().any(|(its, _)| its == name), "{}", seen.raw());
    }
}
