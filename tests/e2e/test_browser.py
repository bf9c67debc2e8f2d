"""People log in with a real browser: Chromium, the gateway, the sandbox's pages, a PHP page."""

import datetime
import os
import subprocess
import unittest
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rig import leaks
from rig.backends import PhpBuiltIn
from rig.gateway import ACCOUNT, WEBSITE, Gateway
from stage import Stage

SCRIPT = Path(__file__).resolve().parent / "browser/oauth.js"

WEB = "".join(
    f"""
[[apps]]
appid = "{appid}"
secret = {{ env = "WX_SECRET" }}
kind = "{kind}"

[[routes]]
path = "{path}"
upstream = "backend"
auth = "required"
strip_prefix = "{path.rstrip('/')}"
allow = {{ appids = ["{appid}"] }}
"""
    for appid, kind, path in (
        (ACCOUNT, "official_account", "/account/"), (WEBSITE, "website", "/website/")
    )
)


def certify(folder: Path) -> None:
    """A certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "tls.key").write_bytes(key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))


class Chromium(unittest.TestCase):
    """Chromium"""

    def logs_in(self, host: str, wechat: str, tls: str) -> None:
        """Runs the script against a gateway of its own, and shows what failed.

        To a browser `localhost` and 127.0.0.1 are two sites, as a shop and WeChat are.
        """
        folder = Stage.folder("Chromium")
        folder.mkdir()
        certify(folder)
        backend = PhpBuiltIn(folder)
        self.addCleanup(backend.stop)
        tap, sandbox = Stage.wechat()
        open_base = f"http://{wechat}:{sandbox}"

        def adapt(text: str) -> str:
            return text.replace("[wechat]\n", f'[wechat]\nopen_base = "{open_base}"\n') + WEB + tls

        gateway = Gateway(
            folder / "gateway", tap, sandbox, f"127.0.0.1:{backend.port}", "fast", adapt
        )
        self.addCleanup(gateway.stop)
        scheme = "https" if tls else "http"
        ran = subprocess.run(
            ["node", str(SCRIPT), f"{scheme}://{host}:{gateway.port}", open_base, ACCOUNT, WEBSITE],
            env={**os.environ, "NODE_PATH": str(Path(os.environ["SDKS"]) / "node_modules")},
            capture_output=True, text=True, timeout=300,
        )
        lines = ran.stdout.splitlines()
        for line in lines:
            if line.startswith("secret "):
                leaks.secret(line.removeprefix("secret "))
        told = [line for line in lines if not line.startswith(("ok ", "secret "))]
        self.assertEqual(ran.returncode, 0, "\n".join(told) + ran.stderr[-2000:])
        checks = sum(line.startswith("ok ") for line in lines)
        self.assertEqual(lines[-1], f"{checks} passed, 0 failed")
        self.assertGreater(checks, 10)
        print(f"  {checks} checks", end=" ", flush=True)

    def test_logs_in_over_tls_and_http_2(self) -> None:
        self.logs_in("127.0.0.1", "localhost", '\n[server.tls]\ncert = "../tls.crt"\nkey = "../tls.key"\n')

    def test_logs_in_on_a_developers_machine_over_plain_http(self) -> None:
        self.logs_in("localhost", "127.0.0.1", "")
