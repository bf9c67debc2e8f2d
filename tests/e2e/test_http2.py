"""HTTP/2 between the gateway and programs that others wrote: clients in front, nginx behind."""

import hashlib
import json
import os
import re
import ssl
import subprocess
import unittest
from pathlib import Path

from rig.backends import NginxFpm
from rig.gateway import Gateway
from stage import Stage

REQUESTS = 2000


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key, signed by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = (folder / "cert.pem", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-days", "30",
         # What an authority signs with is not shown by a server: rustls refuses that.
         "-addext", "basicConstraints=critical,CA:FALSE", "-out", str(pair[0]), "-keyout", str(pair[1])],
        check=True, capture_output=True,
    )
    return pair


class NginxHttp2(NginxFpm):
    """nginx and php-fpm within TLS, HTTP/2 by ALPN."""

    name = "backend.test"

    def tls(self, place: Path) -> str:
        self.certificate, key = certificate(place, self.name)
        return f" ssl http2; ssl_certificate {self.certificate}; ssl_certificate_key {key}"


class Http2(unittest.TestCase):
    """nginx behind it over HTTP/1.1 and over HTTP/2, curl and h2load in front"""

    lane = "fast"

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Stage.folder(cls.__name__)
        cls.backend, cls.modern = NginxFpm(cls.folder / "1"), NginxHttp2(cls.folder / "2")
        cls.addClassCleanup(cls.backend.stop)
        cls.addClassCleanup(cls.modern.stop)
        cert, key = certificate(cls.folder / "front", "shop.test")
        tls = ssl.create_default_context(cafile=str(cert))
        tls.check_hostname = False
        tap, sandbox = Stage.wechat()

        def adapt(text: str) -> str:
            pair = f'tls = {{ cert = "{cert}", key = "{key}" }}\n'
            text = text.replace("shutdown_grace", f"{pair}shutdown_grace")
            for name, http2 in (("modern", "true"), ("careful", "false")):
                text += f"""
[[upstreams]]
name = "{name}"
servers = ["127.0.0.1:{cls.modern.port}"]
tls = {{ ca = "{cls.modern.certificate}", sni = "{cls.modern.name}", http2 = {http2} }}

[[routes]]
path = "/{name}/"
upstream = "{name}"
auth = "required"
strip_prefix = "/{name}"
"""
            return text.replace('level = "trace"', 'level = "info"')

        upstream = f"127.0.0.1:{cls.backend.port}"
        folder = cls.folder / "gateway"
        cls.gateway = Gateway(folder, tap, sandbox, upstream, cls.lane, adapt, tls)
        cls.addClassCleanup(cls.gateway.stop)
        cls.alice = cls.gateway.log_in("alice")

    def load(self, path: str, *more: str) -> None:
        """h2load is answered well every time."""
        url = f"https://127.0.0.1:{self.gateway.port}{path}"
        text = subprocess.run(
            ["h2load", "-n", str(REQUESTS), "-c", "10", "-m", "10", "-t", "1",
             "-H", ": ".join(self.alice.bearer), *more, url],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout
        self.assertIn("Application protocol: h2\n", text)
        counts = re.search(
            r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text
        )
        expected = [REQUESTS, REQUESTS, 0, 0, 0]
        self.assertEqual([int(count) for count in counts.groups()], expected, text)
        self.assertIn(f"status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx\n", text)

    def curl(self, path: str, *more: str) -> bytes:
        """The body of a 200, as curl gets it."""
        host = f"shop.test:{self.gateway.port}"
        curl = subprocess.run(
            ["curl", "-sS", "--fail", "--max-time", "30", "--resolve", f"{host}:127.0.0.1",
             "--cacert", str(self.folder / "front/cert.pem"), "-H", ": ".join(self.alice.bearer),
             *more, f"https://{host}{path}"],
            capture_output=True, check=False,
        )
        self.assertEqual(curl.returncode, 0, curl.stderr)
        return curl.stdout

    def test_h2load_is_answered_two_thousand_times(self) -> None:
        self.load("/required/static")

    def test_h2load_uploads_two_thousand_times(self) -> None:
        body = self.folder / "body"
        body.write_bytes(os.urandom(1000))
        self.load("/required/sink.php", "-d", str(body))

    def test_h2load_is_answered_two_thousand_times_by_a_backend_that_speaks_http_2(self) -> None:
        self.load("/modern/static")

    def test_http_2_is_spoken_to_a_backend_that_offers_it_where_that_is_wanted(self) -> None:
        for client in ("--http1.1", "--http2"):
            for name, spoken in (("modern", "HTTP/2.0"), ("careful", "HTTP/1.1")):
                with self.subTest(client=client, upstream=name):
                    server = json.loads(self.curl(f"/{name}/echo.php", client))["server"]
                    self.assertEqual(server["SERVER_PROTOCOL"], spoken)
                    self.assertEqual(server["HTTP_X_WX_OPENID"], self.alice.openid)
                    self.assertNotIn("HTTP_AUTHORIZATION", server)

    def test_bodies_of_either_framing_pass_over_http_2_on_one_side_or_both(self) -> None:
        body = self.folder / "upload"
        body.write_bytes(os.urandom(3_000_000))
        digest = hashlib.sha256(body.read_bytes()).hexdigest()
        for client in ("--http1.1", "--http2"):
            for framing in ("Content-Length: 3000000", "Transfer-Encoding: chunked"):
                with self.subTest(client=client, framing=framing):
                    kind = "Content-Type: application/octet-stream"
                    answer = json.loads(self.curl(
                        "/modern/chunked/sink.php", client, "--data-binary", f"@{body}",
                        "-H", framing, "-H", kind,
                    ))
                    self.assertEqual(answer, {"length": 3_000_000, "sha256": digest})
        download = self.curl("/modern/source.php?mib=5", "--http2")
        self.assertEqual(download, b"".join(b"%08d" % block * 8192 for block in range(80)))


class Http2InTheFullLane(Http2):
    """the same with fast_lane = false"""

    lane = "full"
