"""What RFC 9110 and 9112 let two programs do besides asking and answering, through the gateway."""

import base64
import os
import secrets
import struct
from pathlib import Path

from rig.client import Line, request


class Exchanges:
    """With any backend; `backend.echo` shows the request, the sinks take uploads."""

    sink: str
    chunked_sink: str
    mark: str
    """X-Mark, as `backend.echo` spells it."""

    def line(self) -> Line:
        """A connection to the gateway, closed at the end of the test."""
        line = Line(self.gateway.port)
        self.addCleanup(line.close)
        return line

    def head(self, method: str, path: str, *more: str, version: str = "1.1") -> bytes:
        """The head of a request of alice on the required route."""
        lines = [f"{method} /required{path} HTTP/{version}", f"Host: 127.0.0.1:{self.gateway.port}",
                 ": ".join(self.alice.bearer), *more]
        return "\r\n".join([*lines, "", ""]).encode()

    def assert_taken(self, body: bytes, length: int) -> None:
        """What the backend says of an upload."""
        raise NotImplementedError

    def in_step(self, line: Line) -> None:
        """The next request on this connection gets its own answer."""
        line.send(self.head("GET", self.backend.echo, "X-Mark: in-step"))
        self.assertEqual(dict(self.backend.headers(line.answer()))[self.mark], "in-step")

    def test_pipelined_requests_are_answered_in_their_order(self) -> None:
        line = self.line()
        line.send(*(self.head("GET", self.backend.echo, f"X-Mark: {n}") for n in range(5)))
        seen = [dict(self.backend.headers(line.answer()))[self.mark] for _ in range(5)]
        self.assertEqual(seen, ["0", "1", "2", "3", "4"])

    def test_an_answer_to_head_has_no_body_and_leaves_the_connection_in_step(self) -> None:
        line = self.line()
        line.send(self.head("HEAD", self.backend.echo), self.head("HEAD", self.backend.echo))
        for _ in range(2):
            answer = line.answer("HEAD")
            self.assertEqual((answer.status, answer.body), (200, b""))
        self.in_step(line)

    def test_a_client_of_http_1_0_gets_the_end_by_length_or_by_close(self) -> None:
        line = self.line()
        line.send(self.head("GET", self.backend.echo, version="1.0"))
        answer = line.answer()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.all("Transfer-Encoding"), [])
        self.assertIn(self.alice.openid, dict(self.backend.headers(answer)).values())
        self.assertTrue(line.has_ended())

    def test_an_upload_waits_for_100_continue(self) -> None:
        line, body = self.line(), secrets.token_bytes(100_000)
        kind = "Content-Type: application/octet-stream"
        length = f"Content-Length: {len(body)}"
        line.send(self.head("POST", self.sink, kind, length, "Expect: 100-continue"))
        self.assertEqual(line.file.readline(), b"HTTP/1.1 100 Continue\r\n")
        self.assertEqual(line.file.readline(), b"\r\n")
        line.send(body)
        answer = line.answer()
        self.assertEqual(answer.status, 200)
        self.assert_taken(answer.body, len(body))

    def test_who_may_not_upload_is_told_so_instead_of_100_continue(self) -> None:
        line = self.line()
        head = self.head("POST", self.sink, "Content-Length: 100000", "Expect: 100-continue")
        line.send(head.replace(self.alice.bearer[1].encode(), b"Basic eDp5"))
        self.assertTrue(line.file.peek().startswith(b"HTTP/1.1 401 "))

    def test_a_chunked_upload_arrives_whole_and_without_its_trailers(self) -> None:
        line = self.line()
        pieces = [secrets.token_bytes(length) for length in (1, 8192, 70_000, 3)]
        line.send(self.head("POST", self.chunked_sink, "Content-Type: application/octet-stream",
                            "Transfer-Encoding: chunked", "Trailer: X-WX-OPENID"))
        for piece in pieces:
            line.send(b"%x\r\n" % len(piece), piece, b"\r\n")
        line.send(b"0\r\nX-WX-OPENID: oMallory00000000000\r\n\r\n")
        answer = line.answer()
        self.assertEqual(answer.status, 200, answer.body)
        self.assert_taken(answer.body, sum(map(len, pieces)))
        self.in_step(line)

    def early_answer(self, path: str, status: int) -> None:
        """The backend refuses an upload of which it has seen the beginning."""
        line = self.line()
        line.send(self.head("POST", path, "Content-Length: 50000000"), b"x" * 70_000)
        response = line.head("POST")
        self.assertEqual(response.status, status)
        response.read()
        # What follows is the rest of the upload, and never another request.
        self.assertTrue(line.has_ended())
        for _ in range(3):
            self.in_step(self.line())


class PhpExchanges(Exchanges):
    """With PHP, however it is run"""

    sink = chunked_sink = "/sink.php"
    mark = "X_MARK"

    def assert_taken(self, body: bytes, length: int) -> None:
        self.assertIn(b'"length":%d' % length, body)

    def file(self) -> Path:
        """A name for a file that a page waits for."""
        return Path(os.environ["E2E_WORK"]) / f"page-{secrets.token_hex(8)}"

    def test_options_is_the_applications_to_answer(self) -> None:
        answer = request(self.gateway.port, "OPTIONS", "/required/echo.php", [self.alice.bearer])
        self.assertEqual(answer.json()["server"]["REQUEST_METHOD"], "OPTIONS")

    def test_an_event_is_delivered_before_the_next_one_happens(self) -> None:
        line, file = self.line(), self.file()
        line.send(self.head("GET", f"/events.php?file={file}", "Accept: text/event-stream"))
        Path(f"{file}.1").touch()
        response = line.head()
        self.assertEqual(response.status, 200)
        self.assertTrue(response.getheader("Content-Type").startswith("text/event-stream"))
        for event in (1, 2, 3):
            self.assertEqual(response.readline(), b"id: %d\n" % event)
            self.assertEqual(response.readline(), b"data: event %d\n" % event)
            self.assertEqual(response.readline(), b"\n")
            Path(f"{file}.{event + 1}").touch()
        self.assertEqual(response.read(), b"")


class NginxExchanges(PhpExchanges):
    """With nginx in front of PHP"""

    chunked_sink = "/chunked/sink.php"

    def test_a_long_poll_of_two_seconds_is_answered_when_something_happens(self) -> None:
        line, file = self.line(), self.file()
        line.send(self.head("GET", f"/poll.php?file={file}"))
        self.assertTrue(line.is_silent_for(2))
        file.with_suffix(".new").write_text("news")
        file.with_suffix(".new").rename(file)
        self.assertEqual(line.answer().body, b"news")

    def test_a_refusal_of_the_backend_comes_while_the_upload_still_runs(self) -> None:
        self.early_answer("/small/", 413)

    def test_an_answer_without_a_length_arrives_in_chunks(self) -> None:
        line = self.line()
        line.send(self.head("GET", "/slow.php?ms=1"))
        answer = line.answer()
        self.assertEqual(answer.all("Transfer-Encoding"), ["chunked"])
        self.assertEqual(answer.body, b"begun " * 1000 + b"done")
        self.in_step(line)


class TomcatExchanges(Exchanges):
    """With Tomcat's example servlets and WebSockets"""

    sink = chunked_sink = "/examples/servlets/nonblocking/bytecounter"
    mark = "x-mark"

    def assert_taken(self, body: bytes, length: int) -> None:
        self.assertEqual(body, b"Total bytes written = [%d]" % length)

    def test_options_is_the_applications_to_answer(self) -> None:
        path = "/required/examples/servlets/servlet/RequestHeaderExample"
        answer = request(self.gateway.port, "OPTIONS", path, [self.alice.bearer])
        self.assertEqual(answer.status, 200)
        self.assertIn("OPTIONS", answer.header("Allow"))

    def test_an_answer_without_a_length_arrives_in_chunks(self) -> None:
        line = self.line()
        line.send(self.head("GET", "/examples/servlets/nonblocking/numberwriter"))
        answer = line.answer()
        self.assertEqual(answer.all("Transfer-Encoding"), ["chunked"])
        self.assertEqual(answer.body, b"".join(b"%020d\n" % n for n in range(1, 10_001)))
        self.in_step(line)

    def test_an_answer_loses_its_trailers_and_nothing_else(self) -> None:
        line = self.line()
        line.send(self.head("GET", "/examples/servlets/trailers/response", "TE: trailers"))
        response = line.head()
        self.assertEqual(response.status, 200)
        self.assertEqual(response.read(), b"This response should include trailer fields.")
        self.in_step(line)

    def test_each_line_of_an_endless_answer_is_delivered_as_it_is_written(self) -> None:
        line = self.line()
        line.send(self.head("GET", "/examples/async/stockticker"))
        response = line.head()
        self.assertEqual(response.status, 200)
        for _ in range(3):
            self.assertRegex(response.readline(), rb"^STOCK#\w+#[\d.]+#-?[\d.]+#\d+\n$")

    def test_a_long_poll_of_two_seconds_is_answered_when_something_happens(self) -> None:
        line = self.line()
        line.send(self.head("GET", "/examples/async/async0"))
        self.assertTrue(line.is_silent_for(1))
        self.assertRegex(line.answer().body, rb"^Async dispatch worked: ")

    def test_a_refusal_of_the_backend_comes_while_the_upload_still_runs(self) -> None:
        for path, status in (("/examples/nothing/here", 404),
                             ("/examples/servlets/servlet/HelloWorldExample", 405)):
            with self.subTest(status):
                self.early_answer(path, status)

    def websocket(self, path: str, *more: str) -> tuple[Line, int]:
        """A connection that asked for a WebSocket, and the status of the answer."""
        line = self.line()
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        head = (f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.gateway.port}\r\n"
                f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n")
        line.send((head + "".join(f"{line}\r\n" for line in more) + "\r\n").encode())
        response = line.head()
        return line, response.status

    def test_a_websocket_with_a_token_echoes(self) -> None:
        for name in ("echoAnnotation", "echoProgrammatic", "echoStreamAnnotation"):
            with self.subTest(name):
                line, status = self.websocket(
                    f"/required/examples/websocket/{name}", ": ".join(self.alice.bearer)
                )
                self.assertEqual(status, 101)
                for kind, said in ((1, "你好".encode()), (2, secrets.token_bytes(5000))):
                    line.send(masked(kind, said))
                    self.assertEqual(unmasked(line), (kind, said))
                # A ping, and the end as both sides want it.
                line.send(masked(9, b"here?"))
                self.assertEqual(unmasked(line), (10, b"here?"))
                line.send(masked(8, struct.pack(">H", 1000)))
                self.assertEqual(unmasked(line)[0], 8)
                self.assertTrue(line.has_ended())

    def test_a_websocket_without_a_token_or_with_a_bad_one_is_401(self) -> None:
        path = "/required/examples/websocket/echoAnnotation"
        for more in ((), (f"Authorization: Bearer {self.alice.token[:-8]}AAAAAAAA",)):
            self.assertEqual(self.websocket(path, *more)[1], 401)

    def test_what_is_no_websocket_is_the_applications_to_refuse(self) -> None:
        path = "/required/examples/websocket/nothing"
        self.assertEqual(self.websocket(path, ": ".join(self.alice.bearer))[1], 404)


def masked(kind: int, payload: bytes) -> bytes:
    """One whole frame of a client (RFC 6455)."""
    mask = secrets.token_bytes(4)
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else struct.pack(">BH", 0x80 | 126, length)
    hidden = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x80 | kind]) + size + mask + hidden


def unmasked(line: Line) -> tuple[int, bytes]:
    """The next message of the server, whose frames are put together."""
    kind, message, last = 0, b"", False
    while not last:
        first, length = line.file.read(2)
        if length == 126:
            (length,) = struct.unpack(">H", line.file.read(2))
        kind, last = kind or first & 15, bool(first & 0x80)
        message += line.file.read(length)
    return kind, message
