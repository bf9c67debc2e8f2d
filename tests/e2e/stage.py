"""What the tests of one run share: a folder, the sandbox WeChat, and the tap on it."""

import os
import unittest
from pathlib import Path

from rig.gateway import Gateway, Sandbox, Tap


class Stage:
    """Started once, at first use; `run.py` ends it."""

    folders = 0
    sandbox: Sandbox | None = None
    tap: Tap | None = None

    @staticmethod
    def folder(name: str) -> Path:
        """A new folder for one test's processes. Short, since a socket's path has little room."""
        Stage.folders += 1
        return Path(os.environ["E2E_WORK"]) / f"{Stage.folders}-{name}"

    @classmethod
    def wechat(cls) -> tuple[int, int]:
        """Ports of the sandbox: through the tap, for gateways, and its own, for phones."""
        if cls.sandbox is None:
            cls.sandbox = Sandbox(cls.folder("sandbox"))
            cls.tap = Tap(cls.sandbox.port)
        assert cls.tap is not None
        return cls.tap.port, cls.sandbox.port

    @classmethod
    def gateway(cls, folder: Path, upstream: int, lane: str) -> Gateway:
        """A gateway in front of the backend on this port."""
        tap, sandbox = cls.wechat()
        return Gateway(folder / "gateway", tap, sandbox, f"127.0.0.1:{upstream}", lane)

    @classmethod
    def clear(cls) -> None:
        """Ends what is shared."""
        if cls.tap is not None:
            cls.tap.stop()
        if cls.sandbox is not None:
            cls.sandbox.stop()


class BackendTests(unittest.TestCase):
    """Tests against one kind of backend with one gateway in front of it."""

    backend_type: type
    lane = "fast"
    """Which lane of the gateway carries requests that either could."""
    longMessage = True

    @classmethod
    def setUpClass(cls) -> None:
        folder = Stage.folder(cls.__name__)
        cls.backend = cls.backend_type(folder)
        cls.addClassCleanup(cls.backend.stop)
        cls.gateway = Stage.gateway(folder, cls.backend.port, cls.lane)
        cls.addClassCleanup(cls.gateway.stop)
        cls.alice = cls.gateway.log_in("alice")
