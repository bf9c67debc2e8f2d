"""Each backend sees exactly one openid, the right one, whatever the caller sends."""

import http.client
from collections.abc import Callable

from rig.backends import ApacheFpm, NginxFpm, PhpBuiltIn, Seen, Tomcat
from rig.client import Answer, exchange, request
from rig.gateway import APPID
from stage import BackendTests

EVIL = "oForgedForgedForgedForged000"

# Every way to say X-WX-OPENID that some server takes for it, and what may confuse the gateway.
Forged = list[tuple[str, str]]
FORGERIES: dict[str, Forged] = {
    "as it is": [("X-WX-OPENID", EVIL)],
    "lower case": [("x-wx-openid", EVIL)],
    "underscores": [("x_wx_openid", EVIL)],
    "underscores, upper case": [("X_WX_OPENID", EVIL)],
    "dots": [("X.WX.OPENID", EVIL)],
    "mixed, dash and underscore": [("X-WX_OPENID", EVIL)],
    "mixed, underscore and dash": [("X_WX-OPENID", EVIL)],
    "mixed, dot and underscore": [("X.WX_OPENID", EVIL)],
    "other bytes that are no letters": [("X!WX~OPENID", EVIL), ("X+WX'OPENID", EVIL)],
    "twice": [("X-WX-OPENID", EVIL), ("X-WX-OPENID", EVIL)],
    "twice, in two spellings": [("X-WX-OPENID", EVIL), ("x-wx-openid", EVIL)],
    "five spellings at once": [
        ("x-wx-openid", EVIL), ("X_WX_OPENID", EVIL), ("X.WX.OPENID", EVIL),
        ("X-WX_OPENID", EVIL), ("X-Wx-OpenId", EVIL),
    ],
    "an empty one before it": [("X-WX-OPENID", ""), ("X-WX-OPENID", EVIL)],
    "named as hop-by-hop": [("Connection", "X-WX-OPENID")],
    "named as hop-by-hop, and sent": [("Connection", "X-WX-OPENID"), ("X-WX-OPENID", EVIL)],
    "all named as hop-by-hop": [
        ("Connection", "keep-alive, x-wx-openid, X-WX-APPID,X-WX-UNIONID"),
        ("x_wx_openid", EVIL),
    ],
    "the other names": [("X-WX-APPID", EVIL), ("x_wx_unionid", EVIL), ("X.WX.APPID", EVIL)],
    "the whole reserved prefix": [("X-WX-SOURCE", EVIL), ("X_WX_FROM_OPENID", EVIL)],
}


def folded(name: str) -> str:
    """The name as the sloppiest server reads it."""
    return "".join(byte if byte.isalnum() else "-" for byte in name.lower())


def identity(seen: Seen) -> list[tuple[str, str]]:
    """What the backend takes for identity headers, sorted."""
    pairs = [(folded(name), value) for name, value in seen]
    return sorted(pair for pair in pairs if pair[0].startswith("x-wx-"))


class Identity:
    """The tests; the classes below name the backend."""

    def seen(self, path: str, headers: Forged) -> list[tuple[str, str]]:
        """What the backend saw as identity, after nothing forged was found anywhere."""
        answer = request(self.gateway.port, "GET", path + self.backend.echo[1:], headers)
        self.assertEqual(answer.status, 200, answer.text())
        self.assertNotIn(EVIL, answer.text())
        return identity(self.backend.headers(answer))

    def alices(self) -> list[tuple[str, str]]:
        """What the backend is to see of alice."""
        return [
            ("x-wx-appid", APPID),
            ("x-wx-openid", self.alice.openid),
            ("x-wx-unionid", self.alice.unionid),
        ]

    def each_forgery(self, judge: Callable[[Forged], None]) -> None:
        """Tries every forged header list."""
        for name, forged in FORGERIES.items():
            with self.subTest(forged=name):
                judge(forged)

    def test_asked_directly_this_backend_believes_a_forged_header(self) -> None:
        """The control: without the gateway the forgery works, so the tests below can fail."""
        answer = request(self.backend.port, "GET", self.backend.echo, FORGERIES["as it is"])
        self.assertEqual(identity(self.backend.headers(answer)), [("x-wx-openid", EVIL)])

    def test_on_a_required_route_it_sees_the_caller_alone(self) -> None:
        def judge(forged: Forged) -> None:
            bearer = self.alice.bearer
            self.assertEqual(self.seen("/required/", [*forged, bearer]), self.alices())
            self.assertEqual(self.seen("/required/", [bearer, *forged]), self.alices())

        self.each_forgery(judge)

    def test_a_required_route_refuses_who_shows_no_token(self) -> None:
        def judge(forged: Forged) -> None:
            path = "/required" + self.backend.echo
            answer = request(self.gateway.port, "GET", path, forged)
            self.assertEqual((answer.status, answer.json()["error"]), (401, "unauthorized"))
            self.assertEqual(answer.header("WWW-Authenticate"), 'Bearer realm="wxgate"')

        self.each_forgery(judge)

    def test_on_an_optional_route_it_sees_whoever_logged_in(self) -> None:
        def judge(forged: Forged) -> None:
            seen = self.seen("/optional/", [*forged, self.alice.bearer])
            self.assertEqual(seen, self.alices())

        self.each_forgery(judge)

    def test_on_an_optional_route_it_sees_nobody_where_a_guest_calls(self) -> None:
        self.each_forgery(
            lambda forged: self.assertEqual(self.seen("/optional/", forged), [])
        )

    def test_a_bad_token_on_an_optional_route_is_no_guest(self) -> None:
        bearer = ("Authorization", self.alice.bearer[1][:-4] + "AAAA")
        answer = request(self.gateway.port, "GET", "/optional" + self.backend.echo, [bearer])
        self.assertEqual((answer.status, answer.json()["error"]), (401, "invalid_token"))

    def test_on_a_public_route_it_sees_nobody_logged_in_or_not(self) -> None:
        def judge(forged: Forged) -> None:
            self.assertEqual(self.seen("/public/", forged), [])
            self.assertEqual(self.seen("/public/", [*forged, self.alice.bearer]), [])

        self.each_forgery(judge)

    def test_it_never_sees_the_gateways_token(self) -> None:
        places = {
            "authorization": self.alice.bearer,
            "cookie": ("Cookie", f"a=1; wxgate_session={self.alice.token}; b=2"),
            "header": ("X-Session-Token", self.alice.token),
        }
        for name, header in places.items():
            for path in ("/required/", "/optional/", "/public/"):
                with self.subTest(place=name, path=path):
                    answer = request(
                        self.gateway.port, "GET", path + self.backend.echo[1:], [header]
                    )
                    self.assertEqual(answer.status, 200, answer.text())
                    self.assertNotIn(self.alice.token, answer.text())
                    self.assertNotIn(self.alice.token.rsplit(".", 1)[1], answer.text())

    def test_two_users_and_a_guest_on_one_connection_are_never_taken_for_each_other(self) -> None:
        bob = self.gateway.log_in("bob")
        self.assertNotEqual(bob.openid, self.alice.openid)
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        self.addCleanup(connection.close)
        connection.connect()
        kept = connection.sock
        for user in (self.alice, None, bob, self.alice, bob, None) * 4:
            headers = dict([user.bearer]) if user else {}
            connection.request("GET", "/optional" + self.backend.echo, headers=headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.getheaders(), response.read())
            seen = dict(identity(self.backend.headers(answer)))
            self.assertEqual(seen.get("x-wx-openid"), user.openid if user else None)
            self.assertIs(connection.sock, kept, "the connection was not kept")

    def test_bytes_that_no_http_library_sends_do_not_become_an_identity(self) -> None:
        lines = {
            "a space before the colon": f"X-WX-OPENID : {EVIL}",
            "spaces in the name": f"X WX OPENID: {EVIL}",
            "a folded line": f"X-Note: a\r\n X-WX-OPENID: {EVIL}",
            "a bare line feed": f"X-Note: a\nX-WX-OPENID: {EVIL}",
            "a bare carriage return": f"X-Note: a\rX-WX-OPENID: {EVIL}",
            "a NUL in the name": f"X-WX\0OPENID: {EVIL}",
            "a byte over 127 in the name": f"X\xadWX\xadOPENID: {EVIL}",
        }
        for name, line in lines.items():
            for path, expected in (("/public/", []), ("/required/", self.alices())):
                with self.subTest(line=name, path=path):
                    sent = (
                        f"GET {path}{self.backend.echo[1:]} HTTP/1.1\r\nHost: localhost\r\n"
                        f"{': '.join(self.alice.bearer)}\r\n{line}\r\n"
                        "Connection: close\r\n\r\n"
                    )
                    answer = exchange(self.gateway.port, sent.encode("latin-1"))
                    if answer is not None and answer.status != 400:
                        self.assertEqual(identity(self.backend.headers(answer)), expected)

    def test_a_trailer_does_not_become_an_identity(self) -> None:
        for path, expected in (("/public/", []), ("/required/", self.alices())):
            with self.subTest(path=path):
                sent = (
                    f"POST {path}{self.backend.echo[1:]} HTTP/1.1\r\nHost: localhost\r\n"
                    f"{': '.join(self.alice.bearer)}\r\nTransfer-Encoding: chunked\r\n"
                    "Trailer: X-WX-OPENID, x_wx_openid\r\nConnection: close\r\n\r\n"
                    f"3\r\nabc\r\n0\r\nX-WX-OPENID: {EVIL}\r\nx_wx_openid: {EVIL}\r\n\r\n"
                )
                answer = exchange(self.gateway.port, sent.encode())
                self.assertIsNotNone(answer)
                self.assertEqual(identity(self.backend.headers(answer)), expected)
                self.assertNotIn(EVIL, answer.text())



class PhpBuiltInServer(Identity, BackendTests):
    """php -S"""

    backend_type = PhpBuiltIn


class NginxAndPhpFpm(Identity, BackendTests):
    """nginx and php-fpm, odd header names let through"""

    backend_type = NginxFpm


class ApacheAndPhpFpm(Identity, BackendTests):
    """Apache and php-fpm"""

    backend_type = ApacheFpm


class TomcatRequestHeaderExample(Identity, BackendTests):
    """Tomcat's RequestHeaderExample servlet"""

    backend_type = Tomcat


class PhpBuiltInServerInTheFullLane(PhpBuiltInServer):
    """the same with fast_lane = false"""

    lane = "full"


class NginxAndPhpFpmInTheFullLane(NginxAndPhpFpm):
    """the same with fast_lane = false"""

    lane = "full"


class ApacheAndPhpFpmInTheFullLane(ApacheAndPhpFpm):
    """the same with fast_lane = false"""

    lane = "full"


class TomcatRequestHeaderExampleInTheFullLane(TomcatRequestHeaderExample):
    """the same with fast_lane = false"""

    lane = "full"
