"""The gateway and the sandbox WeChat, as an operator runs them, and what stands between them."""

import http.server
import json
import os
import secrets
import signal
import ssl
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from . import leaks
from .client import User, log_in, request
from .process import Process, await_that, free_port

APPID = "wx00000000000e2e01"
ACCOUNT, WEBSITE = "wx00000000000e2e02", "wx00000000000e2e03"
"""An official account and a website, whose users log in with a browser."""
APP_SECRET = leaks.secret(secrets.token_hex(16))
SIGNING_KEY = leaks.secret(secrets.token_hex(32))


def binary() -> str:
    """The program under test."""
    return os.environ["WXGATE"]


class Sandbox(Process):
    """`wxgate sandbox`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        apps = [f"--app={appid}:{APP_SECRET}" for appid in (APPID, ACCOUNT, WEBSITE)]
        super().__init__(
            folder, [binary(), "sandbox", "--listen", f"127.0.0.1:{self.port}", *apps]
        )
        self.await_port(self.port)


class Tap:
    """Passes every call to WeChat on, and remembers the session_keys that came back.

    Only WeChat and the gateway know them, so this is how the search for leaks learns of them.
    """

    def __init__(self, sandbox: int) -> None:
        class Call(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with urllib.request.urlopen(f"http://127.0.0.1:{sandbox}{self.path}") as answer:
                    body = answer.read()
                    kind = answer.headers["Content-Type"]
                session_key = json.loads(body).get("session_key")
                if session_key:
                    leaks.secret(session_key)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Call)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Takes no more calls."""
        self.server.shutdown()
        self.server.server_close()


# One route of each kind in front of every backend; what stands before the backend's own path is
# taken off.
ROUTES = {"required": "/required/", "optional": "/optional/", "public": "/public/"}


def configuration(port: int, admin: int, wechat: int, upstream: str, lane: str = "fast") -> str:
    """A gateway.toml with one upstream and a route of each kind."""
    routes = "".join(
        f"""
[[routes]]
name = "{auth}"
path = "{path}"
upstream = "backend"
auth = "{auth}"
strip_prefix = "{path.rstrip('/')}"
max_body_bytes = "1GiB"
"""
        for auth, path in ROUTES.items()
    )
    return f"""
[server]
listen = ["127.0.0.1:{port}"]
shutdown_grace = "20s"
fast_lane = {str(lane == "fast").lower()}

[admin]
listen = "127.0.0.1:{admin}"

[log]
level = "trace"
access = "json"
access_file = "access.log"

[wechat]
api_base = "http://127.0.0.1:{wechat}"

[[apps]]
appid = "{APPID}"
secret = {{ env = "WX_SECRET" }}

[login]
rate_limit = {{ per_ip = "1000/s", burst = 1000 }}

[session]
store = "memory"
signing_keys = [{{ id = "e2e", secret = {{ file = "signing.key" }} }}]

[[upstreams]]
name = "backend"
servers = ["{upstream}"]
{routes}
[[routes]]
name = "bridged"
path = "/bridged/"
upstream = "backend"
auth = "optional"
strip_prefix = "/bridged"
cookie_bridge = true
"""


class Gateway(Process):
    """`wxgate run` in front of one backend."""

    written: set[Path] = set()
    """Every file that any gateway wrote, for the search for leaks."""

    def __init__(
        self, folder: Path, wechat: int, sandbox: int, upstream: str, lane: str,
        adapt: Callable[[str], str] = str, tls: ssl.SSLContext | None = None,
    ) -> None:
        """`adapt` makes of the usual gateway.toml the one that is wanted; where it speaks TLS, `tls`
        says how clients do."""
        self.tls = tls
        self.port, self.admin, self.sandbox = free_port(), free_port(), sandbox
        folder.mkdir(parents=True)
        self.base = adapt(configuration(self.port, self.admin, wechat, upstream, lane))
        self.file = folder / "gateway.toml"
        self.write(self.base)
        (folder / "signing.key").write_text(SIGNING_KEY)
        super().__init__(
            folder, [binary(), "run", "-c", str(self.file)], {"WX_SECRET": APP_SECRET}
        )
        self.await_port(self.port)
        self.await_port(self.admin)
        Gateway.written |= {
            self.stdout_file, self.stderr_file, folder / "access.log", folder / "metrics.log"
        }

    def write(self, text: str) -> None:
        """Replaces gateway.toml in one step, as an editor or a deployment does."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)

    def log_in(self, user: str) -> User:
        """A user of the mini program, logged in."""
        return log_in(self.port, self.sandbox, APPID, user, self.tls)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels."""
        text = request(self.admin, "GET", "/metrics").text()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in ("", "#"))
        return {name: float(value) for name, value in samples}

    def reload(self, text: str) -> str:
        """Writes a configuration, sends SIGHUP, and awaits the result: `ok` or `error`."""
        before = self.metrics()
        self.write(text)
        self.signal(signal.SIGHUP)

        def taken() -> str | None:
            now = self.metrics()
            for result in ("ok", "error"):
                name = f'wxgate_config_reloads_total{{result="{result}"}}'
                if now.get(name, 0) > before.get(name, 0):
                    return result
            return None

        return str(await_that(taken, "the reload is counted"))

    def stop(self) -> None:
        """Keeps the last metrics for the search for leaks, then ends."""
        if self.child.poll() is None:
            text = request(self.admin, "GET", "/metrics").text()
            (self.folder / "metrics.log").write_text(text)
        super().stop()
