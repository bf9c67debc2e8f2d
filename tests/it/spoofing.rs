//! No client can say who it is but by a token.

use crate::harness::client::Request;
use crate::harness::wechat::{APPID, openid_of, unionid_of};
use crate::harness::{Recorded, Site};

const EVIL: &str = "oevil_______________________";

/// Names that PHP, a WSGI server or a sloppy framework may take for `X-WX-OPENID` and its like.
const SPELLINGS: [&str; 34] = [
    "X-WX-OPENID",
    "x-wx-openid",
    "X-Wx-Openid",
    "x-WX-OpenId",
    "X_WX_OPENID",
    "x_wx_openid",
    "X-WX_OPENID",
    "X_WX-OPENID",
    "x-wx_openid",
    "X.WX.OPENID",
    "x.wx.openid",
    "X.WX_OPENID",
    "X-WX.OPENID",
    "X_WX.OPENID",
    "X~WX~OPENID",
    "X!WX!OPENID",
    "X#WX#OPENID",
    "X$WX$OPENID",
    "X%WX%OPENID",
    "X&WX&OPENID",
    "X'WX'OPENID",
    "X*WX*OPENID",
    "X+WX+OPENID",
    "X^WX^OPENID",
    "X`WX`OPENID",
    "X|WX|OPENID",
    "X-WX-APPID",
    "x_wx_appid",
    "X-WX-UNIONID",
    "X.WX.UNIONID",
    "X-WX-ANYTHING",
    "x_wx_source",
    "X-WX-",
    "X.Wx.Phone",
];

/// The identity headers that the backend got, in whatever spelling.
fn identity(seen: &Recorded) -> Vec<(String, String)> {
    let folded = |name: &str| -> String {
        let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        name.chars().map(fold).collect()
    };
    let ours = |(name, _): &&(String, String)| folded(name).starts_with("x-wx-");
    let mut found: Vec<(String, String)> = seen.headers.iter().filter(ours).cloned().collect();
    found.sort();
    found
}

fn of_alice() -> Vec<(String, String)> {
    vec![
        ("X-WX-APPID".to_owned(), APPID.to_owned()),
        ("X-WX-OPENID".to_owned(), openid_of("alice")),
    ]
}

/// Sends `request` as a guest and as alice, on every kind of route, and asserts that the backend
/// sees exactly who was proven.
#[track_caller]
fn assert_nobody_is_fooled(
    site: &Site,
    token: &str,
    what: &str,
    spoof: impl Fn(Request) -> Request,
) {
    for (path, with_token, expected) in [
        ("/api/x", true, of_alice()),
        ("/maybe/x", true, of_alice()),
        ("/maybe/x", false, vec![]),
        ("/open/x", false, vec![]),
        ("/open/x", true, vec![]),
    ] {
        site.upstream.forget();
        let mut request = spoof(site.get(path));
        if with_token {
            request = request.bearer(token);
        }
        let answer = request.send();
        if answer.status == 400 {
            assert!(site.upstream.requests().is_empty());
            continue;
        }
        assert_eq!(answer.status, 200, "{what} at {path}: {}", answer.text());
        let seen = site.upstream.last();
        assert_eq!(identity(&seen), expected, "{what} at {path}: {}", seen.raw());
        assert!(!seen.raw().contains(EVIL), "{what} at {path}: {}", seen.raw());
    }
}

#[test]
fn every_spelling_of_an_identity_header_is_removed() {
    let site = Site::start();
    let token = site.log_in("alice");
    for name in SPELLINGS {
        assert_nobody_is_fooled(&site, &token, name, |request| request.header(name, EVIL));
    }
}

#[test]
fn duplicates_in_one_or_several_spellings_are_all_removed() {
    let site = Site::start();
    let token = site.log_in("alice");
    for names in [
        ["X-WX-OPENID", "X-WX-OPENID", "X-WX-OPENID"],
        ["X-WX-OPENID", "x-wx-openid", "X_WX_OPENID"],
        ["x_wx_openid", "X.WX.OPENID", "X-WX-APPID"],
    ] {
        assert_nobody_is_fooled(&site, &token, &format!("{names:?}"), |mut request| {
            for name in names {
                request = request.header(name, EVIL);
            }
            request
        });
    }
}

#[test]
fn a_spoofed_header_after_the_token_is_removed_too() {
    let site = Site::start();
    let token = site.log_in("alice");
    for name in ["X-WX-OPENID", "X_WX_OPENID", "x.wx.openid"] {
        let request = site.get("/api/x").bearer(&token).header(name, EVIL).header(name, EVIL);
        assert_eq!(request.send().status, 200);
        assert_eq!(identity(&site.upstream.last()), of_alice(), "{name}");
    }
}

#[test]
fn names_with_white_space_are_refused_or_removed() {
    let site = Site::start();
    let token = site.log_in("alice");
    for name in ["X-WX-OPENID ", " X-WX-OPENID", "X WX OPENID", "X-WX-OPENID\t", "\tX-WX-OPENID"] {
        assert_nobody_is_fooled(&site, &token, name, |request| request.header(name, EVIL));
    }
}

#[test]
fn a_connection_header_cannot_name_the_identity_away() {
    let site = Site::start();
    let token = site.log_in("alice");
    for connection in [
        "X-WX-OPENID",
        "x-wx-openid",
        "close, X-WX-OPENID",
        "X-WX-OPENID, X-WX-APPID, X-WX-UNIONID",
        "X_WX_OPENID",
        "keep-alive,x-wx-openid ,x-wx-appid",
    ] {
        assert_nobody_is_fooled(&site, &token, connection, |request| {
            request.header("Connection", connection).header("X-WX-OPENID", EVIL)
        });
        assert_nobody_is_fooled(&site, &token, connection, |request| {
            request.header("Connection", connection)
        });
    }
}

#[test]
fn two_connection_headers_cannot_either() {
    let site = Site::start();
    let token = site.log_in("alice");
    assert_nobody_is_fooled(&site, &token, "two Connection headers", |request| {
        request.header("Connection", "X-WX-OPENID").header("Connection", "X-WX-APPID")
    });
}

#[test]
fn trailers_carry_no_identity() {
    let site = Site::start();
    let token = site.log_in("alice");
    for (path, authorization, expected) in [
        ("/api/x", format!("Authorization: Bearer {token}\r\n"), of_alice()),
        ("/maybe/x", String::new(), vec![]),
        ("/open/x", String::new(), vec![]),
    ] {
        for trailer in ["X-WX-OPENID", "x_wx_openid", "X-Other"] {
            site.upstream.forget();
            let answer = site.raw(format!(
                "POST {path} HTTP/1.1\r\nHost: shop.test\r\n{authorization}TE: trailers\r\n\
                 Trailer: {trailer}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\nbody\r\n0\r\n{trailer}: {EVIL}\r\n\r\n"
            ));
            if answer.status == 400 {
                continue;
            }
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let seen = site.upstream.last();
            assert_eq!(seen.body, b"body");
            assert!(seen.trailers.is_empty(), "{:?}", seen.trailers);
            assert_eq!(identity(&seen), expected);
            assert!(!seen.raw().contains(EVIL), "{}", seen.raw());
        }
    }
}

#[test]
fn a_line_that_is_folded_or_hidden_carries_no_identity() {
    let site = Site::start();
    let token = site.log_in("alice");
    for lines in [
        format!("X-Other: a\r\n X-WX-OPENID: {EVIL}\r\n"),
        format!("X-Other: a\nX-WX-OPENID: {EVIL}\r\n"),
        format!("X-Other: a\rX-WX-OPENID: {EVIL}\r\n"),
        format!("X-Other: a\r\nX-WX-OPENID\r\n: {EVIL}\r\n"),
        format!("X-Other: a\r\nX-WX-OPENID\u{0}: {EVIL}\r\n"),
        format!("X-Other: a\u{0}\r\nX-WX-OPENID: {EVIL}\r\n"),
    ] {
        site.upstream.forget();
        let mut connection = site.connect();
        connection.send(format!(
            "GET /api/x HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
        ));
        let answer = connection.answer();
        assert!(matches!(answer.status, 200 | 400), "{lines:?}: {}", answer.status);
        for seen in site.upstream.requests() {
            assert_eq!(identity(&seen), of_alice(), "{lines:?}");
            assert_eq!(seen.php("HTTP_X_WX_OPENID"), Some(openid_of("alice").as_str()));
        }
    }
}

#[test]
fn php_sees_the_right_openid_whatever_else_is_sent() {
    let site = Site::start();
    let token = site.log_in("alice");
    for name in SPELLINGS {
        let answer = site.get("/api/x").header(name, EVIL).bearer(&token).header(name, EVIL).send();
        assert_eq!(answer.status, 200, "{name}");
        let seen = site.upstream.last();
        let openid = openid_of("alice");
        assert_eq!(seen.php("HTTP_X_WX_OPENID"), Some(openid.as_str()), "{name}");
        assert_eq!(seen.php("HTTP_X_WX_APPID"), Some(APPID), "{name}");
        assert_eq!(seen.php("HTTP_X_WX_UNIONID"), None, "{name}");
    }
}

#[test]
fn names_that_only_look_a_little_alike_pass() {
    let site = Site::start();
    for name in ["XWX-OPENID", "X-WXOPENID", "X-W-X-OPENID", "WX-OPENID", "Y-WX-OPENID", "X-WX"] {
        site.get("/open/x").header(name, "kept").send();
        assert_eq!(site.upstream.last().header(name), Some("kept"), "{name}");
    }
}

#[test]
fn configured_names_are_guarded_like_the_usual_ones() {
    let site = Site::with()
        .identity("openid = \"Remote-User\"")
        .identity("appid = \"X-App\"")
        .identity("unionid = \"X-Union\"")
        .identity("session = \"X-Session\"")
        .identity("reserved_prefixes = [\"X-WX-\", \"X-Corp-\"]")
        .start();
    let body = site.auth(&site.wechat.code_with_unionid_of("alice")).json();
    let token = body["access_token"].as_str().unwrap();
    let sid = crate::harness::token::decode(token).1["sid"].as_str().unwrap().to_owned();
    let names = [
        "Remote-User",
        "remote_user",
        "REMOTE.USER",
        "X-App",
        "x_app",
        "X-Union",
        "X.Union",
        "X-Session",
        "x-session",
        "X-Corp-Role",
        "x_corp_role",
        "X-WX-OPENID",
    ];
    for path in ["/api/x", "/maybe/x", "/open/x"] {
        let mut request = site.get(path);
        for name in names {
            request = request.header(name, EVIL);
        }
        assert_eq!(request.bearer(token).send().status, 200);
        let seen = site.upstream.last();
        assert!(!seen.raw().contains(EVIL), "{path}: {}", seen.raw());
        if path == "/open/x" {
            for name in ["Remote-User", "X-App", "X-Union", "X-Session"] {
                assert!(seen.values(name).is_empty(), "{name}: {}", seen.raw());
            }
            continue;
        }
        assert_eq!(seen.values("Remote-User"), [openid_of("alice")]);
        assert_eq!(seen.values("X-App"), [APPID]);
        assert_eq!(seen.values("X-Union"), [unionid_of("alice")]);
        assert_eq!(seen.header("X-Session"), Some(sid.as_str()));
        assert!(seen.headers.iter().any(|(name, _)| name == "Remote-User"), "{}", seen.raw());
    }
}

#[test]
fn nothing_but_its_route_switches_a_requests_authentication_off() {
    let site = Site::start();
    for (method, headers) in [
        ("OPTIONS", vec![("Origin", "https://x.test"), ("Access-Control-Request-Method", "GET")]),
        ("HEAD", vec![]),
        ("POST", vec![("X-HTTP-Method-Override", "GET")]),
        ("GET", vec![("Upgrade", "websocket"), ("Connection", "Upgrade")]),
        ("GET", vec![("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings")]),
        ("GET", vec![("User-Agent", "GoogleHC/1.0")]),
        ("GET", vec![("User-Agent", "kube-probe/1.30")]),
        ("GET", vec![("X-Original-URL", "/open/x")]),
        ("GET", vec![("X-Rewrite-URL", "/open/x")]),
        ("GET", vec![("X-Forwarded-Uri", "/open/x")]),
        ("GET", vec![("X-Forwarded-For", "127.0.0.1")]),
        ("GET", vec![("X-Real-IP", "127.0.0.1")]),
        ("GET", vec![("X-Forwarded-Host", "open.test")]),
        ("GET", vec![("X-Forwarded-Proto", "https")]),
        ("GET", vec![("Forwarded", "for=127.0.0.1;host=open.test")]),
        ("GET", vec![("X-Auth-Skip", "1"), ("X-Authenticated", "true")]),
        ("GET", vec![("X-WX-OPENID", EVIL)]),
        ("GET", vec![("Authorization", "Basic YWxpY2U6c2VjcmV0")]),
        ("GET", vec![("Cookie", "wxgate=1")]),
        ("PROPFIND", vec![]),
    ] {
        for path in ["/api/x", "/api/x?auth=off", "/api/x?wxgate=public&token="] {
            let mut request = site.request(method, path);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            let answer = request.send();
            assert_eq!(answer.status, 401, "{method} {path} {headers:?}: {}", answer.text());
        }
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn look_alikes_of_framing_headers_do_not_reach_the_backend() {
    let site = Site::start();
    for name in [
        "Content_Length",
        "content.length",
        "Transfer_Encoding",
        "Transfer.Encoding",
        "Proxy",
        "proxy",
    ] {
        let answer = site.get("/open/x").header(name, "5").send();
        assert!(matches!(answer.status, 200 | 400), "{name}");
        if answer.status == 200 {
            let seen = site.upstream.last();
            assert!(seen.values(name).is_empty(), "{name}: {}", seen.raw());
        }
    }
}
