"""Real processes on free ports: started, awaited by what they do, ended by their own id."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# Below the range from which the system takes ports for outgoing connections, so that a port
# chosen here is not taken by one of the many connections of a load test.
LOWEST_PORT, HIGHEST_PORT = 10_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, another one at each call."""
    while True:
        port = random.randint(LOWEST_PORT, HIGHEST_PORT)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def await_that(condition: Callable[[], object], what: str, timeout: float = 30) -> object:
    """The first true value of `condition`, asked every 10 ms; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still not so: {what}")
        time.sleep(0.01)


class Process:
    """One program with a folder of its own, whose output goes to files there."""

    started: list["Process"] = []
    """Every one, so that none outlives the run, even where a test could not be set up."""

    def __init__(self, folder: Path, argv: list[str], env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stdout_file, self.stderr_file = folder / "stdout.log", folder / "stderr.log"
        with self.stdout_file.open("ab") as out, self.stderr_file.open("ab") as err:
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self.child.pid
        Process.started.append(self)

    def stdout(self) -> str:
        """What it has printed so far."""
        return self.stdout_file.read_text(errors="replace")

    def stderr(self) -> str:
        """What it has complained of so far."""
        return self.stderr_file.read_text(errors="replace")

    def await_port(self, port: int) -> None:
        """Returns once it listens; fails with its last words if it ended instead."""

        def listens() -> bool:
            if self.child.poll() is not None:
                raise AssertionError(
                    f"{self.folder.name} ended with status {self.child.returncode}:\n"
                    f"{self.stdout()[-2000:]}{self.stderr()[-2000:]}"
                )
            return accepts(port)

        await_that(listens, f"{self.folder.name} listens on {port}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it alone."""
        self.child.send_signal(number)

    def ended(self, timeout: float) -> int:
        """Its exit status, once it ends by itself."""
        return self.child.wait(timeout)

    def stop(self) -> None:
        """Ends it and what it started, once. Asking comes first, so that it can end in order."""
        if self in Process.started:
            Process.started.remove(self)
        else:
            return
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(10)
        # Workers of php-fpm or nginx whose master was killed live in the same session.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def memory(self, field: str) -> int:
        """`VmRSS` (resident memory now) or `VmHWM` (its highest mark), in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise KeyError(field)

    def forget_memory_mark(self) -> None:
        """Lets the highest mark of resident memory begin anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
