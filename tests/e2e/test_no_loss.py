"""Everything that changes while the gateway runs, at once and under load: nobody's request fails."""

import http.server
import os
import re
import signal
import subprocess
import threading
import time
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.client import User, log_in, request
from rig.gateway import APP_SECRET, APPID, Gateway, binary
from rig.process import Process, accepts, await_that, free_port
from stage import Stage
from test_life import Result

SECONDS = 26
RELOADS, CERTIFICATES, UPGRADES = 20, 5, 3
POSTERS = 4


class Server:
    """nginx that answers at once; killed, drained and started again."""

    def __init__(self, folder: Path, more: str = "") -> None:
        """`more` stands beside the location that answers at once."""
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"""daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  {temporary}
  access_log off;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{self.port};
    location / {{ return 200 "static\\n"; }}
    location = /health {{
      if (!-f {folder}/well) {{ return 503; }}
      return 200 "well\\n";
    }}
    {more}
  }}
}}
"""
        )
        self.start()

    def start(self) -> None:
        """Listens once this returns."""
        (self.folder / "well").touch()
        conf = str(self.folder / "nginx.conf")
        argv = ["/usr/sbin/nginx", "-p", str(self.folder), "-c", conf]
        self.process = Process(self.folder, argv + ["-e", str(self.folder / "error.log")])
        self.process.await_port(self.port)

    def kill(self) -> None:
        """Ends it in the middle of what it does, with its worker."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.child.wait(10)
        self.process.stop()

    def drain(self, lines: list["Line"]) -> None:
        """It first calls itself ill, and ends with its last answer once it is asked no more."""
        (self.folder / "well").unlink()
        for line in lines:
            await_that(lambda line=line: not line.calls_well(self), "it is taken out")
        self.process.signal(signal.SIGQUIT)
        self.process.child.wait(10)
        self.process.stop()


class Line:
    """The gateway of one listener, whichever process it is now, under load."""

    def __init__(self, name: str, folder: Path, servers: list[Server], tls: bool) -> None:
        self.tls = tls
        tap, sandbox = Stage.wechat()
        first = Gateway(folder / name, tap, sandbox, f"127.0.0.1:{servers[0].port}", "fast")
        self.gateway, self.process = first, first
        self.processes: list[Process] = [first]
        others = "".join(f', "127.0.0.1:{server.port}"' for server in servers[1:])
        alone = f'"127.0.0.1:{servers[0].port}"'
        text = first.base.replace(alone, alone + others)
        text = text.replace('store = "memory"', 'store = "sqlite:sessions.db"')
        text = text.replace('level = "trace"', 'level = "info"')
        check = 'retries = 2\nhealth_check = { path = "/health", interval = "500ms", timeout = "2s" }\n'
        text = text.replace('name = "backend"\n', f'name = "backend"\n{check}')
        first.base = text
        # Before TLS is on, since the user of the tests speaks plain HTTP.
        first.stop()
        first.write(text)
        self.start()
        self.user = log_in(first.port, sandbox, APPID, "alice")
        if tls:
            self.certificate = 0
            self.make_certificates()
            self.swap_certificate()
            pair = 'tls = { cert = "c.pem", key = "k.pem" }'
            text = text.replace("shutdown_grace", f"{pair}\nshutdown_grace")
            first.base = text
            self.process.stop()
            first.write(text)
            self.start()

    def start(self, *more: str) -> None:
        """A new process in the same folder."""
        gateway = self.gateway
        argv = [binary(), "run", "-c", str(gateway.file), *more]
        self.process = Process(gateway.folder, argv, {"WX_SECRET": APP_SECRET})
        self.processes.append(self.process)
        if not more:
            self.process.await_port(gateway.port)
            self.process.await_port(gateway.admin)

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    def reload(self) -> None:
        """SIGHUP, and the new rules in force."""
        name = 'wxgate_config_reloads_total{result="ok"}'
        before = self.gateway.metrics().get(name, 0)
        self.process.signal(signal.SIGHUP)
        await_that(lambda: self.gateway.metrics().get(name, 0) > before, "the reload is counted")

    def calls_well(self, server: Server) -> bool:
        """Whether it sends requests to this server."""
        name = f'wxgate_upstream_up{{server="127.0.0.1:{server.port}",upstream="backend"}}'
        return bool(self.gateway.metrics()[name])

    def upgrade(self) -> None:
        """A new process takes the sockets over; the old one finishes and ends by itself."""
        old = self.process
        said = old.stderr().count("admin listening on")
        self.start("--upgrade")
        old.signal(signal.SIGQUIT)
        # Both write to the one file.
        await_that(lambda: old.stderr().count("admin listening on") > said, "the new one is ready")
        status = old.ended(25)
        assert status == 0, f"the old process ended with {status}"

    def make_certificates(self) -> None:
        for number in range(CERTIFICATES + 1):
            pem = self.gateway.folder / str(number)
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN=number-{number}",
                 "-days", "30", "-keyout", f"{pem}.key", "-out", f"{pem}.pem"],
                check=True, capture_output=True,
            )

    def swap_certificate(self) -> None:
        """The next pair, file by file, as a renewal does it."""
        folder = self.gateway.folder
        for source, name in (("key", "k.pem"), ("pem", "c.pem")):
            new = folder / "new"
            new.write_bytes((folder / f"{self.certificate}.{source}").read_bytes())
            new.rename(folder / name)
        self.certificate += 1

    def shown(self) -> int:
        """The number of the certificate that is shown now."""
        text = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.gateway.port}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False,
        ).stdout
        number = re.search(r"CN ?= ?number-(\d+)", text)
        return int(number[1]) if number else -1

    def load(self) -> subprocess.Popen:
        """wrk for the whole of the test."""
        scheme = "https" if self.tls else "http"
        url = f"{scheme}://127.0.0.1:{self.gateway.port}/required/static"
        argv = ["wrk", "-t", "1", "-c", "8", "-d", f"{SECONDS}s", "--timeout", "5s",
                "-H", f"Authorization: {self.user.bearer[1]}", url]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


class Poster(threading.Thread):
    """Sends what may not be sent twice, one after the other, and notes what failed and when."""

    def __init__(self, port: int, user: User) -> None:
        super().__init__(daemon=True)
        self.port, self.user = port, user
        self.answered, self.failed = 0, []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                body = b"order"
                status = request(
                    self.port, "POST", "/required/order", [self.user.bearer], body
                ).status
            except OSError as error:
                status = repr(error)
            # nginx has no page that takes a POST there, and says so: an answer all the same.
            if status in (200, 405):
                self.answered += 1
            else:
                self.failed.append((began, time.monotonic(), status))


class Office:
    """What stands behind the servers: it takes requests down, and answers once the doors open."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.doors = threading.Event()
        office = self

        class Call(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                office.taken.append((self.command, self.headers["X-Server"]))
                office.doors.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Call)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Lets go of everybody."""
        self.doors.set()
        self.server.shutdown()
        self.server.server_close()


class InFlight(unittest.TestCase):
    """three servers behind it, one of which is killed with requests in flight"""

    lane = "fast"

    def test_only_what_may_not_be_sent_twice_fails_and_nothing_of_that_is_sent_twice(self) -> None:
        folder = Stage.folder("InFlight")
        office = Office()
        self.addCleanup(office.stop)
        slow = f"""location /slow {{
      proxy_set_header X-Server $server_port; proxy_pass http://127.0.0.1:{office.port};
    }}"""
        servers = [Server(folder / f"server-{number}", slow) for number in range(3)]
        for server in servers:
            self.addCleanup(server.process.stop)
        tap, sandbox = Stage.wechat()
        names = [f"127.0.0.1:{server.port}" for server in servers]
        gateway = Gateway(
            folder / "gateway", tap, sandbox, '", "'.join(names), self.lane,
            lambda text: text.replace('name = "backend"\n', 'name = "backend"\nretries = 2\n'),
        )
        self.addCleanup(gateway.stop)
        alice = gateway.log_in("alice")
        killed = str(servers[0].port)
        asked: list[tuple[str, str]] = []
        with ThreadPoolExecutor(16) as callers:
            answers = []
            for method in ("POST", "GET"):
                # Until one of them is at the server that will be killed.
                while (method, killed) not in asked:
                    self.assertLess(len(asked), 16)
                    body = b"order" if method == "POST" else None
                    answers.append(callers.submit(
                        request, gateway.port, method, "/required/slow", [alice.bearer], body
                    ))
                    await_that(lambda: len(office.taken) > len(asked), "it is taken down")
                    asked.append(office.taken[-1])
            servers[0].kill()
            count = len(asked) + asked.count(("GET", killed))
            await_that(lambda: len(office.taken) >= count, "what may be is sent again")
            office.doors.set()
            statuses = [answer.result(30).status for answer in answers]
        for one, status in zip(asked, statuses, strict=True):
            self.assertEqual(status, 502 if one == ("POST", killed) else 200, one)
        self.assertEqual(len(office.taken), count)
        self.assertTrue(all(method == "GET" for method, _ in office.taken[len(asked):]))


class InFlightInTheFullLane(InFlight):
    """the same with fast_lane = false"""

    lane = "full"


class NoLoss(unittest.TestCase):
    """three servers behind it, HTTP and HTTPS in front"""

    def test_reloads_certificates_upgrades_and_failing_servers_at_once_fail_no_request(self) -> None:
        folder = Stage.folder("NoLoss")
        servers = [Server(folder / f"server-{number}") for number in range(3)]
        for server in servers:
            self.addCleanup(lambda server=server: server.process.stop())
        plain = Line("plain", folder, servers, tls=False)
        self.addCleanup(plain.stop)
        tls = Line("tls", folder, servers, tls=True)
        self.addCleanup(tls.stop)
        lines = [plain, tls]
        posters = [Poster(plain.gateway.port, plain.user) for _ in range(POSTERS)]
        began = time.monotonic()
        loads = [line.load() for line in lines]
        for load in loads:
            self.addCleanup(lambda load=load: load.poll() is None and load.kill())
        for poster in posters:
            poster.start()
        killed: list[float] = []

        def kill() -> None:
            killed.append(time.monotonic())
            servers[0].kill()
            killed.append(time.monotonic())

        events: list[tuple[float, Callable[[], None]]] = [
            (0.15, kill),
            (0.35, servers[0].start),
            (0.50, lambda: servers[1].drain(lines)),
            (0.70, servers[1].start),
        ]
        for line in lines:
            events += [((n + 0.5) / RELOADS, line.reload) for n in range(RELOADS)]
            events += [((n + 0.7) / (UPGRADES + 0.5), line.upgrade) for n in range(UPGRADES)]
        events += [((n + 0.6) / CERTIFICATES, tls.swap_certificate) for n in range(CERTIFICATES)]
        for share, event in sorted(events, key=lambda event: event[0]):
            due = began + 0.5 + (SECONDS - 7) * share
            threading.Event().wait(max(0.0, due - time.monotonic()))
            event()
        self.assertLess(time.monotonic() - began, SECONDS, "the load ended before the changes")
        await_that(lambda: tls.shown() == CERTIFICATES, "the last certificate is shown", 5)
        for poster in posters:
            poster.over.set()
        for poster in posters:
            poster.join(30)
        lost = [failure for poster in posters for failure in poster.failed]
        results = [Result(load.communicate(timeout=60)[0]) for load in loads]
        print(
            f"\n  {RELOADS} reloads, {UPGRADES} upgrades, {CERTIFICATES} certificates, one server "
            f"killed and one drained: {results[0].requests} requests over HTTP, "
            f"{results[1].requests} over HTTPS, "
            f"{sum(poster.answered for poster in posters)} POSTs, "
            f"{len(lost)} of them in flight on the killed server",
            end=" ", flush=True,
        )
        for result in results:
            self.assertEqual(
                (result.refused, result.connect, result.read, result.write, result.timeout),
                (0, 0, 0, 0, 0),
                result.text,
            )
            self.assertGreater(result.requests, 1000, result.text)
        # Only those that met the kill may be lost; the drained server loses none.
        for first, last, how in lost:
            self.assertTrue(first <= killed[1] and killed[0] <= last, how)
        for poster in posters:
            self.assertLessEqual(len(poster.failed), 1, poster.failed)
            self.assertGreater(poster.answered, 100)
        self.assertTrue(all(accepts(server.port) for server in servers))
