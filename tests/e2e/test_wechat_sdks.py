"""WeChat SDKs that others wrote judge `wxgate sandbox`; only their base URLs are changed."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

from rig.gateway import APP_SECRET, APPID, Sandbox
from stage import Stage

JUDGES = Path(__file__).resolve().parent / "wechat_sdks"


class Sdks(unittest.TestCase):
    """wxgate sandbox"""

    def judged(self, *argv: str) -> None:
        """Runs a judge against a sandbox of its own, and shows what failed."""
        sandbox = Sandbox(Stage.folder("Sdks"))
        self.addCleanup(sandbox.stop)
        ran = subprocess.run(
            [*argv, f"http://127.0.0.1:{sandbox.port}", APPID, APP_SECRET],
            env={**os.environ, "NODE_PATH": str(Path(os.environ["SDKS"]) / "node_modules")},
            capture_output=True, text=True, timeout=120,
        )
        lines = ran.stdout.splitlines()
        failed = [line for line in lines if not line.startswith("ok ")]
        self.assertEqual(ran.returncode, 0, "\n".join(failed) + ran.stderr[-2000:])
        checks = sum(line.startswith("ok ") for line in lines)
        self.assertEqual(lines[-1], f"{checks} passed, 0 failed")
        self.assertGreater(checks, 5)
        print(f"  {checks} checks", end=" ", flush=True)

    def test_wechatpy_finds_wechat_in_it(self) -> None:
        self.judged(sys.executable, str(JUDGES / "judge.py"))

    def test_co_wechat_api_and_node_easywechat_find_wechat_in_it(self) -> None:
        self.judged("node", str(JUDGES / "judge.js"))
