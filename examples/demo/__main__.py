"""python -m examples.demo [--keep]: the operator at work on a real control plane. Exits non-zero if a step fails."""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from examples.demo import mtls, rotation, signing
from examples.demo.screen import Screen
from serviceidentity.domain.pki import certificates, keys
from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.operator import OperatorProcess, install

SHOP: Final = Path(__file__).resolve().parents[1] / "shop"
SERVICES: Final = ("order-service", "payment-service", "inventory-service")
OURS: Final = frozenset({"secrets", "serviceidentities", "trustdomains"})

Data = dict[str, str]


class Demo:
    """One run."""

    def __init__(self, plane: ControlPlane, screen: Screen) -> None:
        self.plane, self.screen = plane, screen
        self.operator = OperatorProcess(plane)

    def read(self, name: str) -> Data:
        """Return the data of a Secret in the shop."""
        return dict(self.plane.get("secret", name, "--namespace=shop")["data"])

    def issue(self) -> None:
        """Apply the manifests and wait."""
        self.screen.head("Three services ask for an identity")
        self.operator.start()
        self.plane.kubectl("apply", "-k", str(SHOP))
        started = time.monotonic()
        self.plane.kubectl("wait", "--for=condition=Ready", "sid", "--all", "--namespace=shop", "--timeout=30s")
        self.screen.step("all Ready", True, f"{time.monotonic() - started:.1f} s after kubectl apply returned")
        self.screen.say(self.plane.kubectl("get", "sid", "--namespace=shop").stdout)
        self.screen.say(self.plane.kubectl("get", "secrets", "--namespace=shop").stdout)
        for name in SERVICES if shutil.which("openssl") else ():
            self.screen.step(f"openssl verifies {name}", _openssl(self.read(f"{name}-tls")))

    def handshakes(self) -> None:
        """Mutual TLS, accepted and refused."""
        self.screen.head("Mutual TLS between order-service and payment-service")
        client, server = self.read("order-service-tls"), self.read("payment-service-tls")
        outcome = mtls.connect(server, client, "payment-service.shop.svc")
        caller = outcome.caller
        detail = f"caller {caller.common_name}, {caller.spiffe_id}" if caller else outcome.refused
        self.screen.step("both sides verified", caller is not None and caller.common_name == "order-service", detail)
        outcome = mtls.connect(server, None, "payment-service", trusted=server)
        self.screen.step("without a certificate: refused", outcome.caller is None, outcome.refused)
        outcome = mtls.connect(server, _stranger(), "payment-service", trusted=server)
        self.screen.step("with a certificate of another CA: refused", outcome.caller is None, outcome.refused)

    def requests(self) -> None:
        """Signed requests, accepted and refused."""
        self.screen.head("Signed requests from order-service to payment-service")
        key = bytes.fromhex(b64decode(self.read("order-service-hmac")["key"]).decode())
        keyring = b64decode(self.read("payment-service-hmac-keyring")["keyring.json"])
        body, now = {"amount": 12.5, "currency": "EUR", "note": "für Käse"}, int(time.time() * 1000)
        headers = signing.sign("order-service", key, body, now)
        cases = (
            ("accepted", headers, body, now, ""),
            ("body changed: refused", headers, body | {"amount": 0.01}, now, "Invalid signature"),
            ("replayed after five minutes: refused", headers, body, now + 300_001, "Request expired"),
            ("unknown service: refused", headers | {"X-Service-ID": "nobody"}, body, now, "Unknown service"),
            ("short signature: refused", headers | {"X-Signature": "ab"}, body, now, "Invalid signature"),
        )
        for what, given, content, at, expected in cases:
            try:
                answer = f"from {signing.verify(keyring, given, content, at)}"
                self.screen.step(what, not expected, answer)
            except signing.RefusedError as error:
                self.screen.step(what, str(error) == expected, str(error))

    def rotations(self, seconds: float) -> None:
        """Everything rotates while it is in use."""
        self.screen.head(f"Rotation in fast motion, {seconds:.0f} seconds under traffic")
        spec = {
            "certificate": {"duration": "15s", "renewBefore": "9s"},
            "hmac": {"rotateEvery": "10s", "overlap": "4s", "publishBefore": "2s"},
        }
        patch = json.dumps({"spec": spec})
        self.plane.kubectl("patch", "sid", "order-service", "--namespace=shop", "--type=merge", "--patch", patch)
        tally = rotation.run(self.read, seconds, self.screen.say)
        detail = f"{tally.connections} connections, {tally.requests} signed requests, {len(tally.failures)} failed"
        self.screen.step("no failed connection or request", not tally.failures, detail)
        for failure in tally.failures[:5]:
            self.screen.say(failure)
        self.screen.step("certificates rotated", len(tally.certificates) > 2, f"{len(tally.certificates)} seen")  # noqa: PLR2004
        self.screen.step("HMAC keys rotated", len(tally.keys) > 3, f"{len(tally.keys)} states of the ring seen")  # noqa: PLR2004
        calm = json.dumps({"spec": {"certificate": {"duration": "24h", "renewBefore": None}, "hmac": None}})
        self.plane.kubectl("patch", "sid", "order-service", "--namespace=shop", "--type=merge", "--patch", calm)
        self.plane.kubectl("apply", "-k", str(SHOP))
        self.settle()

    def repair(self) -> None:
        """Rotation on demand, drift, and a restart."""
        self.screen.head("On demand, by accident, and after a restart")
        before = self.plane.get("sid", "payment-service", "--namespace=shop")["status"]["certificate"]["serialNumber"]
        annotation = f"serviceidentity.dev/rotate={time.time():.0f}"
        self.plane.kubectl("annotate", "sid", "payment-service", "--namespace=shop", annotation)
        self.screen.step("rotated by annotation", *self.within_seconds(lambda: self.serial() != before))
        content = self.read("order-service-tls")
        self.plane.kubectl("delete", "secret", "order-service-tls", "--namespace=shop")
        self.screen.step("deleted Secret is back", *self.within_seconds(lambda: self.content() == content))
        self.settle()
        writes = self.writes()
        self.operator.kill()
        self.operator.start()
        time.sleep(2)
        written = self.writes() - writes
        self.screen.step("restart after kill -9 writes nothing", written == 0, f"{written} writes")

    def serial(self) -> str:
        """Return the serial number of payment-service's certificate, from its status."""
        status = self.plane.get("sid", "payment-service", "--namespace=shop")["status"]
        return str(status["certificate"]["serialNumber"])

    def content(self) -> Data | None:
        """Return order-service's certificate Secret, if it is there."""
        result = self.plane.kubectl("get", "secret", "order-service-tls", "--namespace=shop", "-o=json", check=False)
        return dict(json.loads(result.stdout)["data"]) if result.returncode == 0 else None

    def within_seconds(self, reached: Callable[[], bool], limit: float = 5) -> tuple[bool, str]:
        """Return whether it was reached in time, and after how long."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            if reached():
                return True, f"after {(time.monotonic() - started) * 1000:.0f} ms, kubectl included"
            time.sleep(0.02)
        return False, f"not within {limit:.0f} s"

    def settle(self) -> None:
        """Wait until nobody writes any more."""
        before = self.writes()
        for _ in range(20):
            time.sleep(1)
            if (now := self.writes()) == before:
                return
            before = now

    def writes(self) -> int:
        """Return how many writes to what the operator writes there have been."""
        return sum(number for key, number in self.plane.api_writes().items() if key[1] in OURS)


def _openssl(secret: Data) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        for name in ("tls.crt", "ca.crt"):
            (Path(directory) / name).write_bytes(b64decode(secret[name]))
        command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-untrusted", "tls.crt", "tls.crt"]
        return subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0


def _stranger() -> Data:
    """Return a certificate Secret's data that somebody made for themselves, with the right name in it."""
    now = datetime.now(UTC).replace(microsecond=0)
    validity = certificates.Validity(now - timedelta(minutes=5), now + timedelta(hours=1))
    root_key, key = keys.generate(keys.KeyProfile()), keys.generate(keys.KeyProfile())
    root = certificates.issue_root(certificates.Subject("stranger"), root_key, validity)
    leaf = certificates.issue_leaf(
        certificates.Subject("order-service"),
        certificates.SubjectAltNames("spiffe://shop.example/ns/shop/sa/order-service"),
        certificates.DEFAULT_USAGES,
        key.public_key(),
        certificates.Issuer(root, root_key),
        validity,
    )
    pem = {
        "tls.crt": certificates.encode_chain(leaf),
        "tls.key": keys.encode(key, keys.KeyEncoding.PKCS8),
        "ca.crt": certificates.encode_chain(root),
    }
    return {name: _b64(value) for name, value in pem.items()}


def _b64(value: bytes) -> str:
    return b64encode(value).decode()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running at the end, until Ctrl-C")
    parser.add_argument("--seconds", type=float, default=25, help="how long the rotation under traffic takes")
    given = parser.parse_args()
    screen = Screen()
    screen.head("Starting etcd, kube-apiserver, kube-controller-manager and OpenBao ...")
    try:
        with start_control_plane(openbao=True) as plane:
            install(plane)
            screen.say(", ".join(plane.pids()) + " run; CRDs and rights are installed")
            demo = Demo(plane, screen)
            try:
                for part in (demo.issue, demo.handshakes, demo.requests, lambda: demo.rotations(given.seconds)):
                    part()
                demo.repair()
                screen.table()
                if given.keep:
                    keep(plane, screen)
            finally:
                demo.operator.stop()
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    return 1 if screen.failed else 0


def keep(plane: ControlPlane, screen: Screen) -> None:
    """Say how to play with it, and wait for Ctrl-C."""
    screen.head("It goes on running; Ctrl-C ends it. In another terminal:")
    screen.say(f"export KUBECONFIG={plane.admin_kubeconfig}")
    screen.say("kubectl get sid,td,secrets -n shop\nkubectl explain sid.spec.certificate")
    screen.say("kubectl annotate sid -n shop order-service serviceidentity.dev/rotate=1")
    signal.pause()


if __name__ == "__main__":
    sys.exit(main())
