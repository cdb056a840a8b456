"""VaultConnections against OpenBao: ready, sealed and back, refused, and quiet at rest."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess, install
from tests.e2e.support import API, eventually, settled

pytestmark = pytest.mark.e2e
TOUCH = itertools.count()


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with start_control_plane(openbao=True) as plane:
        install(plane)
        yield plane


@pytest.fixture(scope="module")
def bao(plane: ControlPlane) -> OpenBao:
    assert plane.openbao is not None
    return plane.openbao


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, bao: OpenBao) -> Iterator[OperatorProcess]:
    given = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": login(bao), "SIO_VAULT_ALLOWED_NAMESPACES": "shop"}
    process = OperatorProcess(plane, environment=given)
    process.start()
    yield process
    process.stop()


def login(bao: OpenBao, ttl: str = "1h") -> str:
    made: Any = bao.request("POST", "auth/token/create", {"policies": ["default"], "ttl": ttl})
    return str(made["auth"]["client_token"])


def secret(plane: ControlPlane, name: str, **values: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body | {"stringData": values}))


def connect(plane: ControlPlane, name: str, address: str, auth: dict[str, Any], **spec: Any) -> None:
    said = {"address": address, "auth": auth, "allowedNamespaces": {"names": ["*"]}} | spec
    body = {"apiVersion": API, "kind": "VaultConnection", "metadata": {"name": name}, "spec": said}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))


def look(plane: ControlPlane, name: str) -> None:
    """Have the operator look at once: it does so when the object changes."""
    plane.kubectl("annotate", "vc", name, f"touched={next(TOUCH)}", "--overwrite")


def status(plane: ControlPlane, name: str) -> dict[str, Any]:
    return dict(plane.get("vc", name).get("status") or {})


def reason(plane: ControlPlane, name: str) -> str:
    conditions = status(plane, name).get("conditions") or [{}]
    return str(conditions[0].get("reason"))


def test_ready_sealed_and_ready_again_and_nothing_is_written_meanwhile(
    plane: ControlPlane, bao: OpenBao, operator: OperatorProcess
) -> None:
    secret(plane, "vault-token", token=login(bao))
    connect(plane, "calm", bao.address, {"token": {"secretRef": {"name": "vault-token"}}})
    eventually(lambda: reason(plane, "calm") == "Ready")
    shown = status(plane, "calm")
    assert (shown["sealed"], shown["tokenTTL"]) == (False, "1h")
    assert shown["version"].count(".") == 2
    before = settled(plane)

    bao.seal()
    look(plane, "calm")
    eventually(lambda: reason(plane, "calm") == "Sealed", 10)
    away = settled(plane)
    assert status(plane, "calm")["sealed"] is True
    assert status(plane, "calm")["version"] == shown["version"]

    bao.unseal()
    began = time.monotonic()
    eventually(lambda: reason(plane, "calm") == "Ready", 15)
    print(f"ready {time.monotonic() - began:.1f} s after it was unsealed")
    after = settled(plane)
    for counted in (away - before, after - away):
        assert sum(n for key, n in counted.items() if key[1] == "vaultconnections") <= 2, counted
    told = [
        e["reason"]
        for e in plane.get("events", "--namespace=default")["items"]
        if e["involvedObject"]["name"] == "calm"
    ]
    assert sorted(told) == ["Ready", "Ready", "Sealed"]

    operator.stop()
    operator.start()
    assert sum(n for key, n in (settled(plane) - after).items() if key[1] == "vaultconnections") == 0


def test_what_stands_in_the_way_is_told_and_no_secret_with_it(
    plane: ControlPlane, bao: OpenBao, operator: OperatorProcess
) -> None:
    connect(plane, "missing", bao.address, {"token": {"secretRef": {"name": "not-there"}}})
    secret(plane, "wrong-token", token="hvs.wrong-token-of-somebody")
    connect(plane, "refused", bao.address, {"token": {"secretRef": {"name": "wrong-token"}}})
    connect(plane, "nobody", "http://127.0.0.1:9", {"kubernetes": {}})
    connect(plane, "not-tls", bao.address.replace("http:", "https:"), {"kubernetes": {}})
    connect(plane, "open", bao.address, {"kubernetes": {}})
    eventually(lambda: reason(plane, "open") == "Ready")
    eventually(lambda: reason(plane, "missing") == "SettingsUnusable")
    eventually(lambda: reason(plane, "refused") in ("LoginFailed", "SettingsUnusable"))
    eventually(lambda: reason(plane, "nobody") == "Unreachable")
    eventually(lambda: reason(plane, "not-tls") == "TLSUntrusted")
    message = status(plane, "missing")["conditions"][0]["message"]
    assert f"Secret {NAMESPACE}/not-there does not exist" in message

    secret(plane, "not-there", token=login(bao))
    look(plane, "missing")
    eventually(lambda: reason(plane, "missing") == "Ready")
    assert "VaultConnection default: ready" in operator.log
    everything = operator.log + plane.kubectl("get", "vc,events", "--all-namespaces", "-o=yaml").stdout
    assert "hvs.wrong-token-of-somebody" not in everything.replace("kubectl.kubernetes.io", "")


def test_a_deleted_connection_is_let_go(plane: ControlPlane, bao: OpenBao, operator: OperatorProcess) -> None:
    bao.request("POST", "sys/auth/approle", {"type": "approle"})
    bao.request("POST", "auth/approle/role/operator", {"token_policies": "default", "token_ttl": "30m"})
    role_id: Any = bao.request("GET", "auth/approle/role/operator/role-id")["data"]["role_id"]
    made: Any = bao.request("POST", "auth/approle/role/operator/secret-id")
    before = set(bao.request("LIST", "auth/token/accessors")["data"]["keys"])
    secret(plane, "vault-approle", **{"secret-id": made["data"]["secret_id"]})
    auth = {"appRole": {"roleID": role_id, "secretIDSecretRef": {"name": "vault-approle"}}}
    connect(plane, "approle", bao.address, auth)
    eventually(lambda: reason(plane, "approle") == "Ready")
    assert status(plane, "approle")["tokenTTL"] == "30m"
    assert len(set(bao.request("LIST", "auth/token/accessors")["data"]["keys"]) - before) == 1

    plane.kubectl("delete", "vc", "approle")
    eventually(lambda: not set(bao.request("LIST", "auth/token/accessors")["data"]["keys"]) - before)
