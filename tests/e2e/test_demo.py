"""`wxgate demo` and README.md: what is printed works when it is typed, and is what README shows."""

import json
import os
import re
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from rig import leaks
from rig.backends import REPOSITORY
from rig.gateway import binary
from rig.process import Process, await_that, free_port
from stage import Stage
from test_documents import blocks, read


def bash(lines: str) -> subprocess.CompletedProcess[str]:
    """Types these lines into a shell."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines], capture_output=True, text=True, timeout=60
    )


# What WeChat's client gives a mini program: `wx.login` and `wx.request`, as far as README uses them.
PHONE = """
const wx = {
  login: ({ success }) => fetch('http://127.0.0.1:%d/sandbox/login', {
    method: 'POST', body: JSON.stringify({ appid: 'wxdemo0000000000', user: 'alice' }),
  }).then((answer) => answer.json()).then(success),
  request: ({ url, method, data, header, success }) => fetch(url, {
    method: method || 'GET', body: data && JSON.stringify(data),
    headers: { 'content-type': 'application/json', ...header },
  }).then((answer) => answer.json()).then((data) => success({ data })),
};
console.log = (data) => process.stdout.write(JSON.stringify(data));
"""


class Demo(unittest.TestCase):
    """wxgate demo, on other ports than its own"""

    @classmethod
    def setUpClass(cls) -> None:
        cls.ports = {8080: free_port(), 9090: free_port(), 8900: free_port()}
        options = zip(("--listen", "--admin", "--sandbox"), cls.ports.values())
        argv = [word for option, port in options for word in (option, f"127.0.0.1:{port}")]
        cls.demo = Process(Stage.folder("Demo"), [binary(), "demo", *argv])
        cls.addClassCleanup(cls.demo.stop)
        for port in cls.ports.values():
            cls.demo.await_port(port)
        await_that(lambda: cls.commands().count("curl ") == 3, "three curl lines are printed")

    @classmethod
    def commands(cls) -> str:
        """The lines to type that it printed."""
        lines = cls.demo.stdout().splitlines()
        return "\n".join(line for line in lines if "curl " in line)

    def test_the_three_lines_log_in_and_show_what_the_backend_saw(self) -> None:
        typed = bash(self.commands())
        self.assertEqual(typed.returncode, 0, typed.stderr)
        page = json.loads(typed.stdout)
        identity = [pair for pair in page["header_list"] if pair[0].startswith("x-wx-")]
        self.assertEqual(sorted(name for name, _ in identity),
                         ["x-wx-appid", "x-wx-openid", "x-wx-unionid"])
        self.assertRegex(dict(identity)["x-wx-openid"], r"^o[A-Za-z0-9_-]{27}$")
        self.assertNotIn("forged", typed.stdout)
        self.assertNotIn("authorization", page["headers"])

    def test_readme_shows_what_it_prints(self) -> None:
        shown = [text for _, text in blocks(read("README.md")) if "wxgate demo is running" in text]
        self.assertEqual(len(shown), 1)
        printed = self.demo.stdout()
        for usual, port in self.ports.items():
            printed = printed.replace(f"127.0.0.1:{port}", f"127.0.0.1:{usual}")
        self.assertIn(printed.strip(), shown[0])

    def test_readme_shows_what_the_three_lines_print(self) -> None:
        shown = [text for _, text in blocks(read("README.md")) if '"header_list"' in text]
        self.assertEqual(len(shown), 1)
        typed = bash(self.commands()).stdout
        for usual, port in self.ports.items():
            typed = typed.replace(f"127.0.0.1:{port}", f"127.0.0.1:{usual}")
        self.assertEqual(constant(json.loads(typed)), constant(json.loads(shown[0])))

    def test_the_mini_programs_lines_of_readme_reach_the_backend_as_the_user(self) -> None:
        shown = [text for language, text in blocks(read("README.md")) if language == "js"]
        self.assertEqual(len(shown), 1)
        self.assertLessEqual(len(shown[0].splitlines()), 6)
        gateway, sandbox = self.ports[8080], self.ports[8900]
        program = PHONE % sandbox + shown[0].replace(
            "https://api.example.com", f"http://127.0.0.1:{gateway}")
        ran = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        page = json.loads(ran.stdout)
        self.assertEqual(page["path"], "/api/me")
        self.assertRegex(page["headers"]["x-wx-openid"], r"^o[A-Za-z0-9_-]{27}$")

    def test_it_says_so_where_a_port_is_taken(self) -> None:
        port = self.ports[8080]
        again = subprocess.run(
            [binary(), "demo", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
             "--sandbox", "127.0.0.1:0"],
            capture_output=True, text=True, timeout=30,
        )
        self.assertEqual(again.returncode, 1)
        self.assertIn(f"127.0.0.1:{port}", again.stderr)

    def test_it_ends_in_order_when_told_to(self) -> None:
        options = ("--listen", "--admin", "--sandbox")
        argv = [word for option in options for word in (option, f"127.0.0.1:{free_port()}")]
        demo = Process(Stage.folder("DemoEnds"), [binary(), "demo", *argv])
        self.addCleanup(demo.stop)
        await_that(lambda: "curl" in demo.stdout(), "it runs")
        demo.signal(signal.SIGINT)
        self.assertEqual(demo.ended(15), 0)
        self.assertEqual(demo.stderr(), "")


def constant(page: dict) -> dict:
    """An echoed request without what differs from run to run: request id and version of curl."""
    text = json.dumps(page, sort_keys=True)
    text = re.sub(r'("x-request-id"(?::|,) )"[^"]+"', r'\1"…"', text)
    return json.loads(re.sub(r"curl/[\d.]+", "curl/…", text))


class Readme(unittest.TestCase):
    """README.md"""

    def test_its_gateway_toml_is_found_good_and_has_twenty_lines(self) -> None:
        shown = [text for language, text in blocks(read("README.md")) if language == "toml"]
        self.assertEqual(len(shown), 1)
        self.assertLessEqual(len([line for line in shown[0].splitlines() if line]), 20)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "gateway.toml"
            file.write_text(shown[0])
            checked = subprocess.run(
                [binary(), "check", "-c", str(file)],
                env={**os.environ, "WX_SECRET": leaks.secret("0123456789abcdef" * 2)},
                capture_output=True, text=True, timeout=30,
            )
        self.assertEqual((checked.returncode, checked.stderr), (0, ""), checked.stdout)

    def test_the_make_targets_it_names_exist(self) -> None:
        makefile = (REPOSITORY / "Makefile").read_text()
        for page in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"):
            for target in re.findall(r"^make ([a-z0-9-]+)", page.read_text(), re.M):
                self.assertRegex(makefile, rf"(?m)^{target}:.*## ")
