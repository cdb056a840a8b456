"""A trust domain's token keys: public everywhere before they sign, dropped everywhere when they are revoked."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.e2e.support import Space, eventually, settled, trust_domain

pytestmark = pytest.mark.e2e
QUICK = {"rotateEvery": "60s", "maxTokenTTL": "10s", "cacheTime": "1s", "propagation": "1s"}


class Issuer:
    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.name = f"td-{secrets.token_hex(3)}"

    def apply(self, **jwt: Any) -> None:
        bundle = {"target": {"namespaceSelector": {"matchLabels": {"tokens": self.name}}, "formats": ["SPIFFE"]}}
        trust_domain(self.plane, self.name, bundle=bundle, jwt=QUICK | jwt, deletionPolicy="Delete")

    def published(self) -> set[str]:
        found = self.plane.find("configmap", "serviceidentity-jwks", f"--namespace={NAMESPACE}") or {}
        data = found.get("data", {})
        return _ids(data.get(f"{self.name}.json"))

    def copied(self, space: Space) -> tuple[set[str], set[str], int]:
        copy = space.plane.find("configmap", f"{self.name}-trust-bundle", f"--namespace={space.name}")
        found = copy["data"] if copy else {"bundle.spiffe.json": '{"keys": [], "spiffe_sequence": 0}'}
        spiffe = json.loads(found["bundle.spiffe.json"])
        tokens = {key["kid"] for key in spiffe["keys"] if key["use"] == "jwt-svid"}
        return _ids(found.get("jwks.json")), tokens, spiffe["spiffe_sequence"]

    @property
    def keys(self) -> dict[str, str]:
        shown = (self.plane.get("td", self.name).get("status") or {}).get("jwt") or {}
        return {key["state"]: key["keyID"] for key in shown.get("keys", ())}

    def ask(self, what: str) -> None:
        self.plane.kubectl(
            "annotate", "td", self.name, f"serviceidentity.dev/{what}={secrets.token_hex(3)}", "--overwrite"
        )


def _ids(text: str | None) -> set[str]:
    return {key["kid"] for key in json.loads(text)["keys"]} if text else set()


@pytest.fixture
def issuer(control_plane: ControlPlane, operator: OperatorProcess) -> Iterator[Issuer]:
    found = Issuer(control_plane)
    yield found
    control_plane.kubectl("delete", "td", found.name, "--ignore-not-found", "--wait=false")


def test_a_key_is_published_everywhere_rotated_revoked_and_gone_with_its_trust_domain(
    issuer: Issuer, space: Space
) -> None:
    plane = issuer.plane
    plane.kubectl("label", "namespace", space.name, f"tokens={issuer.name}")
    issuer.apply()
    first = eventually(lambda: issuer.keys.get("Active"))
    assert issuer.published() == {first}
    eventually(lambda: issuer.copied(space)[:2] == ({first}, {first}))
    sequence = issuer.copied(space)[2]

    before = settled(plane)
    plane.kubectl("annotate", "td", issuer.name, "somebody=else")
    assert settled(plane) - before == {("PATCH", "trustdomains", ""): 1}  # the annotation itself

    issuer.ask("rotate-jwt")
    second = eventually(lambda: {issuer.keys.get("Prepared"), issuer.keys.get("Active")} - {first, None}).pop()
    eventually(lambda: issuer.keys.get("Active") == second)
    assert issuer.published() == {first, second}
    assert issuer.copied(space)[:2] == ({first, second}, {first, second})
    assert issuer.copied(space)[2] > sequence

    issuer.ask("revoke-jwt")
    third = eventually(lambda: {issuer.keys.get("Active")} - {first, second, None}).pop()
    eventually(lambda: issuer.published() == issuer.copied(space)[0] == {third})

    can = plane.kubectl(
        "auth", "can-i", "get", "configmap/serviceidentity-jwks", f"--namespace={NAMESPACE}",
        "--as=somebody", "--as-group=system:authenticated", check=False,
    )  # fmt: skip
    assert can.stdout.strip() == "yes"

    plane.kubectl("delete", "td", issuer.name)
    # The garbage collector of a new cluster takes its time.
    plane.kubectl("delete", "secret", f"{issuer.name}-token-keys", f"--namespace={NAMESPACE}", "--ignore-not-found")
    eventually(lambda: not issuer.published())
