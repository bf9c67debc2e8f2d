"""Reload and shutdown under load: nobody's request fails."""

import http.client
import os
import re
import signal
import subprocess
import threading
import time
import unittest

from rig.backends import NginxFpm
from rig.client import request
from rig.gateway import Gateway
from rig.process import accepts, await_that, free_port
from stage import Stage

SECONDS = 10
RELOADS = 20
# Which of the reloads finds a gateway.toml that is wrong.
WRONG = 10


class Load:
    """wrk on 16 connections, as a logged-in user, until its time is over."""

    def __init__(self, gateway: Gateway, bearer: str, seconds: int) -> None:
        url = f"http://127.0.0.1:{gateway.port}/required/static"
        argv = ["wrk", "-t", "1", "-c", "16", "-d", f"{seconds}s", "--timeout", "5s",
                "-H", f"Authorization: {bearer}", url]
        self.wrk = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def result(self) -> "Result":
        """What wrk counted."""
        text, _ = self.wrk.communicate(timeout=60)
        return Result(text)

    def stop(self) -> None:
        """Ends it early."""
        if self.wrk.poll() is None:
            self.wrk.kill()
        self.wrk.communicate()


class Result:
    """wrk's counts; it leaves the lines on errors out where there were none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.requests = int(re.search(r"(\d+) requests in", text)[1])
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        self.refused = int(refused[1]) if refused else 0
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        counts = [int(count) for count in errors.groups()] if errors else [0, 0, 0, 0]
        self.connect, self.read, self.write, self.timeout = counts


class Caller(threading.Thread):
    """Asks again and again, until nobody listens any more; over one connection as long as it
    is kept, or over a new one each time."""

    def __init__(self, gateway: Gateway, *headers: tuple[str, str]) -> None:
        super().__init__(daemon=True)
        self.port, self.headers = gateway.port, dict(headers)
        self.answered = 0
        self.failed: str | None = None

    def run(self) -> None:
        while self.failed is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.connect()
            except OSError:
                # Refused before anything was sent: a balancer takes another gateway.
                return
            self.ask_over(connection)
            connection.close()

    def ask_over(self, connection: http.client.HTTPConnection) -> None:
        """Until the gateway says `Connection: close`; nothing else ends a connection well."""
        while connection.sock is not None:
            try:
                connection.request("GET", "/required/static", headers=self.headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed = f"after {self.answered} answers: {error!r}"
                return
            if (answer.status, body) != (200, b"static\n"):
                self.failed = f"{answer.status} {body!r}"
                return
            self.answered += 1


class Life(unittest.TestCase):
    """nginx and php-fpm behind it, so that answers can be quick or slow"""

    lane = "fast"

    def setUp(self) -> None:
        folder = Stage.folder("Life")
        self.backend = NginxFpm(folder)
        self.addCleanup(self.backend.stop)
        self.gateway = Stage.gateway(folder, self.backend.port, self.lane)
        self.addCleanup(self.gateway.stop)
        self.alice = self.gateway.log_in("alice")

    def load(self, seconds: int) -> Load:
        """Load that has begun: the gateway has answered some of it."""
        load = Load(self.gateway, self.alice.bearer[1], seconds)
        self.addCleanup(load.stop)
        await_that(lambda: self.answered() > 100, "the load has begun")
        return load

    def answered(self) -> float:
        """Requests that the required route answered with 200."""
        name = 'wxgate_http_requests_total{code="200",method="GET",route="required"}'
        return self.gateway.metrics().get(name, 0)

    def status(self, path: str) -> int:
        """What a logged-in user gets there."""
        return request(self.gateway.port, "GET", path, [self.alice.bearer]).status

    def test_twenty_reloads_in_ten_seconds_fail_no_request(self) -> None:
        started = time.monotonic()
        load = self.load(SECONDS)
        for number in range(1, RELOADS + 1):
            # Evenly over the time of the load, so that reloads meet every state of a connection.
            due = started + SECONDS * number / (RELOADS + 2)
            threading.Event().wait(max(0.0, due - time.monotonic()))
            with self.subTest(reload=number):
                if number == WRONG:
                    wrong = self.gateway.base.replace('upstream = "backend"', 'upstream = "bakend"')
                    self.assertEqual(self.gateway.reload(wrong), "error")
                    self.assertEqual(self.status(f"/reload-{number - 1}/static"), 200)
                else:
                    self.assertEqual(self.gateway.reload(self.with_route(number)), "ok")
                    self.assertEqual(self.status(f"/reload-{number}/static"), 200)
                    self.assertEqual(self.status(f"/reload-{number - 1}/static"), 404)
        result = load.result()
        print(f"  {result.requests} requests during {RELOADS} reloads", end=" ", flush=True)
        self.assertEqual(
            (result.refused, result.connect, result.read, result.write, result.timeout),
            (0, 0, 0, 0, 0),
            result.text,
        )
        self.assertGreater(result.requests, 1000, result.text)
        self.assertIn("bakend", self.gateway.stderr())
        metrics = self.gateway.metrics()
        self.assertEqual(metrics['wxgate_config_reloads_total{result="ok"}'], RELOADS - 1)
        self.assertEqual(metrics['wxgate_config_reloads_total{result="error"}'], 1)
        self.assertEqual(metrics["wxgate_config_last_reload_success"], 1)

    def with_route(self, number: int) -> str:
        """The configuration with a route that only this reload has."""
        return f"""{self.gateway.base}
[[routes]]
path = "/reload-{number}/"
upstream = "backend"
strip_prefix = "/reload-{number}"
"""

    def test_a_wrong_configuration_is_told_and_changes_nothing(self) -> None:
        self.assertEqual(self.gateway.reload("[server]\nlisten = 1\n"), "error")
        self.assertEqual(self.gateway.metrics()["wxgate_config_last_reload_success"], 0)
        self.assertEqual(self.status("/required/static"), 200)
        self.assertRegex(self.gateway.stderr(), r"gateway\.toml:2:\d+: server\.listen")
        self.assertEqual(self.gateway.reload(self.gateway.base), "ok")
        self.assertEqual(self.gateway.metrics()["wxgate_config_last_reload_success"], 1)

    def test_sigterm_under_load_fails_no_request_that_was_sent(self) -> None:
        callers = [Caller(self.gateway, self.alice.bearer) for _ in range(8)]
        once = ("Connection", "close")
        callers += [Caller(self.gateway, self.alice.bearer, once) for _ in range(8)]
        for caller in callers:
            caller.start()
        await_that(lambda: min(caller.answered for caller in callers) > 20, "the load has begun")
        self.gateway.signal(signal.SIGTERM)
        status = self.gateway.ended(25)
        for caller in callers:
            caller.join(30)
        answered = sum(caller.answered for caller in callers)
        print(f"  {answered} requests until SIGTERM", end=" ", flush=True)
        self.assertEqual([caller.failed for caller in callers if caller.failed], [])
        self.assertEqual(status, 0)

    def test_sigterm_lets_slow_answers_end_and_says_that_it_is_not_ready(self) -> None:
        answers: list[bytes] = []

        def slow() -> None:
            path = "/required/slow.php?ms=2000"
            answers.append(request(self.gateway.port, "GET", path, [self.alice.bearer]).body)

        callers = [threading.Thread(target=slow) for _ in range(8)]
        for caller in callers:
            caller.start()
        await_that(
            lambda: self.gateway.metrics()["wxgate_http_requests_in_flight"] == 8,
            "all eight are in flight",
        )
        self.assertEqual(request(self.gateway.admin, "GET", "/readyz").status, 200)
        self.gateway.signal(signal.SIGTERM)
        await_that(
            lambda: request(self.gateway.admin, "GET", "/readyz").status == 503,
            "/readyz says that it drains",
            timeout=1.5,
        )
        self.assertEqual(request(self.gateway.admin, "GET", "/livez").status, 200)
        await_that(lambda: not accepts(self.gateway.port), "it takes no new connections")
        for caller in callers:
            caller.join(30)
        self.assertEqual(answers, [b"begun " * 1000 + b"done"] * 8)
        self.assertEqual(self.gateway.ended(25), 0)

    def test_a_second_gateway_on_the_same_address_says_so_and_ends(self) -> None:
        second_file = self.gateway.folder / "second.toml"
        second_file.write_text(
            self.gateway.base.replace(f":{self.gateway.admin}", f":{free_port()}")
        )
        second = subprocess.run(
            [os.environ["WXGATE"], "run", "-c", str(second_file)],
            env={**os.environ, "WX_SECRET": "0" * 32},
            capture_output=True,
            text=True,
            timeout=30,
        )
        self.assertEqual(second.returncode, 1, second.stderr)
        self.assertIn(f"127.0.0.1:{self.gateway.port}", second.stderr)
        self.assertEqual(self.status("/required/static"), 200)


class LifeInTheFullLane(Life):
    """the same with fast_lane = false"""

    lane = "full"
