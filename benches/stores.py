#!/usr/bin/env python3
"""What the session store costs a request: memory, SQLite and Redis side by side.

`stores.py --binary target/release/wxgate [--rounds 9] [--seconds 2]` logs a user in at three gateways
that differ in `session.store` alone, and lets wrk send authenticated requests to each in turn. Every
gateway has one worker on the second core; wrk and the backend (nginx) share the first. What counts is
the CPU time of the gateway's process per request, within a round, so that a busy machine slows all
three; of the rounds, the median. Exit status 1 if a store costs over 3 % more than memory.

Needs redis-server, nginx, wrk and taskset (`.ci/packages test`, `.ci/packages bench`).
"""

import argparse
import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

APPID, SECRET = "wxbench000000000", "0123456789abcdef0123456789abcdef"
MOST = 1.03


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port: int) -> None:
    """Returns once somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        if time.monotonic() > deadline:
            sys.exit(f"nobody listens on {port}")
        time.sleep(0.01)


def post(url: str, body: dict) -> dict:
    """Sends JSON and reads JSON."""
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), kind)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def configuration(port: int, backend: int, wechat: int, store: str) -> str:
    """gateway.toml; only the store differs."""
    return f"""
[server]
listen = ["127.0.0.1:{port}"]
threads = 1
[admin]
listen = "127.0.0.1:0"
[log]
access = "off"
[wechat]
api_base = "http://127.0.0.1:{wechat}"
[[apps]]
appid = "{APPID}"
secret = "{SECRET}"
[session]
store = "{store}"
signing_keys = [{{ id = "bench", secret = "signing-key-8c1f0e7d5b3a492617e0f4d2" }}]
[[upstreams]]
name = "backend"
servers = ["127.0.0.1:{backend}"]
[[routes]]
path = "/"
upstream = "backend"
"""


class Candidate:
    """A gateway that runs."""

    def __init__(self, start, folder: Path, binary: str, name: str, store: str, peers) -> None:
        self.name, self.port = name, free_port()
        place = folder / name
        place.mkdir()
        (place / "gateway.toml").write_text(configuration(self.port, *peers, store))
        self.child = start(["taskset", "-c", "1", binary, "run", "-c", str(place / "gateway.toml")])
        await_port(self.port)
        self.nanoseconds_per_request: list[float] = []

    def log_in(self, wechat: int) -> None:
        """Takes a token whose session is in the store."""
        order = {"appid": APPID, "user": "alice"}
        deadline = time.monotonic() + 20
        while True:
            code = post(f"http://127.0.0.1:{wechat}/sandbox/login", order)["code"]
            try:
                login = post(f"http://127.0.0.1:{self.port}/wx/auth", {"code": code})
                break
            except urllib.error.HTTPError as error:
                # Redis is not connected yet.
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.token = login["access_token"]

    def cpu(self) -> int:
        """Nanoseconds that all threads have run so far."""
        tasks = Path(f"/proc/{self.child.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def load(self, seconds: float) -> int:
        """Sends as many requests as it takes; how many were answered."""
        said = subprocess.run(
            ["taskset", "-c", "0", "wrk", "-t1", "-c32", f"-d{seconds:g}s",
             "-H", f"Authorization: Bearer {self.token}", f"http://127.0.0.1:{self.port}/api/"],
            capture_output=True, text=True, check=True,
        ).stdout
        assert "Non-2xx" not in said, said
        return int(re.search(r"(\d+) requests in", said)[1])

    def measure(self, seconds: int) -> float:
        """Nanoseconds of CPU for a request, in one turn."""
        self.load(1)
        before = self.cpu()
        requests = self.load(seconds)
        value = (self.cpu() - before) / requests
        self.nanoseconds_per_request.append(value)
        return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/wxgate")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    missing = [it for it in ("redis-server", "nginx", "wrk", "taskset") if not shutil.which(it)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")

    children: list[subprocess.Popen] = []

    def start(argv: list[str]) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        children.append(subprocess.Popen(argv, **quiet))
        return children[-1]

    with tempfile.TemporaryDirectory(prefix="wxgate-stores-") as name:
        folder = Path(name)
        try:
            return compare(arguments, folder, start)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(20)


def compare(arguments: argparse.Namespace, folder: Path, start) -> int:
    """Starts all, measures in turn, prints the table."""
    backend, wechat, redis = free_port(), free_port(), free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000;\n"
        + "".join(f"{kind}_temp_path {folder}/{kind};\n"
                  for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"server {{ listen 127.0.0.1:{backend}; location / {{ return 200 '{'x' * 200}'; }} }} }}\n"
    )
    start(["taskset", "-c", "0", "nginx", "-e", "/dev/null", "-c", str(folder / "nginx.conf")])
    start(["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "",
           "--dir", str(folder)])
    start([arguments.binary, "sandbox", "--listen", f"127.0.0.1:{wechat}",
           "--app", f"{APPID}:{SECRET}"])
    for port in (backend, wechat, redis):
        await_port(port)

    stores = {"memory": "memory", "sqlite": "sqlite:wxgate.db",
              "redis": f"redis://127.0.0.1:{redis}"}
    candidates = [
        Candidate(start, folder, arguments.binary, name, store, (backend, wechat))
        for name, store in stores.items()
    ]
    for candidate in candidates:
        candidate.log_in(wechat)
    for number in range(arguments.rounds):
        # Nobody always comes first.
        turn = number % len(candidates)
        for candidate in candidates[turn:] + candidates[:turn]:
            value = candidate.measure(arguments.seconds)
            print(f"round {number} {candidate.name:7} {value / 1000:6.2f} µs", flush=True)

    memory = candidates[0].nanoseconds_per_request
    print("\n| store | CPU µs per request | of memory |\n| --- | ---: | ---: |")
    worst = 0.0
    for candidate in candidates:
        values = candidate.nanoseconds_per_request
        ratio = statistics.median(one / other for one, other in zip(values, memory))
        worst = max(worst, ratio)
        print(f"| {candidate.name} | {statistics.median(values) / 1000:.2f} | {ratio:.3f} |")
    print(f"\nat most {MOST} of memory: {'held' if worst <= MOST else 'missed'} ({worst:.3f})")
    return 0 if worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
