"""Vault away under load: nobody asks but for its health, nothing is lost, and everyone comes back, few at a time."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.controlplane import ControlPlane
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.e2e.support import API, Space, eventually, new_space, trust_domain, writes
from tests.e2e.test_vault_pki import plane_with_vault

pytestmark = pytest.mark.e2e
__all__ = ["plane_with_vault"]
MANY = 40
IN_FLIGHT = 8  # what a connection allows by default
POLICY = """
path "secret/data/app/*" { capabilities = ["read"] }
path "sys/internal/ui/mounts/*" { capabilities = ["read"] }
"""


def prepared(plane: ControlPlane) -> OpenBao:
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
    token: Any = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
    for number in range(MANY):
        bao.request("POST", f"secret/data/app/{number}", {"data": {"key": f"value-{number}"}})
    plane.kubectl(
        "create", "secret", "generic", "vault-token", f"--namespace={NAMESPACE}", f"--from-literal=token={token}"
    )
    spec = {
        "address": bao.address,
        "auth": {"token": {"secretRef": {"name": "vault-token"}}},
        "allowedNamespaces": {"names": ["*"]},
    }
    body = {"apiVersion": API, "kind": "VaultConnection", "metadata": {"name": "default"}, "spec": spec}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))
    return bao


def apply_all(space: Space) -> None:
    bodies = []
    for number in range(MANY):
        vault = {"secrets": [{"name": "app", "kv": {"path": f"app/{number}"}, "refreshEvery": "5s"}]}
        meta = {"name": f"i-{number}", "namespace": space.name}
        body = {"apiVersion": API, "kind": "ServiceIdentity", "metadata": meta, "spec": {"vault": vault}}
        bodies.append(body)
    space.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies}))


def say(space: Space, reason: str) -> bool:
    """Whether all of them say so."""
    items = space.plane.get("sid", f"--namespace={space.name}", "--selector=!other")["items"]
    conditions = [(item.get("status") or {}).get("conditions") or [{}] for item in items]
    return len(items) == MANY and all(one[0].get("reason") == reason for one in conditions)


def statuses(plane: ControlPlane) -> int:
    return writes(plane)["PATCH", "serviceidentities", "status"]


@contextmanager
def hanging(bao: OpenBao) -> Iterator[None]:
    os.kill(bao.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(bao.process.pid, signal.SIGCONT)


def test_sealed_or_hanging_under_load_it_is_left_alone_and_all_come_back(plane_with_vault: ControlPlane) -> None:
    plane = plane_with_vault
    bao = prepared(plane)
    trust_domain(plane, "default")
    operator = OperatorProcess(plane)
    operator.start()
    space = new_space(plane)
    apply_all(space)
    eventually(lambda: say(space, "Ready"), 30)
    secrets = {name: secret["data"] for name, secret in space.secrets().items()}

    before = statuses(plane)
    bao.seal()
    eventually(lambda: say(space, "VaultUnavailable"), 30)
    bao.unseal()
    eventually(lambda: say(space, "Ready"), 30)
    # One write each way, but for those who were the first to ask when it came back and went away again.
    assert 2 * MANY <= statuses(plane) - before <= 2 * MANY + IN_FLIGHT
    assert {name: secret["data"] for name, secret in space.secrets().items()} == secrets

    with hanging(bao):
        # It is not waited for: what needs nothing of it is served as ever.
        space.apply("other", {"certificate": {}}, labels={"other": ""})
        space.ready("other")
        eventually(lambda: say(space, "VaultUnavailable"), 30)
    eventually(lambda: say(space, "Ready"), 30)
    assert {name: secret["data"] for name, secret in space.secrets().items() if name in secrets} == secrets
