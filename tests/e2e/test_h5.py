"""Pages of another site (H5) call the gateway from a real browser: Chromium decides what they may read."""

import os
import subprocess
import unittest
from pathlib import Path

from rig import leaks
from rig.backends import PhpBuiltIn
from rig.gateway import APPID, Gateway
from rig.process import free_port
from stage import Stage

SCRIPT = Path(__file__).resolve().parent / "browser/h5.js"


class Chromium(unittest.TestCase):
    """Chromium"""

    def calls_across_sites(self, lane: str) -> None:
        """Runs the script against a gateway of its own, and shows what failed."""
        folder = Stage.folder("H5")
        folder.mkdir()
        backend = PhpBuiltIn(folder)
        self.addCleanup(backend.stop)
        tap, sandbox = Stage.wechat()
        page, other = free_port(), free_port()
        cors = f'cors = {{ origins = ["http://localhost:{page}"] }}\n'

        def adapt(text: str) -> str:
            text = text.replace("[login]\n", "[login]\n" + cors)
            return text.replace('auth = "required"\n', 'auth = "required"\n' + cors)

        gateway = Gateway(
            folder / "gateway", tap, sandbox, f"127.0.0.1:{backend.port}", lane, adapt
        )
        self.addCleanup(gateway.stop)
        base, wechat = f"http://127.0.0.1:{gateway.port}", f"http://127.0.0.1:{sandbox}"
        ran = subprocess.run(
            ["node", str(SCRIPT), base, wechat, APPID, str(page), str(other)],
            env={**os.environ, "NODE_PATH": str(Path(os.environ["SDKS"]) / "node_modules")},
            capture_output=True, text=True, timeout=120,
        )
        lines = ran.stdout.splitlines()
        for line in lines:
            if line.startswith("secret "):
                leaks.secret(line.removeprefix("secret "))
        told = [line for line in lines if not line.startswith(("ok ", "secret "))]
        self.assertEqual(ran.returncode, 0, "\n".join(told) + ran.stderr[-2000:])
        self.assertEqual(lines[-1], "3 passed, 0 failed")

    def test_reads_answers_and_refusals_of_the_fast_lane_where_cors_lets_it(self) -> None:
        self.calls_across_sites("fast")

    def test_reads_answers_and_refusals_of_the_full_lane_where_cors_lets_it(self) -> None:
        self.calls_across_sites("full")
