"""nginx, Caddy and Traefik ask the gateway about every request, set up as docs/forward-auth.md has it."""

import re
import sys
import unittest
from pathlib import Path

from rig.backends import PHP_PAGES, REPOSITORY, Fpm, PhpBackend, PhpBuiltIn, _program
from rig.client import Answer, request
from rig.gateway import Gateway
from rig.process import Process, await_that, free_port
from stage import Stage

HOST = "shop.example.com"
ROUTES = f"""
[[routes]]
name = "guarded"
path = "/"
upstream = "backend"
auth = "required"

[[routes]]
name = "open"
path = "/open/"
upstream = "backend"
auth = "public"

[[routes]]
name = "guests"
path = "/maybe/"
upstream = "backend"
auth = "optional"

[[routes]]
name = "read"
path = "/read/"
methods = ["GET"]
upstream = "backend"
auth = "public"

[[routes]]
name = "staff"
host = "staff.example.com"
path = "/open/"
upstream = "backend"
auth = "required"
allow = {{ scope = ["phone"] }}
"""


def documented(language: str) -> str:
    """The configuration that the document shows in this language."""
    page = (REPOSITORY / "docs/forward-auth.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)
    assert len(found) == 1, language
    return found[0]


def changed(text: str, changes: dict[str, str]) -> str:
    """The same with the addresses of a test."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Nginx:
    """nginx with auth_request, in front of php-fpm."""

    def __init__(self, folder: Path, gateway: int) -> None:
        self.fpm = Fpm(folder / "fpm")
        self.port = free_port()
        place = folder / "nginx"
        place.mkdir()
        server = changed(documented("nginx"), {
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "server_name shop.example.com;": "server_name shop.example.com staff.example.com;",
            "/srv/shop": str(PHP_PAGES),
            "127.0.0.1:8080": f"127.0.0.1:{gateway}",
            "/run/php/php-fpm.sock": str(self.fpm.socket),
            # Every path is the same page, so that odd ones are seen to arrive or not.
            "$document_root$fastcgi_script_name": f"{PHP_PAGES}/echo.php",
        })
        temporary = "".join(
            f"{kind}_temp_path {place}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (place / "nginx.conf").write_text(
            f"user root;\ndaemon off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n"
            f"events {{}}\nhttp {{\n{temporary}access_log off;\n{server}}}\n"
        )
        argv = [_program("/usr/sbin/nginx"), "-p", str(place), "-c", str(place / "nginx.conf"),
                "-e", str(place / "error.log")]
        self.server = Process(place, argv)
        self.server.await_port(self.port)

    def stop(self) -> None:
        """Ends both."""
        self.server.stop()
        self.fpm.stop()


class Caddy:
    """Caddy with forward_auth, in front of php-fpm."""

    def __init__(self, folder: Path, gateway: int) -> None:
        self.fpm = Fpm(folder / "fpm")
        self.port = free_port()
        place = folder / "caddy"
        place.mkdir()
        site = changed(documented("caddyfile"), {
            "http://shop.example.com {": f"http://shop.example.com:{self.port}, "
                                         f"http://staff.example.com:{self.port} {{",
            "/srv/shop": str(PHP_PAGES),
            "127.0.0.1:8080": f"127.0.0.1:{gateway}",
            "unix//run/php/php-fpm.sock": f"unix/{self.fpm.socket}",
            "\t\troot *": "\t\trewrite * /echo.php\n\t\troot *",
        })
        (place / "Caddyfile").write_text(
            f"{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\tpersist_config off\n}}\n{site}"
        )
        caddy = str(Path(sys.executable).parent / "caddy")
        argv = [caddy, "run", "--config", str(place / "Caddyfile"), "--adapter", "caddyfile"]
        home = {"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
        self.server = Process(place, argv, home)
        self.server.await_port(self.port)

    def stop(self) -> None:
        """Ends both."""
        self.server.stop()
        self.fpm.stop()


class Traefik:
    """Traefik with forwardAuth, in front of PHP's own server."""

    def __init__(self, folder: Path, gateway: int) -> None:
        self.php = PhpBuiltIn(folder, str(PHP_PAGES / "echo.php"))
        self.port = free_port()
        place = folder / "traefik"
        place.mkdir()
        (place / "dynamic.yml").write_text(changed(documented("yaml"), {
            "127.0.0.1:8080": f"127.0.0.1:{gateway}",
            "127.0.0.1:8081": f"127.0.0.1:{self.php.port}",
        }))
        traefik = str(Path(sys.executable).parent / "traefik")
        argv = [traefik, f"--entrypoints.web.address=127.0.0.1:{self.port}",
                f"--providers.file.filename={place}/dynamic.yml", "--log.level=WARN",
                *documented("text").split(),
                "--global.checknewversion=false", "--global.sendanonymoususage=false"]
        self.server = Process(place, argv)
        self.server.await_port(self.port)
        # It listens before it has read the routers.
        await_that(lambda: request(self.port, "GET", "/wx/session").status == 401, "it routes")

    def stop(self) -> None:
        """Ends both."""
        self.server.stop()
        self.php.stop()


# A name for every way in which PHP could come to see the same variable, and odd cases of them.
FORGED = [
    ("X-WX-OPENID", "oForged-1"), ("x-wx-openid", "oForged-2"), ("X_WX_OPENID", "oForged-3"),
    ("X-WX_OPENID", "oForged-4"), ("X_WX-OPENID", "oForged-5"), ("x_wx_openid", "oForged-6"),
    ("X_Wx_Openid", "oForged-7"), ("X.WX.OPENID", "oForged-8"), ("X-WX-UNIONID", "oForged-9"),
    ("X_WX_UNIONID", "oForged-10"),
]
# What a client could say of the request that is asked about.
LIES = [
    ("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/open/echo.php"),
    ("X-Forwarded-Host", HOST), ("X-Original-URI", "/open/echo.php"),
    ("X-Original-Method", "GET"), ("X_Forwarded_Uri", "/open/echo.php"),
]


class InFront:
    """What holds whichever proxy is in front."""

    proxy_type: type

    @classmethod
    def setUpClass(cls) -> None:
        folder = Stage.folder(cls.__name__)
        tap, sandbox = Stage.wechat()

        def adapt(text: str) -> str:
            text = text.replace("[login]\n", "[login]\nverify = true\n")
            text = text.replace("[server]\n", '[server]\ntrusted_proxies = ["127.0.0.1/32"]\n')
            return text[: text.index("\n[[routes]]")] + ROUTES

        # Nothing may ever be sent to it.
        nobody = f"127.0.0.1:{free_port()}"
        cls.gateway = Gateway(folder / "gateway", tap, sandbox, nobody, "fast", adapt)
        cls.addClassCleanup(cls.gateway.stop)
        cls.proxy = cls.proxy_type(folder, cls.gateway.port)
        cls.addClassCleanup(cls.proxy.stop)
        cls.alice = cls.gateway.log_in("alice")

    def ask(self, method: str, path: str, headers=(), host: str = HOST) -> Answer:
        """A client's request to the proxy."""
        body = b"a=b" if method == "POST" else None
        return request(self.proxy.port, method, path, [("Host", host), *headers], body)

    def identity(self, answer: Answer) -> dict[str, str]:
        """What PHP saw of the caller, empty values left out."""
        seen = PhpBackend.headers(answer)
        return {name: value for name, value in seen if "WX" in name and value}

    def test_alice_arrives_as_alice(self) -> None:
        for path in ("/echo.php", "/maybe/echo.php", "/a/../echo.php?next=/open/"):
            answer = self.ask("GET", path, [self.alice.bearer, *FORGED])
            told = {"X_WX_OPENID": self.alice.openid, "X_WX_APPID": self.alice.appid,
                    "X_WX_UNIONID": self.alice.unionid}
            self.assertEqual(self.identity(answer), told, path)
        # Who sends X-Original-URI may contradict the proxy, and is refused then.
        lies = [(name, value) for name, value in LIES if name != "X-Original-URI"]
        posted = self.ask("POST", "/echo.php", [self.alice.bearer, *lies,
                          ("Content-Type", "application/x-www-form-urlencoded")])
        self.assertEqual(self.identity(posted)["X_WX_OPENID"], self.alice.openid)
        self.assertEqual(posted.json()["post"], {"a": "b"}, "the body goes to PHP")

    def test_who_is_nobody_stays_nobody(self) -> None:
        for path in ("/open/echo.php", "/maybe/echo.php", "/read/echo.php"):
            self.assertEqual(self.identity(self.ask("GET", path, FORGED)), {}, path)
        alice = [self.alice.bearer, *FORGED]
        self.assertEqual(self.identity(self.ask("GET", "/open/echo.php", alice)), {})

    def test_policy_is_that_of_the_original_request(self) -> None:
        for headers in ([], LIES, FORGED):
            for method, path, status in (
                ("GET", "/echo.php", 401),
                ("POST", "/echo.php", 401),
                ("GET", "/open/../echo.php", 401),
                ("GET", "/open/%2e%2e/echo.php", 401),
                ("GET", "//echo.php", 401),
                ("POST", "/read/echo.php", 403),
            ):
                answer = self.ask(method, path, headers)
                # Who contradicts the proxy is refused, where the proxy lets it through.
                allowed = {status, 403} if headers is LIES else {status}
                self.assertIn(answer.status, allowed, (method, path))
                self.assertNotIn(b'"server"', answer.body, "PHP was not asked")
        bad = ("Authorization", "Bearer bad")
        self.assertEqual(self.ask("GET", "/maybe/echo.php", [bad]).status, 401)
        staff = self.ask("GET", "/open/echo.php", [self.alice.bearer, *LIES], "staff.example.com")
        self.assertEqual(staff.status, 403)
        self.assertEqual(self.ask("GET", "/open/echo.php", [], "staff.example.com").status, 401)

    def test_a_login_goes_through_to_the_gateway_and_verify_says_nothing_to_clients(self) -> None:
        answer = self.ask("POST", "/wx/auth", [("Content-Type", "application/x-www-form-urlencoded")])
        self.assertEqual((answer.status, answer.json()["error"]), (400, "invalid_request"))
        asked = self.ask("GET", "/wx/session", [self.alice.bearer])
        self.assertEqual(asked.json()["openid"], self.alice.openid)
        # A client that asks is told about itself at most.
        told = self.ask("GET", "/wx/verify", [("X-Forwarded-Uri", "/echo.php")])
        self.assertIn(told.status, (400, 401, 403))
        self.assertEqual(told.all("X-WX-OPENID"), [])


class NginxAuthRequest(InFront, unittest.TestCase):
    """nginx"""

    proxy_type = Nginx


class CaddyForwardAuth(InFront, unittest.TestCase):
    """Caddy"""

    proxy_type = Caddy


class TraefikForwardAuth(InFront, unittest.TestCase):
    """Traefik"""

    proxy_type = Traefik
