"""Words for the end-to-end tests: apply, wait, read."""

import json
import secrets
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from cryptography import x509

from serviceidentity.domain.pki import certificates, keys
from tests.controlplane import ControlPlane

T = TypeVar("T")
API = "serviceidentity.dev/v1alpha1"
OURS = frozenset(
    {"secrets", "configmaps", "serviceidentities", "trustdomains", "vaultconnections", "accesspolicies", "events"}
)


def eventually(read: Callable[[], T], timeout: float = 15) -> T:
    """Return the first true value that `read` gives; fail when there is none in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := read():
            return value
        time.sleep(0.03)
    raise AssertionError(f"not within {timeout} s")


@dataclass
class Space:
    """A namespace of one test."""

    plane: ControlPlane
    name: str

    def apply(
        self,
        name: str,
        spec: dict[str, Any],
        annotations: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        body = {
            "apiVersion": API,
            "kind": "ServiceIdentity",
            "metadata": {
                "name": name,
                "namespace": self.name,
                "annotations": annotations or {},
                "labels": labels or {},
            },
            "spec": spec,
        }
        self.plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))

    def create(self, name: str, spec: dict[str, Any]) -> None:
        """Create an identity without kubectl, whose start costs a tenth of a second of work: for hundreds of them."""
        body = {"apiVersion": API, "kind": "ServiceIdentity", "metadata": {"name": name}, "spec": spec}
        self.plane.create(f"/apis/{API}/namespaces/{self.name}/serviceidentities", body)

    def ready(self, *names: str, timeout: int = 15) -> None:
        targets = [f"sid/{name}" for name in names] or ["sid", "--all"]
        self.kubectl("wait", "--for=condition=Ready", *targets, f"--timeout={timeout}s")

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return str(self.plane.kubectl(f"--namespace={self.name}", *arguments, **options).stdout)

    def sid(self, name: str) -> dict[str, Any]:
        return dict(self.plane.get("sid", name, f"--namespace={self.name}"))

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.sid(name).get("status") or {})

    def condition(self, name: str, type_: str = "Ready") -> dict[str, Any]:
        conditions = self.status(name).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    def secret(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.plane.find("secret", name, f"--namespace={self.name}")
        return found

    def data(self, name: str) -> dict[str, bytes]:
        secret = self.secret(name)
        assert secret is not None, f"Secret {name} is missing"
        return {key: b64decode(value) for key, value in secret["data"].items()}

    def secrets(self) -> dict[str, dict[str, Any]]:
        items = self.plane.get("secrets", f"--namespace={self.name}")["items"]
        return {item["metadata"]["name"]: item for item in items}

    def ring(self, name: str) -> dict[str, str]:
        return {key["kid"]: key["state"] for key in json.loads(self.data(f"{name}-hmac")["keys.json"])["keys"]}


def new_space(plane: ControlPlane) -> Space:
    space = Space(plane, f"t-{secrets.token_hex(4)}")
    plane.kubectl("create", "namespace", space.name)
    return space


def trust_domain(plane: ControlPlane, name: str, **spec: Any) -> None:
    named = "test.example" if name == "default" else f"{name}.example"  # a SPIFFE trust domain has one TrustDomain
    body = {"apiVersion": API, "kind": "TrustDomain", "metadata": {"name": name}}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body | {"spec": {"trustDomain": named} | spec}))


def chain(data: dict[str, bytes]) -> tuple[x509.Certificate, ...]:
    return certificates.load_chain(data["tls.crt"])


def serial(data: dict[str, bytes]) -> str:
    return f"{chain(data)[0].serial_number:x}"


def fits(data: dict[str, bytes]) -> bool:
    """Whether key and certificate belong together."""
    return certificates.key_matches(chain(data)[0], keys.load(data["tls.key"]))


def writes(plane: ControlPlane) -> Counter[tuple[str, str, str]]:
    return Counter({key: number for key, number in plane.api_writes().items() if key[1] in OURS})


def settled(plane: ControlPlane) -> Counter[tuple[str, str, str]]:
    """Wait until nobody writes any more, and return the counts."""
    before, last = writes(plane), None
    for _ in range(30):
        time.sleep(0.8)
        now = writes(plane)
        if now == before:
            return now
        last, before = now - before, now
    raise AssertionError(f"writes go on and on: {last}")
