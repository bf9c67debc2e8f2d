"""What stands in deploy/ and beside it works: compose file, Dockerfile, probes, unit.

There is no container engine here, so images are not built; what is mounted into them is run.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
import unittest
from configparser import ConfigParser
from pathlib import Path

from rig import leaks
from rig.backends import REPOSITORY, PhpBuiltIn, Tomcat
from rig.client import log_in, request
from rig.gateway import APP_SECRET, SIGNING_KEY, Gateway, binary, configuration
from rig.process import Process, accepts, free_port
from ruamel.yaml import YAML
from stage import Stage

ADMIN_TOKEN = leaks.secret(secrets.token_hex(32))
DEMO_APPID = "wxdemo0000000000"


def tool(*argv: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that was installed beside this Python."""
    program = Path(sys.executable).parent / argv[0]
    return subprocess.run(
        [str(program), *argv[1:]], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )


def compose() -> dict:
    """docker-compose.yml, read."""
    return YAML(typ="safe").load(REPOSITORY / "docker-compose.yml")


class Written(unittest.TestCase):
    """Files that are read by programs we do not run here"""

    def test_the_compose_file_fits_the_compose_specification(self) -> None:
        checked = tool(
            "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"
        )
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_everything_that_the_compose_file_mounts_or_needs_exists(self) -> None:
        file = compose()
        for name, service in file["services"].items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source in file["volumes"]:
                    continue
                self.assertTrue((REPOSITORY / source).exists(), f"{name}: {source}")
            for needed in service.get("depends_on", []):
                self.assertIn(needed, file["services"])
            for secret in service.get("secrets", []):
                self.assertIn(secret, file["secrets"])
            for port in service.get("ports", []):
                self.assertRegex(port, r"^127\.0\.0\.1:", f"{name} is open to the network")

    def test_the_dockerfile_passes_its_linter_and_runs_without_rights(self) -> None:
        # DL3008: Debian's packages follow the image's tag.
        linted = tool("hadolint", "--ignore", "DL3008", "Dockerfile")
        self.assertEqual((linted.returncode, linted.stdout), (0, ""), linted.stderr)
        lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
        users = [line.split()[1] for line in lines if line.startswith("USER ")]
        self.assertEqual(users, ["10001"])
        for line in lines:
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    self.assertTrue((REPOSITORY / source).exists(), line)

    def test_the_images_context_holds_all_that_cargo_reads(self) -> None:
        lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
        build = lines[: next(n for n, line in enumerate(lines) if line.startswith("FROM debian"))]
        with tempfile.TemporaryDirectory() as context:
            for line in build:
                if line.startswith("COPY "):
                    for source in line.split()[1:-1]:
                        here, there = REPOSITORY / source, Path(context) / source
                        copy = shutil.copytree if here.is_dir() else shutil.copy
                        copy(here, there)
            read = subprocess.run(
                ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"],
                cwd=context, capture_output=True, text=True, timeout=60,
            )
        self.assertEqual(read.returncode, 0, read.stderr)

    def test_the_store_lies_in_a_volume_that_the_images_user_may_write(self) -> None:
        config = tomllib.loads((REPOSITORY / "deploy/gateway.toml").read_text())
        folder = str(Path(config["session"]["store"].removeprefix("sqlite:")).parent)
        self.assertIn(f"sessions:{folder}", compose()["services"]["gateway"]["volumes"])
        image = (REPOSITORY / "Dockerfile").read_text()
        self.assertIn(f"install -d -o wxgate -m 0700 {folder}", image)
        self.assertIn(f"\nVOLUME {folder}\n", image)

    def test_prometheus_asks_the_port_that_the_gateway_listens_on(self) -> None:
        scrape = YAML(typ="safe").load(REPOSITORY / "deploy/prometheus.yml")["scrape_configs"][0]
        self.assertEqual(scrape["static_configs"], [{"targets": ["gateway:9090"]}])
        config = (REPOSITORY / "deploy/gateway.toml").read_text()
        self.assertIn('listen = "0.0.0.0:9090"', config)
        secret = scrape["authorization"]["credentials_file"]
        self.assertIn(Path(secret).name, compose()["services"]["prometheus"]["secrets"])

    @staticmethod
    def unit() -> ConfigParser:
        """deploy/wxgate.service"""
        unit = ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read(REPOSITORY / "deploy/wxgate.service")
        return unit

    def test_the_store_lies_where_the_unit_lets_the_gateway_write(self) -> None:
        service = self.unit()["Service"]
        self.assertEqual(service["ProtectSystem"], "strict")
        folders = (f"/var/lib/{service['StateDirectory']}", f"/var/log/{service['LogsDirectory']}")
        files = ("deploy/wxgate.service", "docs/operations.md")
        for text in ((REPOSITORY / file).read_text() for file in files):
            self.assertIn(f'store = "sqlite:{folders[0]}/', text)
            self.assertIn(f'access_file = "{folders[1]}/', text)

    def test_the_unit_waits_longer_than_a_drain_takes(self) -> None:
        unit = self.unit()
        self.assertEqual(unit["Service"]["TimeoutStopSec"], "40s")
        self.assertEqual(unit["Service"]["RestartPreventExitStatus"], "2")
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            self.skipTest("systemd-analyze is not here")
        verified = subprocess.run(
            [analyze, "verify", str(REPOSITORY / "deploy/wxgate.service")],
            capture_output=True, text=True, timeout=60,
        )
        # The program itself is not installed on a developer's machine.
        told = [line for line in verified.stderr.splitlines() if "is not executable" not in line]
        self.assertEqual(told, [])


class Unit(unittest.TestCase):
    """deploy/wxgate.service"""

    def test_the_gateway_tells_systemd_once_it_listens(self) -> None:
        folder = Stage.folder("Unit")
        folder.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(folder / "notify"))
            systemd.settimeout(20)
            port, admin = free_port(), free_port()
            config = configuration(port, admin, free_port(), f"127.0.0.1:{free_port()}")
            (folder / "gateway.toml").write_text(config)
            (folder / "signing.key").write_text(SIGNING_KEY)
            environment = {"WX_SECRET": APP_SECRET, "NOTIFY_SOCKET": str(folder / "notify")}
            gateway = Process(
                folder / "gateway",
                [binary(), "run", "-c", str(folder / "gateway.toml")],
                environment,
            )
            self.addCleanup(gateway.stop)
            self.assertIn(b"READY=1", systemd.recv(1024).split(b"\n"))
            self.assertTrue(accepts(port) and accepts(admin))


class Composed(unittest.TestCase):
    """deploy/gateway.toml, with the names of containers replaced by addresses of this machine"""

    @classmethod
    def setUpClass(cls) -> None:
        folder = Stage.folder("Composed")
        cls.port, cls.admin, cls.sandbox = free_port(), free_port(), free_port()
        cls.php, cls.java = DeployedPhp(folder), Tomcat(folder)
        cls.addClassCleanup(cls.php.stop)
        cls.addClassCleanup(cls.java.stop)
        command = compose()["services"]["sandbox"]["command"]
        argv = [
            word.replace("0.0.0.0:8900", f"127.0.0.1:{cls.sandbox}")
            .replace("${WX_SECRET:-demo}", "demo") for word in command
        ]
        sandbox = Process(folder / "sandbox", [binary(), *argv])
        cls.addClassCleanup(sandbox.stop)
        sandbox.await_port(cls.sandbox)
        config = (REPOSITORY / "deploy/gateway.toml").read_text()
        for there, here in {
            "0.0.0.0:8080": f"127.0.0.1:{cls.port}",
            "0.0.0.0:9090": f"127.0.0.1:{cls.admin}",
            "sandbox:8900": f"127.0.0.1:{cls.sandbox}",
            "php:8000": f"127.0.0.1:{cls.php.port}",
            "java:8080": f"127.0.0.1:{cls.java.port}",
            "/var/lib/wxgate/": "",
        }.items():
            assert there in config, there
            config = config.replace(there, here)
        place = folder / "gateway"
        place.mkdir(parents=True)
        (place / "gateway.toml").write_text(config)
        environment = {"WX_SECRET": "demo", "WXGATE_ADMIN_TOKEN": ADMIN_TOKEN}
        cls.gateway = Process(
            place, [binary(), "run", "-c", str(place / "gateway.toml")], environment
        )
        cls.addClassCleanup(cls.gateway.stop)
        Gateway.written |= {cls.gateway.stdout_file, cls.gateway.stderr_file}
        cls.gateway.await_port(cls.port)
        cls.gateway.await_port(cls.admin)
        cls.alice = log_in(cls.port, cls.sandbox, DEMO_APPID, "alice")

    def test_check_finds_it_good_but_for_the_sandboxs_plain_http(self) -> None:
        config = (REPOSITORY / "deploy/gateway.toml").read_text()
        file = Stage.folder("Checked").with_suffix(".toml")
        file.write_text(config.replace("/var/lib/wxgate/", ""))
        checked = subprocess.run(
            [binary(), "check", "-c", str(file)],
            env={**os.environ, "WX_SECRET": "demo", "WXGATE_ADMIN_TOKEN": ADMIN_TOKEN},
            cwd=REPOSITORY, capture_output=True, text=True, timeout=30,
        )
        warned = [line for line in checked.stderr.splitlines() if "warning" in line]
        self.assertEqual((checked.returncode, len(warned)), (0, 1), checked.stderr)
        self.assertIn("wechat.api_base", warned[0])

    def test_the_php_page_greets_whoever_logged_in(self) -> None:
        answer = request(self.port, "GET", "/php/", [self.alice.bearer])
        self.assertEqual(
            answer.text(),
            f"openid:  {self.alice.openid}\nappid:   {DEMO_APPID}\nunionid: {self.alice.unionid}\n",
        )

    def test_the_java_servlet_sees_whoever_logged_in(self) -> None:
        path = "/examples/servlets/servlet/RequestHeaderExample"
        answer = request(self.port, "GET", path, [self.alice.bearer])
        self.assertIn(("x-wx-openid", self.alice.openid),
                      [(name.lower(), value) for name, value in Tomcat.headers(answer)])

    def test_metrics_ask_for_the_admin_token_and_probes_do_not(self) -> None:
        bearer = ("Authorization", f"Bearer {ADMIN_TOKEN}")
        self.assertEqual(request(self.admin, "GET", "/metrics").status, 401)
        self.assertEqual(request(self.admin, "GET", "/metrics", [bearer]).status, 200)
        self.assertEqual(request(self.admin, "GET", "/livez").status, 200)
        self.assertEqual(request(self.admin, "GET", "/readyz").status, 200)

    def test_the_containers_health_check_tells_a_live_gateway_from_none(self) -> None:
        probe = str(REPOSITORY / "deploy/live")
        live = subprocess.run([probe, "127.0.0.1", str(self.admin)], timeout=10)
        self.assertEqual(live.returncode, 0)
        dead = subprocess.run(
            [probe, "127.0.0.1", str(free_port())], capture_output=True, timeout=10
        )
        self.assertNotEqual(dead.returncode, 0)


class DeployedPhp(PhpBuiltIn):
    """deploy/php, served as docker-compose.yml does."""

    pages = REPOSITORY / "deploy/php"
