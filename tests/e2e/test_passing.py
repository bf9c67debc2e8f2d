"""What an application sends and receives passes the gateway as it is: bodies, cookies, sizes."""

import hashlib
import http.client
import json
import os
import re
import threading
from collections.abc import Callable

from exchanges import NginxExchanges, PhpExchanges, TomcatExchanges
from rig.backends import ApacheFpm, NginxFpm, PhpBuiltIn, Tomcat
from rig.client import JSON, request
from stage import BackendTests

MIB = 1024 * 1024


def sha256(body: bytes) -> str:
    """As PHP's hash() writes it."""
    return hashlib.sha256(body).hexdigest()


class Php:
    """The tests; the classes below name the server in front of PHP."""

    def send(self, method: str, path: str, headers=(), body=None):
        """A request of alice on the required route."""
        return request(
            self.gateway.port, method, "/required" + path, [self.alice.bearer, *headers], body
        )

    def test_a_form_arrives_in_post_and_the_query_in_get(self) -> None:
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        form = "name=%E5%BC%A0%E4%B8%89&tag[]=a%2Bb&tag[]=c+d".encode()
        page = self.send("POST", "/echo.php?q=1%2F2&q2=%20x", [kind], form).json()
        self.assertEqual(page["post"], {"name": "张三", "tag": ["a+b", "c d"]})
        self.assertEqual(page["get"], {"q": "1/2", "q2": " x"})
        self.assertEqual(page["server"]["REQUEST_METHOD"], "POST")

    def test_an_upload_arrives_as_a_file_with_every_byte(self) -> None:
        file = bytes(range(256)) * 4096 + b"\r\n--almost a boundary\r\n"
        boundary = "----wxgateBoundary"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="a.bin"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + file + f"\r\n--{boundary}--\r\n".encode()
        kind = ("Content-Type", f"multipart/form-data; boundary={boundary}")
        page = self.send("POST", "/echo.php", [kind], body).json()
        self.assertEqual(page["files"], {"photo": {"name": "a.bin", "sha256": sha256(file)}})
        self.assertEqual(page["post"], {"note": "hello"})

    def test_a_json_body_arrives_byte_for_byte_with_every_method(self) -> None:
        body = json.dumps({"text": "小程序", "n": [1, 2.5, None]}, ensure_ascii=False).encode()
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            with self.subTest(method=method):
                page = self.send(method, "/echo.php", [JSON], body).json()
                self.assertEqual(page["body_sha256"], sha256(body))
                self.assertEqual(page["server"]["REQUEST_METHOD"], method)
                self.assertEqual(page["server"]["CONTENT_TYPE"], "application/json")

    def test_cookies_pass_both_ways_less_the_gateways_own(self) -> None:
        own = f"wxgate_session={self.alice.token}"
        for sent in (f"a=1; {own}; b=x%3Dy", f"{own}; a=1; b=x%3Dy", f"a=1; b=x%3Dy; {own}"):
            with self.subTest(sent=sent.replace(self.alice.token, "…")):
                page = self.send("GET", "/echo.php", [("Cookie", sent)]).json()
                self.assertEqual(page["cookie"], {"a": "1", "b": "x=y"})
        answer = self.send("GET", "/answer.php")
        self.assertEqual(
            answer.all("Set-Cookie"),
            ["PHPSESSID=abc123; path=/; HttpOnly", "cart=7%2C8; path=/shop"],
        )

    def test_the_applications_status_and_headers_come_back(self) -> None:
        answer = self.send("GET", "/answer.php?status=418")
        self.assertEqual((answer.status, answer.text()), (418, "the application says so"))
        self.assertEqual(answer.header("X-Application-Header"), "as it came")
        answer = self.send("GET", "/answer.php?status=302&location=/somewhere%3Fa=b")
        self.assertEqual((answer.status, answer.header("Location")), (302, "/somewhere?a=b"))
        answer = self.send("HEAD", "/answer.php")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_headers_of_the_application_pass(self) -> None:
        sent = [
            ("X-Requested-With", "XMLHttpRequest"), ("Accept-Language", "zh-CN,zh;q=0.9"),
            ("Referer", "https://servicewechat.com/wx1/7/page-frame.html"),
            ("User-Agent", "MicroMessenger/8.0"), ("X-Long", "l" * 6000),
        ]
        seen = dict(self.backend.headers(self.send("GET", "/echo.php", sent)))
        for name, value in sent:
            self.assertEqual(seen[name.upper().replace("-", "_")], value)

    def test_the_page_learns_whom_the_gateway_speaks_for(self) -> None:
        sent = [("X-Forwarded-For", "9.9.9.9"), ("X_Forwarded_For", "9.9.9.9"),
                ("X-Forwarded-Proto", "https"), ("X-Real-IP", "9.9.9.9"),
                ("Forwarded", "for=9.9.9.9")]
        answer = self.send("GET", "/echo.php", sent)
        seen = dict(self.backend.headers(answer))
        self.assertEqual(seen["X_FORWARDED_FOR"], "127.0.0.1")
        self.assertEqual(seen["X_FORWARDED_PROTO"], "http")
        self.assertEqual(seen["X_FORWARDED_HOST"], f"127.0.0.1:{self.gateway.port}")
        self.assertRegex(seen["X_REQUEST_ID"], r"^[0-9A-Za-z-]{16,}$")
        self.assertNotIn("9.9.9.9", answer.text())


class PhpBuiltInServer(Php, PhpExchanges, BackendTests):
    """php -S"""

    backend_type = PhpBuiltIn


class ApacheAndPhpFpm(Php, PhpExchanges, BackendTests):
    """Apache and php-fpm"""

    backend_type = ApacheFpm


class NginxAndPhpFpm(Php, NginxExchanges, BackendTests):
    """nginx and php-fpm"""

    backend_type = NginxFpm

    # What one request may add to the gateway's resident memory, however large its body.
    MOST_MEMORY = 32 * MIB

    def memory_growth(self, work: Callable[[], None]) -> int:
        """How far resident memory rose above where it stood, while `work` ran: by the system's own
        mark and, where that is kept coarsely, by looking again and again."""
        before = self.gateway.memory("VmRSS")
        self.gateway.forget_memory_mark()
        marks, over = [before], threading.Event()

        def look() -> None:
            while not over.wait(0.02):
                marks.append(self.gateway.memory("VmRSS"))

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            work()
        finally:
            over.set()
            looking.join()
        growth = max(*marks, self.gateway.memory("VmHWM")) - before
        print(f"  resident memory grew by {growth / MIB:.1f} MiB", end=" ", flush=True)
        return growth

    def upload(self, mib: int, *, chunked: bool) -> None:
        block = os.urandom(MIB)
        digest = hashlib.sha256()

        def pieces():
            for _ in range(mib):
                digest.update(block)
                yield b"%x\r\n%b\r\n" % (len(block), block) if chunked else block
            if chunked:
                yield b"0\r\n\r\n"

        framing = ("Transfer-Encoding", "chunked") if chunked else (
            "Content-Length", str(mib * MIB))
        kind = ("Content-Type", "application/octet-stream")
        headers = [self.alice.bearer, kind, framing]
        path = "/required/chunked/sink.php" if chunked else "/required/sink.php"
        answer = request(
            self.gateway.port, "POST", path, headers, pieces(), timeout=120
        )
        self.assertEqual(answer.status, 200, answer.text())
        self.assertEqual(answer.json(), {"length": mib * MIB, "sha256": digest.hexdigest()})

    def download(self, mib: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=120)
        self.addCleanup(connection.close)
        path = f"/required/source.php?mib={mib}"
        connection.request("GET", path, headers=dict([self.alice.bearer]))
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        self.assertEqual(response.getheader("Content-Length"), str(mib * MIB))
        for block in range(16 * mib):
            self.assertEqual(response.read(65536), b"%08d" % block * 8192)
        self.assertEqual(response.read(), b"")

    def test_an_upload_of_512_mib_streams_through(self) -> None:
        self.upload(8, chunked=False)
        growth = self.memory_growth(lambda: self.upload(512, chunked=False))
        self.assertLess(growth, self.MOST_MEMORY)

    def test_a_chunked_upload_of_512_mib_streams_through(self) -> None:
        self.upload(8, chunked=True)
        growth = self.memory_growth(lambda: self.upload(512, chunked=True))
        self.assertLess(growth, self.MOST_MEMORY)

    def test_a_download_of_512_mib_streams_through(self) -> None:
        self.download(8)
        growth = self.memory_growth(lambda: self.download(512))
        self.assertLess(growth, self.MOST_MEMORY)

    def test_an_answer_arrives_while_the_page_still_writes_it(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        self.addCleanup(connection.close)
        path = "/required/slow.php?ms=1500"
        connection.request("GET", path, headers=dict([self.alice.bearer]))
        response = connection.getresponse()
        begun = response.read(6000)
        self.assertEqual(begun, b"begun " * 1000)
        # The page is asleep now: had the answer been collected whole, its end would be here too.
        response.fp.raw._sock.settimeout(0.3)  # noqa: SLF001
        with self.assertRaises(TimeoutError):
            response.read(1)


class TomcatExamples(TomcatExchanges, BackendTests):
    """Tomcat's example servlets"""

    backend_type = Tomcat
    servlets = "/required/examples/servlets/servlet/"

    def send(self, method: str, path: str, headers=(), body=None):
        """A request of alice to one of the servlets."""
        return request(
            self.gateway.port, method, self.servlets + path, [self.alice.bearer, *headers], body
        )

    def test_a_form_arrives_as_parameters(self) -> None:
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        page = self.send("POST", "RequestParamExample", [kind], b"firstname=Li&lastname=Si%2BX")
        self.assertEqual(page.status, 200)
        self.assertRegex(page.text(), r"First Name:?\s*=?\s*Li")
        self.assertIn("Si+X", page.text())

    def test_a_session_of_the_application_lives_in_its_own_cookie(self) -> None:
        first = self.send("GET", "SessionExample?dataname=k&datavalue=v1")
        cookie = re.match(r"JSESSIONID=[0-9A-F]+", first.header("Set-Cookie") or "")
        self.assertIsNotNone(cookie)
        again = self.send("GET", "SessionExample", [("Cookie", cookie[0])])
        self.assertIsNone(again.header("Set-Cookie"))
        self.assertIn("k = v1", again.text())


class PhpBuiltInServerInTheFullLane(PhpBuiltInServer):
    """the same with fast_lane = false"""

    lane = "full"


class NginxAndPhpFpmInTheFullLane(NginxAndPhpFpm):
    """the same with fast_lane = false"""

    lane = "full"


class ApacheAndPhpFpmInTheFullLane(ApacheAndPhpFpm):
    """the same with fast_lane = false"""

    lane = "full"


class TomcatExamplesInTheFullLane(TomcatExamples):
    """the same with fast_lane = false"""

    lane = "full"
