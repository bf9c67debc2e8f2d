//! Where a token is looked for, and that it goes no further than the gateway.

use crate::harness::token::Forge;
use crate::harness::wechat::openid_of;
use crate::harness::{Recorded, Site};

const PLACES: &str = "token_from = [\"authorization\", \"cookie:wxgate_session\", \
                      \"header:X-Session-Token\", \"query:token\"]";

fn site() -> Site {
    Site::with().session(PLACES).start()
}

/// What reached the backend carries no token and no place for one.
#[track_caller]
fn assert_clean(seen: &Recorded, tokens: &[&str]) {
    for token in tokens {
        assert!(!seen.raw().contains(token), "the token went on: {}", seen.raw());
    }
    assert!(!seen.raw().contains("wxgate_session"), "{}", seen.raw());
    assert!(seen.values("X-Session-Token").is_empty(), "{}", seen.raw());
}

#[test]
fn a_token_is_found_in_every_place_and_taken_off() {
    let site = site();
    let token = site.log_in("alice");
    for path in ["/api/x", "/maybe/x"] {
        for (place, request) in [
            ("authorization", site.get(path).bearer(&token)),
            ("lower case", site.get(path).header("authorization", &format!("bearer {token}"))),
            ("two spaces", site.get(path).header("Authorization", &format!("BEARER  {token}"))),
            ("cookie", site.get(path).header("Cookie", &format!("wxgate_session={token}"))),
            ("header", site.get(path).header("x-session-token", &token)),
            ("query", site.get(&format!("{path}?token={token}"))),
        ] {
            let answer = request.send();
            assert_eq!(answer.status, 200, "{place} at {path}: {}", answer.text());
            let seen = site.upstream.last();
            assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")], "{place}");
            assert!(seen.values("Authorization").is_empty(), "{place}: {}", seen.raw());
            assert_eq!(seen.target, path, "{place}");
            assert_clean(&seen, &[&token]);
        }
    }
}

#[test]
fn a_token_is_taken_off_on_public_routes_too() {
    let site = site();
    let token = site.log_in("alice");
    let answer = site
        .get(&format!("/open/x?a=1&token={token}&b=2"))
        .bearer(&token)
        .header("Cookie", &format!("a=1; wxgate_session={token}; b=2"))
        .header("X-Session-Token", &token)
        .send();
    assert_eq!(answer.status, 200);
    let seen = site.upstream.last();
    assert_clean(&seen, &[&token]);
    assert_eq!(seen.target, "/open/x?a=1&b=2");
    assert_eq!(seen.values("Cookie"), ["a=1; b=2"]);
    assert!(seen.values("Authorization").is_empty());
}

#[test]
fn only_the_tokens_own_cookie_and_parameter_are_taken_off() {
    let site = site();
    let token = site.log_in("alice");
    for (cookies, left) in [
        (format!("wxgate_session={token}"), None),
        (format!("a=1; wxgate_session={token}"), Some("a=1")),
        (format!("wxgate_session={token}; a=1"), Some("a=1")),
        (format!("a=1;wxgate_session={token};b=2"), Some("a=1; b=2")),
        (
            format!("xwxgate_session=1; wxgate_session={token}; wxgate_session2=2"),
            Some("xwxgate_session=1; wxgate_session2=2"),
        ),
        (format!("a=wxgate_sessio; wxgate_session={token}"), Some("a=wxgate_sessio")),
    ] {
        let answer = site.get("/api/x").header("Cookie", &cookies).send();
        assert_eq!(answer.status, 200, "{cookies}");
        let seen = site.upstream.last();
        let left: Vec<&str> = left.into_iter().collect();
        let got: Vec<String> =
            seen.values("Cookie").iter().map(|value| value.replace(";b", "; b")).collect();
        assert_eq!(got, left, "{cookies}");
    }
    for (query, left) in [
        (format!("token={token}"), ""),
        (format!("a=1&token={token}"), "?a=1"),
        (format!("token={token}&a=1"), "?a=1"),
        (format!("a=%20+&token={token}&a=2&&b"), "?a=%20+&a=2&&b"),
        (format!("mytoken=1&token={token}&token2=2"), "?mytoken=1&token2=2"),
    ] {
        let answer = site.get(&format!("/api/x?{query}")).send();
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(site.upstream.last().target, format!("/api/x{left}"), "{query}");
    }
}

#[test]
fn the_first_place_that_holds_something_decides() {
    let site = site();
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    let answer = site
        .get(&format!("/api/x?token={bob}"))
        .header("Cookie", &format!("wxgate_session={bob}"))
        .header("X-Session-Token", &bob)
        .bearer(&alice)
        .send();
    assert_eq!(answer.status, 200);
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    assert_clean(&seen, &[&alice, &bob]);

    // A bad token in the first place is not mended by a good one in the second.
    site.upstream.forget();
    let answer = site.get("/api/x").bearer("bad").header("X-Session-Token", &alice).send();
    answer.assert_refused(401, "invalid_token");
    let answer = site
        .get("/api/x")
        .header("Cookie", "wxgate_session=bad")
        .header("X-Session-Token", &alice)
        .send();
    answer.assert_refused(401, "invalid_token");
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn the_order_of_token_from_is_the_operators() {
    let site = Site::with()
        .session("token_from = [\"header:X-Session-Token\", \"authorization\"]")
        .start();
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    site.get("/api/x").bearer(&alice).header("X-Session-Token", &bob).send();
    let seen = site.upstream.last();
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("bob")]);
    assert!(seen.values("Authorization").is_empty(), "ours is taken off from every place");
    let by_query = site.get(&format!("/api/x?token={alice}")).send();
    by_query.assert_refused(401, "unauthorized");
    let by_cookie = site.get("/api/x").header("Cookie", &format!("wxgate_session={alice}")).send();
    by_cookie.assert_refused(401, "unauthorized");
}

#[test]
fn two_authorization_headers_are_400_on_every_route() {
    let site = site();
    let token = site.log_in("alice");
    let ours = format!("Bearer {token}");
    for path in ["/api/x", "/maybe/x", "/open/x", "/wx/session"] {
        for (first, second) in [
            (&*ours, &*ours),
            (&*ours, "Basic YTpi"),
            ("Basic YTpi", &*ours),
            ("Basic YTpi", "Basic YTpi"),
        ] {
            let answer = site
                .get(path)
                .header("Authorization", first)
                .header("authorization", second)
                .send();
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
            answer.assert_refused(400, "invalid_request");
        }
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn a_comma_list_of_credentials_is_no_token() {
    let site = site();
    let token = site.log_in("alice");
    let list = format!("Bearer {token}, Bearer {token}");
    let answer = site.get("/api/x").header("Authorization", &list).send();
    assert!(matches!(answer.status, 400 | 401), "{}", answer.status);
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn other_credentials_pass_where_the_route_does_not_take_its_token_from_them() {
    let site = site();
    let foreign = "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ4In0.c2ln";
    let elsewhere = Forge::of("alice").header("kid", "of-another-gateway").token();
    for value in ["Basic YTpi", foreign, "Bearer opaque", &format!("Bearer {elsewhere}")] {
        let answer = site.get("/open/x").header("Authorization", value).send();
        assert_eq!(answer.status, 200, "{value}");
        assert_eq!(site.upstream.last().values("Authorization"), [value]);
    }
    // Basic is no Bearer: the next place decides, and the backend gets its Basic.
    let token = site.log_in("alice");
    let answer = site
        .get("/api/x")
        .header("Authorization", "Basic YTpi")
        .header("X-Session-Token", &token)
        .send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = site.upstream.last();
    assert_eq!(seen.values("Authorization"), ["Basic YTpi"]);
    assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")]);
    let guest = site.get("/maybe/x").header("Authorization", "Basic YTpi").send();
    assert_eq!(guest.status, 200, "a guest");
    assert_eq!(site.upstream.last().values("Authorization"), ["Basic YTpi"]);
    site.get("/maybe/x")
        .header("Authorization", foreign)
        .send()
        .assert_refused(401, "invalid_token");
}

#[test]
fn ours_is_taken_off_whatever_its_signature_or_age() {
    let site = site();
    let now = crate::harness::token::unix_seconds();
    for token in [
        Forge::of("alice").key(b"another-signing-key-of-32-bytes-").token(),
        Forge::of("alice").claim("iat", now - 20).claim("exp", now - 10).token(),
        Forge::of("alice").claim("iss", "somebody").token(),
    ] {
        assert_eq!(site.get("/open/x").bearer(&token).send().status, 200);
        let seen = site.upstream.last();
        assert!(seen.values("Authorization").is_empty(), "{}", seen.raw());
    }
}

#[test]
fn where_authorization_is_no_place_a_foreign_bearer_passes_on_required_routes() {
    let site = Site::with().session("token_from = [\"cookie:sess\"]").start();
    let token = site.log_in("alice");
    let answer = site
        .get("/api/x")
        .header("Cookie", &format!("sess={token}"))
        .header("Authorization", "Bearer backend-token")
        .send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = site.upstream.last();
    assert_eq!(seen.values("Authorization"), ["Bearer backend-token"]);
    assert!(seen.values("Cookie").is_empty());
}

#[test]
fn several_copies_in_one_place_are_not_a_way_around() {
    let site = site();
    let (alice, bob) = (site.log_in("alice"), site.log_in("bob"));
    for (what, request) in [
        (
            "cookie",
            site.get("/api/x")
                .header("Cookie", &format!("wxgate_session={alice}; wxgate_session={bob}")),
        ),
        (
            "two Cookie headers",
            site.get("/api/x")
                .header("Cookie", &format!("wxgate_session={alice}"))
                .header("Cookie", &format!("wxgate_session={bob}")),
        ),
        (
            "header",
            site.get("/api/x").header("X-Session-Token", &alice).header("X-Session-Token", &bob),
        ),
        ("query", site.get(&format!("/api/x?token={alice}&token={bob}"))),
    ] {
        site.upstream.forget();
        let answer = request.send();
        assert!(matches!(answer.status, 200 | 400 | 401), "{what}: {}", answer.status);
        for seen in site.upstream.requests() {
            assert_clean(&seen, &[&alice, &bob]);
            assert_eq!(seen.values("X-WX-OPENID").len(), 1, "{what}");
        }
    }
}

#[test]
fn an_empty_place_holds_nothing() {
    let site = site();
    let token = site.log_in("alice");
    let request = site
        .get("/api/x?token=")
        .header("Cookie", "wxgate_session=")
        .header("X-Session-Token", &token);
    let answer = request.send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(site.get("/maybe/x").header("Cookie", "wxgate_session=").send().status, 200);
}

#[test]
fn a_cookie_with_other_bytes_than_text_hides_no_token() {
    let site = site();
    let token = site.log_in("alice");
    let request = |path: &str, token: &str| {
        let mut bytes =
            format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nCookie: n=").into_bytes();
        // GBK, as old pages write it.
        bytes.extend(b"\xc4\xe3\xba\xc3");
        bytes.extend(format!("; wxgate_session={token}\r\n\r\n").bytes());
        bytes
    };
    for path in ["/api/x", "/maybe/x"] {
        assert_eq!(site.raw(request(path, &token)).status, 200, "{path}");
        let seen = site.upstream.last();
        assert_eq!(seen.values("X-WX-OPENID"), [openid_of("alice")], "{path}");
        assert_clean(&seen, &[&token]);
        site.raw(request(path, "bad")).assert_refused(401, "invalid_token");
    }
}

#[test]
fn only_white_space_of_http_may_stand_around_a_cookies_name() {
    let site = site();
    let token = site.log_in("alice");
    for name in ["\u{a0}wxgate_session", "\u{3000}wxgate_session", "wxgate_session\u{85}"] {
        let cookie = format!("{name}={token}");
        let answer = site.get("/api/x").header("Cookie", &cookie).send();
        answer.assert_refused(401, "unauthorized");
    }
    let cookie = format!("wxgate_session=\u{a0}{token}");
    site.get("/api/x").header("Cookie", &cookie).send().assert_refused(401, "invalid_token");
}

#[test]
fn a_tab_after_bearer_hides_no_token() {
    let site = site();
    let token = site.log_in("alice");
    for path in ["/api/x", "/maybe/x", "/open/x"] {
        let request = site.get(path).header("Authorization", &format!("Bearer\t{token}"));
        assert_eq!(request.send().status, 200, "{path}");
        let seen = site.upstream.last();
        assert!(seen.values("Authorization").is_empty(), "{}", seen.raw());
        assert_clean(&seen, &[&token]);
    }
    let bad = site.get("/maybe/x").header("Authorization", "Bearer\tbad").send();
    bad.assert_refused(401, "invalid_token");
}

#[test]
fn a_token_of_ours_leaves_however_authorization_wraps_it() {
    let site = Site::start();
    let token = site.log_in("alice");
    for value in [
        format!("Basic YTpi, Bearer {token}"),
        format!("Bearer foreign, Bearer {token}"),
        format!("Bearer \"{token}\""),
        format!("Digest username=\"a\", token=\"{token}\""),
        format!("Bearer:{token}"),
        format!("Bearer <{token}>"),
        format!("({token})"),
        format!("[{{{token}}}]"),
        format!("Bearer |{token}|"),
        format!("Bearer x/{token}"),
        format!("Bearer `{token}"),
        format!("Bearer +{token}!"),
    ] {
        assert_eq!(site.get("/open/x").header("Authorization", &value).send().status, 200);
    }
    for seen in site.upstream.requests() {
        assert!(!seen.raw().contains(&token), "{}", seen.raw());
    }
}

#[test]
fn a_token_header_is_taken_off_whatever_stands_between_its_words() {
    for (configured, others) in [
        ("X_Session_Token", ["x_session_token", "X-Session-Token", "X.Session_Token"]),
        ("X.Session.Token", ["X.SESSION.TOKEN", "x-session-token", "X_Session_Token"]),
    ] {
        let places = format!("token_from = [\"header:{configured}\", \"cookie:wxgate_session\"]");
        let site = Site::with().session(&places).start();
        let token = site.log_in("alice");
        assert_eq!(site.get("/api/x").header(configured, &token).send().status, 200);
        for name in others {
            assert_eq!(site.get("/open/x").header(name, &token).send().status, 200, "{name}");
        }
        for seen in site.upstream.requests() {
            assert!(!seen.raw().contains(&token), "{configured}: {}", seen.raw());
        }
    }
}
