"""The cluster as the demo sees it: the namespace `shop`, and the operator that looks after it."""

import json
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from examples.demo.mtls import Files, peer_of
from tests.controlplane import ControlPlane
from tests.controlplane.operator import OperatorProcess
from tests.controlplane.processes import free_port

API: Final = "serviceidentity.dev/v1alpha1"
MANIFESTS: Final = Path(__file__).resolve().parents[1] / "quickstart"
SERVICES: Final = ("order-service", "payment-service", "inventory-service")
WRITTEN_BY_THE_OPERATOR: Final = frozenset({"secrets", "configmaps", "serviceidentities", "trustdomains"})


class Shop:
    """One namespace with three services."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.port = free_port()  # where the operator serves its public keys
        # With a token of the service account that deploy/ ships.
        self.operator = OperatorProcess(plane, f"--jwks-address=127.0.0.1:{self.port}")

    def kubectl(self, *arguments: str) -> str:
        """Return what kubectl prints, run in the namespace. Raises KubectlError."""
        return self.plane.kubectl("--namespace=shop", *arguments).stdout

    def patch(self, service: str, spec: dict[str, Any]) -> None:
        """Change fields of an identity's spec; None takes one away. Raises KubectlError."""
        self.kubectl("patch", "sid", service, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def apply(self, kind: str, name: str, **spec: Any) -> None:
        """Apply a cluster-scoped object of the operator's group. Raises KubectlError."""
        body = {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.plane.kubectl("apply", "--filename=-", input=json.dumps(body))

    def status(self, service: str) -> dict[str, Any]:
        """Return an identity's status. Raises KubectlError."""
        return dict(json.loads(self.kubectl("get", "sid", service, "--output=json")).get("status", {}))

    def condition(self, service: str, kind: str) -> dict[str, str]:
        """Return one of an identity's conditions; nothing is in it as long as there is none. Raises KubectlError."""
        return next((one for one in self.status(service).get("conditions", ()) if one["type"] == kind), {})

    def lease(self, service: str, secret: str) -> dict[str, Any]:
        """Return what the status says of the lease behind a secret of Vault; nothing as long as there is none."""
        return next(
            (one.get("lease", {}) for one in self.status(service).get("vault", ()) if one["name"] == secret), {}
        )

    def secrets(self) -> list[tuple[str, str, list[str]]]:
        """Return name, type and the names of the keys of every Secret, without what is in them."""
        items = json.loads(self.kubectl("get", "secrets", "--output=json"))["items"]
        return [(item["metadata"]["name"], item["type"], sorted(item["data"])) for item in items]

    def files(self, secret: str) -> Files:
        """Return what is in a Secret now. Raises OSError or KubectlError when there is none."""
        found = json.loads(self.plane.raw(f"/api/v1/namespaces/shop/secrets/{secret}"))
        return {name: b64decode(value) for name, value in found["data"].items()}

    def files_or_none(self, secret: str) -> Files | None:
        """Return what is in a Secret now, if it is there. Raises KubectlError."""
        found = self.kubectl("get", "secret", secret, "--ignore-not-found", "--output=json")
        return {name: b64decode(value) for name, value in json.loads(found)["data"].items()} if found else None

    def public_keys(self, service: str) -> bytes:
        """Return the JWK Set of a service's own signing keys, from its ConfigMap. Raises OSError or KubectlError."""
        found = json.loads(self.plane.raw(f"/api/v1/namespaces/shop/configmaps/{service}-jwks"))
        return str(found["data"]["jwks.json"]).encode()

    def serial(self, service: str) -> str:
        """Return the serial number of a service's certificate, from its Secret."""
        return peer_of(x509.load_pem_x509_certificate(self.files(f"{service}-tls")["tls.crt"])).serial

    def writes(self) -> Counter[str]:
        """Return how many writes there have been so far to the kinds of objects that the operator looks after."""
        found: Counter[str] = Counter()
        for (verb, resource, part), number in self.plane.api_writes().items():
            if resource in WRITTEN_BY_THE_OPERATOR:
                found[f"{verb} {resource}/{part}".rstrip("/")] += number
        return found

    def next_action(self) -> datetime | None:
        """Return when the operator will do something next, as the objects' statuses announce it."""
        items = json.loads(self.kubectl("get", "sid,td", "--output=json"))["items"]
        times = [item.get("status", {}).get("nextActionTime") for item in items]
        return min((datetime.fromisoformat(text) for text in times if text), default=None)

    def settle(self, limit: float = 30) -> None:
        """Return when nothing was written for a second and nothing is due for ten. Raises TimeoutError."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            before = self.writes()
            time.sleep(1)
            due = self.next_action()
            if self.writes() == before and (due is None or due > datetime.now(UTC) + timedelta(seconds=10)):
                return
        raise TimeoutError(f"the operator was still busy after {limit:.0f} s")


def reached_after(reached: Callable[[], bool], limit: float = 5) -> float | None:
    """Return how many seconds it took until `reached` said so; None when it did not within `limit`."""
    started = time.monotonic()
    while not reached():
        if time.monotonic() - started > limit:
            return None
        time.sleep(0.01)
    return time.monotonic() - started
