"""A caller that can send any header list, and a mini program that logs in."""

import http.client
import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
) -> Answer:
    """One request on a connection of its own, its headers sent as given and in this order."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
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


def log_in(gateway: int, sandbox: int, appid: str, user: str) -> User:
    """wx.login on the phone, then POST /wx/auth, as a mini program does it."""
    code = login_code(sandbox, appid, user)
    answer = request(gateway, "POST", "/wx/auth", [JSON], json.dumps({"code": code}).encode())
    assert answer.status == 200, (answer.status, answer.text())
    login = answer.json()
    assert login["token_type"] == "Bearer", sorted(login)
    token = leaks.token(login["access_token"])
    leaks.person(login["openid"])
    leaks.person(login["unionid"])
    return User(login["openid"], login["unionid"], appid, token)
