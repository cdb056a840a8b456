"""Secrets of Vault (OpenBao here) as a service has them, with no more rights in Vault than the docs say."""

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.controlplane import ControlPlane
from tests.controlplane.databases import add_static_role, enable_database
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.controlplane.postgres import Postgres, start_postgres
from tests.e2e.support import API, Space, chain, eventually, fits, new_space, settled
from tests.e2e.test_vault_pki import plane_with_vault

CONNECTIONS = Path(__file__).parents[2] / "crds/vaultconnections.serviceidentity.dev.yaml"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not CONNECTIONS.exists(), reason="there are no connections to Vault yet"),
]
__all__ = ["plane_with_vault"]
DOCS = (Path(__file__).parents[2] / "docs/vault-secrets.md").read_text()
POLICY = re.findall(r"```hcl\n(.*?)```", DOCS, re.DOTALL)[0]
EXAMPLE = yaml.safe_load((Path(__file__).parents[2] / "examples/vault/service-identity.yaml").read_text())


def prepared(plane: ControlPlane, postgres: Postgres) -> OpenBao:
    """Set up the engines, and a connection for all namespaces, which may do what the docs say."""
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("POST", "sys/mounts/legacy", {"type": "kv", "options": {"version": "1"}})
    bao.request("POST", "sys/mounts/transit", {"type": "transit"})
    bao.request("POST", "transit/keys/files")
    bao.request("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
    bao.request("POST", "pki/root/generate/internal", {"common_name": "Edge root", "ttl": "8000h", "key_type": "ec"})
    bao.request("POST", "pki/roles/edge", {"allowed_domains": "example.org", "allow_subdomains": True, "ttl": "1h"}
                | {"key_type": "any", "enforce_hostnames": False, "cn_validations": ["disabled"]})  # fmt: skip
    enable_database(bao, postgres)
    add_static_role(bao, postgres, "reports", "6s")
    more = 'path "legacy/*" { capabilities = ["read"] }'
    bao.request("PUT", "sys/policies/acl/operator", {"policy": POLICY + more})
    token: Any = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
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


def write(bao: OpenBao, path: str, **values: Any) -> None:
    bao.request("POST", f"secret/data/{path}", {"data": values})


def entry(space: Space, name: str, secret: str) -> dict[str, Any]:
    found = {one["name"]: one for one in space.status(name).get("vault", [])}
    return dict(found.get(secret, {}))


def why(space: Space, name: str, secret: str) -> str:
    return str(space.condition(name, f"VaultReady.{secret}").get("reason"))


def test_every_source_that_is_read_or_made_arrives_is_kept_right_and_follows_vault(
    plane_with_vault: ControlPlane,
) -> None:
    plane = plane_with_vault
    with start_postgres() as postgres:
        bao = prepared(plane, postgres)
        operator = OperatorProcess(plane)
        operator.start()
        write(bao, "api-keys/stripe", key="sk-1", id=7)
        write(bao, "registry", user="u", token="t")
        space = new_space(plane)
        space.apply("order-service", EXAMPLE["spec"])
        space.ready("order-service")
        example(space, postgres)
        kv(space, bao)
        away(space, bao, operator)


def example(space: Space, postgres: Postgres) -> None:
    """What the example asks for."""
    assert space.data("order-service-stripe") == {"key": b"sk-1", "id": b"7"}
    registry = space.secret("order-service-registry")
    assert registry is not None
    assert registry["type"] == "kubernetes.io/dockerconfigjson"
    config = json.loads(b64decode(registry["data"][".dockerconfigjson"]))
    assert b64decode(config["auths"]["registry.example.org"]["auth"]) == b"u:t"
    edge = space.data("order-service-edge")
    assert fits(edge)
    assert chain(edge)[0].subject.rfc4514_string() == "CN=order-service"
    assert entry(space, "order-service", "edge")["certificate"][
        "serialNumber"
    ] == f"{chain(edge)[0].serial_number:x}".zfill(40)
    files = space.data("order-service-files")
    assert len(files["plaintext"]) == 32
    assert files["ciphertext"].startswith(b"vault:v1:")
    seen: set[bytes] = set()

    def logs_in_with_another_password() -> bool:
        password = url(space)
        if password not in seen and postgres.lets_in("reports", password.decode()):
            seen.add(password)
        return len(seen) >= 2

    eventually(logs_in_with_another_password, 30)


def url(space: Space) -> bytes:
    return space.data("order-service-reports")["url"].split(b":")[2].split(b"@")[0]


def kv(space: Space, bao: OpenBao) -> None:
    """Both versions of the engine, a pinned version, drift, a change, a deletion, a template that needs what is not there."""
    bao.request("POST", "legacy/app", {"name": "old"})
    secrets = [
        {"name": "now", "kv": {"path": "api-keys/stripe"}, "refreshEvery": "5s"},
        {"name": "then", "kv": {"path": "api-keys/stripe", "version": 1}, "refreshEvery": "5s"},
        {"name": "legacy", "kv": {"mount": "legacy", "path": "app"}, "refreshEvery": "5s"},
        {"name": "lacking", "kv": {"path": "api-keys/stripe"}, "templates": {"x": "{{ nothing }}"}},
        {"name": "elsewhere", "kv": {"path": "api-keys/nowhere"}},
        {"name": "forbidden", "kv": {"path": "other/stripe"}},
    ]
    space.apply("reader", {"vault": {"secrets": secrets}})
    eventually(lambda: {why(space, "reader", name) for name in ("now", "then", "legacy")} == {"Issued"})
    assert [why(space, "reader", name) for name in ("lacking", "elsewhere", "forbidden")] == [
        "SecretNotAsExpected", "NotFoundInVault", "VaultRefused",
    ]  # fmt: skip
    assert "'nothing'" in space.condition("reader", "VaultReady.lacking")["message"]
    assert entry(space, "reader", "now")["version"] == entry(space, "reader", "then")["version"] == 1
    assert space.data("reader-legacy") == {"name": b"old"}

    space.kubectl("patch", "secret", "reader-now", '-p={"stringData":{"key":"evil","more":"x"}}')
    eventually(lambda: space.data("reader-now") == {"key": b"sk-1", "id": b"7"})
    write(bao, "api-keys/stripe", key="sk-2")
    bao.request("POST", "legacy/app", {"name": "new"})
    write(bao, "api-keys/nowhere", found="it")
    eventually(lambda: space.data("reader-now") == {"key": b"sk-2"})
    assert entry(space, "reader", "now")["version"] == 2
    eventually(lambda: space.data("reader-legacy") == {"name": b"new"})
    assert space.data("reader-then") == {"key": b"sk-1", "id": b"7"}
    eventually(lambda: why(space, "reader", "elsewhere") == "Issued", 30)
    bao.request("DELETE", "secret/data/api-keys/stripe")
    eventually(lambda: why(space, "reader", "now") == "NotFoundInVault")
    assert space.data("reader-now") == {"key": b"sk-2"}
    assert why(space, "reader", "then") == "Issued"
    write(bao, "api-keys/stripe", key="sk-3")
    space.kubectl("annotate", "sid", "reader", "serviceidentity.dev/rotate=now")
    eventually(lambda: space.data("reader-now") == {"key": b"sk-3"})


def away(space: Space, bao: OpenBao, operator: OperatorProcess) -> None:
    """Sealed and unsealed, with a restart in between: nothing is lost, made anew or written for nothing."""
    space.kubectl("delete", "sid", "reader")
    eventually(lambda: not any(name.startswith("reader-") for name in space.secrets()), 30)  # not ours to count

    def kept() -> dict[str, Any]:
        return {name: one["data"] for name, one in space.secrets().items() if not name.endswith("reports")}

    before = kept()
    bao.seal()
    eventually(lambda: why(space, "order-service", "reports") == "VaultUnavailable", 30)
    operator.stop()
    counted = settled(space.plane)
    operator.start()
    written = settled(space.plane) - counted
    # What was read by the operator before, and can't be now, may be said so; nothing else is written.
    told = written.pop(("PATCH", "serviceidentities", "status"), 0)
    assert told <= 1
    assert not [key for key in written if key[1] != "events"]
    space.kubectl("patch", "secret", "order-service-edge", '-p={"data":{"tls.key":""}}')
    eventually(lambda: kept() == before)
    bao.unseal()
    space.ready("order-service", timeout=30)
    assert kept() == before
    assert fits(space.data("order-service-edge"))
