"""The mini program's file, as docs/miniprogram.md shows it, against the running gateway."""

import re
import subprocess
import unittest

from rig.backends import REPOSITORY, PhpBuiltIn
from rig.gateway import APPID, Gateway
from stage import Stage


class MiniProgram(unittest.TestCase):
    """docs/miniprogram.md"""

    def test_its_file_logs_in_refreshes_and_logs_in_again_once_each(self) -> None:
        page = (REPOSITORY / "docs/miniprogram.md").read_text()
        shown = re.search(r"^```js\n(// wxgate\.js\n.*?)^```$", page, re.M | re.S)
        assert shown, "the page shows wxgate.js"
        folder = Stage.folder("MiniProgram")
        backend = PhpBuiltIn(folder)
        self.addCleanup(backend.stop)
        _, sandbox = Stage.wechat()
        gateway = Gateway(
            folder / "gateway", sandbox, sandbox, f"127.0.0.1:{backend.port}", "fast"
        )
        self.addCleanup(gateway.stop)
        file = folder / "wxgate.js"
        file.write_text(shown[1])
        ran = subprocess.run(
            ["node", str(REPOSITORY / "tests/e2e/miniprogram.js"), str(file),
             f"http://127.0.0.1:{gateway.port}", f"http://127.0.0.1:{gateway.sandbox}",
             APPID, "mini"],
            capture_output=True, text=True, timeout=60,
        )
        self.assertEqual(ran.returncode, 0, ran.stderr[-3000:])
