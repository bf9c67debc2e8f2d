"""A caller that can send any header list, and a mini program that logs in."""

import http.client
import json
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from . import leaks

Headers = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that stands there at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands there {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self):
        """The body, read as JSON."""
        return json.loads(self.body)

    def text(self) -> str:
        """The body, read as UTF-8."""
        return self.body.decode()


def request(
    port: int,
    method: str,
    path: str,
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    timeout: float = 30,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own, its headers sent as given and in this order."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    if tls is not None:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=tls)
    try:
        says_host = any(name.lower() == "host" for name, _ in headers)
        connection.putrequest(method, path, skip_host=says_host, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if isinstance(body, bytes):
            connection.send(body)
        elif body is not None:
            for piece in body:
                connection.send(piece)
        response = connection.getresponse()
        answer = Answer(response.status, response.getheaders(), response.read())
    finally:
        connection.close()
    leaks.saw(path, answer)
    return answer


def exchange(port: int, sent: bytes, timeout: float = 10) -> Answer | None:
    """Sends these bytes as they are; `None` where the connection was closed without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(sent)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except (http.client.BadStatusLine, ConnectionResetError):
            return None
        answer = Answer(response.status, response.getheaders(), response.read())
    leaks.saw(sent.split(b" ", 2)[1].decode(), answer)
    return answer


class _Kept:
    """A file that http.client may close at the end of an answer while another answer follows."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def close(self) -> None:
        """The connection stays open."""


class Line:
    """One connection, on which bytes are sent as they are and answers are read one by one."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Sends them at once."""
        self.socket.sendall(b"".join(pieces))

    def makefile(self, _mode: str) -> _Kept:
        """What http.client reads from."""
        return _Kept(self.file)

    def head(self, method: str = "GET") -> http.client.HTTPResponse:
        """The head of the next answer; its body can be read as it comes."""
        response = http.client.HTTPResponse(self, method=method)
        response.begin()
        return response

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, whole."""
        response = self.head(method)
        answer = Answer(response.status, response.getheaders(), response.read())
        leaks.saw("/", answer)
        return answer

    def is_silent_for(self, seconds: float) -> bool:
        """Whether nothing comes, not even the end, for so long."""
        return not select.select([self.socket], [], [], seconds)[0]

    def has_ended(self) -> bool:
        """Whether nothing comes any more."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Hangs up."""
        self.file.close()
        self.socket.close()


@dataclass
class User:
    """Somebody who logged in."""

    openid: str
    unionid: str
    appid: str
    token: str
    bearer: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.bearer = ("Authorization", f"Bearer {self.token}")


JSON = ("Content-Type", "application/json")


def login_code(sandbox: int, appid: str, user: str) -> str:
    """What `wx.login()` gives on this user's phone."""
    order = json.dumps({"appid": appid, "user": user}).encode()
    answer = request(sandbox, "POST", "/sandbox/login", [JSON], order)
    assert answer.status == 200, (answer.status, answer.text())
    return leaks.secret(answer.json()["code"])


def log_in(
    gateway: int, sandbox: int, appid: str, user: str, tls: ssl.SSLContext | None = None
) -> User:
    """wx.login on the phone, then POST /wx/auth, as a mini program does it."""
    body = json.dumps({"code": login_code(sandbox, appid, user)}).encode()
    answer = request(gateway, "POST", "/wx/auth", [JSON], body, tls=tls)
    assert answer.status == 200, (answer.status, answer.text())
    login = answer.json()
    assert login["token_type"] == "Bearer", sorted(login)
    token = leaks.token(login["access_token"])
    leaks.person(login["openid"])
    leaks.person(login["unionid"])
    return User(login["openid"], login["unionid"], appid, token)
