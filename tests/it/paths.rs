//! The path that was routed is the path that is forwarded, in one form.

use crate::harness::{Reply, Site};

const EVERYTHING: &str = "[[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"public\"\n";

#[test]
fn a_path_is_forwarded_in_the_form_that_was_routed() {
    let site = Site::with().routes(EVERYTHING).start();
    for (sent, forwarded) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        // Unreserved characters are decoded, nothing else is.
        ("/%61%41%7A%30%2D%5F%7E", "/aAz0-_~"),
        ("/%7e%2d%2e%5f", "/~-._"),
        ("/a%20b%3Fc%23d%25e", "/a%20b%3Fc%23d%25e"),
        ("/%e4%bd%a0", "/%e4%bd%a0"),
        ("/%E4%BD%A0", "/%E4%BD%A0"),
        ("/a%3Bb%2Cc%3D", "/a%3Bb%2Cc%3D"),
        ("/a%2500", "/a%2500"),
        ("/a%252e%252e/b", "/a%252e%252e/b"),
        ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
        // Repeated slashes are folded before dots are resolved.
        ("//", "/"),
        ("//a///b//", "/a/b/"),
        ("/a//../b", "/b"),
        ("/.", "/"),
        ("/./a/./b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/../../c", "/c"),
        ("/a/..", "/"),
        ("/%2e/a", "/a"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/a/.%2e", "/"),
        ("/...", "/..."),
        ("/a/..b/c..", "/a/..b/c.."),
        ("/.a/.b", "/.a/.b"),
        // Parameters are kept.
        ("/a;v=1/b;w", "/a;v=1/b;w"),
        ("/a;/b", "/a;/b"),
        // The query is passed as it came.
        ("/a?", "/a?"),
        ("/a?x=/../y//z", "/a?x=/../y//z"),
        ("/a?x=%2F%5C%00%zz&&=", "/a?x=%2F%5C%00%zz&&="),
        ("/a?b?c", "/a?b?c"),
        ("/a?x=`b`{}|^[]\\", "/a?x=`b`{}|^[]\\"),
        ("/a/../b?a/../b", "/b?a/../b"),
    ] {
        let answer = site.get(sent).send();
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(site.upstream.last().target, forwarded, "{sent}");
    }
}

#[test]
fn a_path_that_could_mean_two_things_is_refused() {
    let site = Site::with().routes(EVERYTHING).start();
    for sent in [
        "/a%2Fb",
        "/a%2fb",
        "/%2F",
        "/a%5Cb",
        "/a%5cb",
        "/a\\b",
        "/\\",
        "/..\\a",
        "/%00",
        "/a%00b",
        "/a%01b",
        "/a%0ab",
        "/a%0d%0aX-WX-OPENID:%20evil",
        "/a%1fb",
        "/a%7fb",
        "/%",
        "/%a",
        "/%zz",
        "/%2",
        "/a%",
        "/a%%20",
        "/%u0041",
        "/%-1",
        "/..",
        "/../a",
        "/a/../..",
        "/a/../../b",
        "/%2e%2e/a",
        "/.%2E/a",
        "/a/..//../b",
        "/./..",
        "/.;/a",
        "/..;/a",
        "/a/..;x=1/b",
        "/a/.;x",
        "/a/%2e%2e;/b",
        "/a/%2e;v=1/b",
        "/a/b/..;",
    ] {
        let answer = site.get(sent).send();
        assert_eq!(answer.status, 400, "{sent}: {}", answer.text());
        answer.assert_refused(400, "invalid_request");
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn no_spelling_of_a_guarded_path_gets_past_its_guard() {
    let site = Site::with()
        .routes(
            "[[routes]]\npath = \"/\"\nupstream = \"php\"\nauth = \"public\"\n\
             [[routes]]\npath = \"/admin/\"\nupstream = \"php\"\nauth = \"required\"\n\
             [[routes]]\npath = \"/report\"\nupstream = \"php\"\nauth = \"required\"\n",
        )
        .start();
    for path in [
        "/admin/x",
        "/admin//x",
        "//admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/%61dmin/x",
        "/admi%6E/x",
        "/admin/./x",
        "/admin/y/../x",
        "/%2e/admin/x",
        "/x/%2e%2e/admin/x",
        "/admin;a=b/x",
        "/admin;/x",
        "/;/admin/x",
        "/;a/admin/x",
        "/admin/x?public=1",
        "/report",
        "/%72eport",
        "/report;a=b",
        "/report;",
        "//report",
        "/x/../report",
        "/./report?x",
        "/report?/open/",
    ] {
        let answer = site.get(path).send();
        assert!(matches!(answer.status, 400 | 401), "{path}: {}", answer.status);
    }
    assert!(site.upstream.requests().is_empty(), "{:?}", site.upstream.requests());
}

#[test]
fn parameters_do_not_take_part_in_routing_but_reach_the_backend() {
    let site = Site::with()
        .routes("[[routes]]\npath = \"/a/b\"\nupstream = \"php\"\nauth = \"public\"\n")
        .start();
    for target in ["/a/b", "/a;x=1/b", "/a/b;jsessionid=7", "/a;/b;"] {
        assert_eq!(site.get(target).send().status, 200, "{target}");
        assert_eq!(site.upstream.last().target, target);
    }
    assert_eq!(site.get("/a;x/b;y/c").send().status, 404);
}

#[test]
fn a_fragment_is_no_part_of_a_request() {
    let site = Site::with().routes(EVERYTHING).start();
    for target in ["/a#b", "/a?x#/../admin", "/#"] {
        let answer = site.get(target).send();
        answer.assert_refused(400, "invalid_request");
    }
    assert!(site.upstream.requests().is_empty());
}

#[test]
fn method_status_headers_and_body_go_through_as_they_came() {
    let site = Site::start();
    site.upstream.answers(
        "/open/x",
        Reply::raw(
            "HTTP/1.1 418 I'm a teapot\r\nX-CamelCase: Yes\r\nx-lower: a\r\nX-Twice: 1\r\n\
             X-Twice: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: old\r\n\
             Content-Length: 3\r\n\r\n\u{0}\u{1}\u{2}",
        ),
    );
    let answer = site
        .request("PROPFIND", "/open/x")
        .header("X-CamelCase", "Yes")
        .header("x_under.score", "kept")
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .header("X-Empty", "")
        .header("Accept", "text/html, */*;q=0.1")
        .body(b"\x00\xff\x01")
        .send();
    assert_eq!(answer.status, 418);
    assert_eq!(answer.body, [0, 1, 2]);
    assert!(answer.headers.contains(&("X-CamelCase".into(), "Yes".into())), "{answer:?}");
    assert!(answer.headers.contains(&("x-lower".into(), "a".into())), "{answer:?}");
    assert_eq!(answer.values("X-Twice"), ["1", "2"]);
    assert_eq!(answer.values("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("Server"), Some("old"));
    let seen = site.upstream.last();
    assert_eq!(seen.method, "PROPFIND");
    assert_eq!(seen.body, b"\x00\xff\x01");
    assert!(seen.headers.contains(&("X-CamelCase".into(), "Yes".into())), "{}", seen.raw());
    assert!(seen.headers.contains(&("x_under.score".into(), "kept".into())), "{}", seen.raw());
    assert_eq!(seen.values("X-Twice"), ["1", "2"]);
    assert_eq!(seen.header("X-Empty"), Some(""));
    assert_eq!(seen.header("Accept"), Some("text/html, */*;q=0.1"));
    assert_eq!(seen.header("Host"), Some("shop.test"));
}

#[test]
fn hop_by_hop_headers_go_no_further_in_either_direction() {
    let site = Site::start();
    site.upstream.answers(
        "/open/x",
        Reply::raw(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\nX-End: 1\r\nContent-Length: 0\r\n\r\n",
        ),
    );
    let answer = site
        .get("/open/x")
        .header("Connection", "X-Hop, keep-alive, X-Other")
        .header("X-Hop", "1")
        .header("x-other", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic x")
        .header("TE", "trailers, deflate")
        .header("X-End", "1")
        .send();
    assert_eq!(answer.status, 200);
    let seen = site.upstream.last();
    for name in [
        "X-Hop",
        "X-Other",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Trailer",
    ] {
        assert!(seen.values(name).is_empty(), "{name}: {}", seen.raw());
    }
    assert_eq!(seen.header("X-End"), Some("1"));
    for name in ["X-Hop", "Keep-Alive", "Proxy-Authenticate"] {
        assert!(answer.values(name).is_empty(), "{name}: {answer:?}");
    }
    assert_eq!(answer.header("X-End"), Some("1"));
}

#[test]
fn a_connection_header_cannot_name_away_what_the_request_needs() {
    let site = Site::start();
    let token = site.log_in("alice");
    for named in [
        "Host",
        "Content-Length",
        "X-Request-Id",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-WX-OPENID",
        "X-WX-APPID",
    ] {
        let answer = site
            .post("/api/x")
            .header("Connection", &format!("keep-alive, {named}"))
            .bearer(&token)
            .body("body")
            .send();
        if answer.status == 400 {
            continue;
        }
        assert_eq!(answer.status, 200, "{named}");
        let seen = site.upstream.last();
        assert_eq!(seen.values(named).len(), 1, "{named} is gone: {}", seen.raw());
        assert_eq!(seen.body, b"body", "{named}");
    }
}

#[test]
fn what_clients_write_in_a_query_as_it_is_passes_and_nowhere_else() {
    let site = Site::start();
    let written = "/open/x?q={\"a\":[1,\"<b>\"]}|^`\\&c=\u{70b9}";
    let encoded = written.replace('"', "%22").replace('<', "%3C").replace('>', "%3E");
    let chunked = format!(
        "POST {written} HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    let mut connection = site.connect();
    for _ in 0..2 {
        assert_eq!(site.get(written).send_on(&mut connection).status, 200);
        // The full lane cannot but encode what RFC 3986 does not know.
        let target = site.upstream.last().target;
        assert!(target == written || target == encoded, "{target}");
        assert_eq!(connection.send(&chunked).answer().status, 200);
        assert_eq!(site.upstream.last().target, encoded);
    }
    for target in ["/open/\"", "/open/<x>?a", "/open/x>", "/open/x?a=#", "/open/`"] {
        site.get(target).send().assert_refused(400, "invalid_request");
    }
    site.get("/api/x?q=\"<>\"").send().assert_refused(401, "unauthorized");
}
