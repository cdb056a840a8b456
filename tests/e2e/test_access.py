"""An AccessPolicy as its author and a service see it, on a cluster."""

import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import KeySet

from tests.controlplane import ControlPlane
from tests.controlplane.operator import NAMESPACE
from tests.e2e.support import Space, eventually, settled

pytestmark = pytest.mark.e2e


def policy(name: str = "payments", **spec: Any) -> str:
    said = {
        "services": [{"name": "orders"}],
        "rules": [{"name": "permitted", "effect": "Allow", "expression": "principal.permitted"}],
    }
    body = {"apiVersion": "serviceidentity.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": name}}
    return json.dumps(body | {"spec": said | spec})


def condition(space: Space, name: str, type_: str = "Ready") -> tuple[str, str] | None:
    found = space.plane.get("ap", name, f"--namespace={space.name}")
    conditions = found.get("status", {}).get("conditions", [])
    return next(((one["status"], one["reason"]) for one in conditions if one["type"] == type_), None)


def bundle(space: Space, plane: ControlPlane) -> dict[str, Any]:
    """Verify the bundle with nothing but the published keys; return it."""
    text = plane.get("configmap", "orders-policy", f"--namespace={space.name}")["data"]["policy.jws"]
    published = plane.get("configmap", "serviceidentity-jwks", f"--namespace={NAMESPACE}")
    keys = KeySet.import_key_set(json.loads(published["data"]["default.json"]))
    found = jws.deserialize_compact(text, keys, algorithms=["ES256"])
    assert found.headers()["typ"] == "serviceidentity-policy+jws"
    return dict(json.loads(found.payload))


def names(space: Space, plane: ControlPlane) -> list[str]:
    return [one["name"] for one in bundle(space, plane)["policies"]]


def test_a_policy_reaches_its_service_and_goes_with_it(space: Space, control_plane: ControlPlane):
    space.kubectl("apply", "-f=-", input=policy())
    eventually(lambda: condition(space, "payments") == ("False", "NoServiceSelected"))
    space.apply("orders", {"certificate": {}})
    eventually(lambda: condition(space, "payments") == ("True", "Delivered"))
    assert names(space, control_plane) == ["payments"]

    space.kubectl("apply", "-f=-", input=policy("audit"))
    eventually(lambda: names(space, control_plane) == ["audit", "payments"])
    eventually(lambda: condition(space, "audit") == ("True", "Delivered"))
    before = settled(control_plane)
    space.kubectl("annotate", "sid", "orders", "example.org/note=1")
    mine = settled(control_plane) - before
    assert [key[:2] for key in mine] == [("PATCH", "serviceidentities")], "only what was asked for here"
    assert mine.total() == 1

    broken = [{"name": "permitted", "effect": "Allow", "expression": "principle.permitted"}]
    space.kubectl("apply", "-f=-", input=policy(rules=broken))
    eventually(lambda: condition(space, "payments", "Compiled") == ("False", "InvalidSpec"))
    assert names(space, control_plane) == ["audit", "payments"]

    space.kubectl("delete", "configmap", "orders-policy")
    eventually(lambda: control_plane.find("configmap", "orders-policy", f"--namespace={space.name}"))
    assert names(space, control_plane) == ["audit", "payments"]

    space.kubectl("delete", "ap", "audit", "payments")
    eventually(lambda: not control_plane.find("configmap", "orders-policy", f"--namespace={space.name}"))
