"""The dashboard in a real browser: it asks for the token, shows numbers, ends sessions."""

import os
import secrets
import subprocess
import unittest
from pathlib import Path

from rig import leaks
from rig.backends import PhpBuiltIn
from rig.client import request
from rig.gateway import Gateway
from stage import Stage

SCRIPT = Path(__file__).resolve().parent / "browser/dashboard.js"


class Dashboard(unittest.TestCase):
    """Chromium"""

    def test_an_operator_looks_sessions_up_and_ends_them(self) -> None:
        folder = Stage.folder("Dashboard")
        folder.mkdir()
        backend = PhpBuiltIn(folder)
        self.addCleanup(backend.stop)
        tap, sandbox = Stage.wechat()
        token = leaks.secret(secrets.token_hex(16))
        (folder / "admin.token").write_text(token)

        def adapt(text: str) -> str:
            return text.replace("[admin]\n", '[admin]\ntoken = { file = "../admin.token" }\n')

        gateway = Gateway(
            folder / "gateway", tap, sandbox, f"127.0.0.1:{backend.port}", "fast", adapt
        )
        self.addCleanup(gateway.stop)
        alice, again, bob = (gateway.log_in(name) for name in ("alice", "alice", "bob"))
        ran = subprocess.run(
            ["node", str(SCRIPT), f"http://127.0.0.1:{gateway.admin}", token, alice.openid,
             str(folder)],
            env={**os.environ, "NODE_PATH": str(Path(os.environ["SDKS"]) / "node_modules")},
            capture_output=True, text=True, timeout=120,
        )
        self.assertEqual((ran.returncode, ran.stdout), (0, "done\n"), ran.stderr[-2000:])
        for user, status in ((alice, 401), (again, 401), (bob, 200)):
            answer = request(gateway.port, "GET", "/required/echo.php", [user.bearer])
            self.assertEqual(answer.status, status)
