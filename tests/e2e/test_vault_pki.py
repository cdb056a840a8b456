"""Vault's PKI engine (OpenBao here) signs the intermediate; the root is Vault's, the keys are ours."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import ControlPlane, start_control_plane
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess, install
from tests.e2e.support import chain, eventually, fits, new_space, settled, trust_domain
from tests.e2e.test_brought_along import condition, verified
from tests.e2e.test_ca_rotation import annotate, authorities, states, two_services
from tests.e2e.test_cli import sid
from tests.e2e.traffic import Traffic, openssl_connects

pytestmark = pytest.mark.e2e
POLICY = re.findall(r"```hcl\n(.*?)```", (Path(__file__).parents[2] / "docs/authorities.md").read_text(), re.DOTALL)[0]


@pytest.fixture
def plane_with_vault() -> Iterator[ControlPlane]:
    with start_control_plane(openbao=True) as plane:
        install(plane)
        yield plane


def new_root(bao: OpenBao, name: str) -> None:
    made = bao.request("POST", "pki/root/generate/internal", {"common_name": name, "ttl": "8000h", "key_type": "ec"})
    bao.request("POST", "pki/config/issuers", {"default": made["data"]["issuer_id"]})


def prepared(plane: ControlPlane) -> tuple[OpenBao, dict[str, str]]:
    """Set up the engine; return the operator's environment, with no more rights than the docs say."""
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
    new_root(bao, "Vault root 1")
    bao.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
    token: Any = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
    return bao, {"VAULT_ADDR": bao.address, "VAULT_TOKEN": token}


def test_vault_signs_is_quiet_at_rest_rotates_and_may_be_away(plane_with_vault: ControlPlane) -> None:
    plane = plane_with_vault
    bao, environment = prepared(plane)
    operator = OperatorProcess(plane, environment=environment)
    operator.start()
    trust_domain(plane, "calm", intermediate={"vault": {}, "duration": "240h"}, maxLeafDuration="24h")
    two_services(new_space(plane), "calm", "24h")
    before = settled(plane)
    operator.kill()
    operator.start()
    assert settled(plane) == before, "a restart writes nothing"
    plane.kubectl("delete", "td", "calm", "--wait=false")

    trust_domain(plane, "vault", intermediate={"vault": {}, "duration": "24h"}, maxLeafDuration="10s", propagation="4s",
                 backdate="0s")  # fmt: skip
    space = new_space(plane)
    a, b = two_services(space, "vault", "10s")
    assert verified(a) == verified(b) == ""
    assert openssl_connects(a, b) == ""
    assert states(plane, "vault") == {"root-1": "Active", "intermediate-1": "Active"}
    assert authorities(plane, "vault")["root-1"]["importedFrom"] == "vault:pki"
    assert chain({"tls.crt": a.files["ca.crt"]})[0].subject.rfc4514_string() == "CN=Vault root 1"

    assert "make the new one there" in sid(plane, "ca", "prepare", "vault", fails=True)

    old = chain(a.files)[1]
    with Traffic(a, b) as traffic:
        new_root(bao, "Vault root 2")
        annotate(plane, "vault", look="now")
        eventually(lambda: "root-2" in states(plane, "vault"), 40)
        eventually(lambda: chain(a.files)[1] != old and chain(b.files)[1] != old, 40)
    assert traffic.failures == []
    assert traffic.connections > 50
    assert states(plane, "vault")["intermediate-2"] == "Active"

    bao.seal()
    operator.kill()
    operator.start()
    eventually(lambda: condition(plane, "vault", "SourceReady").get("reason") == "VaultUnavailable", 30)
    assert condition(plane, "vault", "Ready")["status"] == "True"
    space.apply("late", {"trustDomainRef": {"name": "vault"}, "certificate": {"duration": "10s"}})
    space.ready("late")
    assert fits(space.data("late-tls"))
    bao.unseal()
    annotate(plane, "vault", rotate="now")
    eventually(lambda: "intermediate-3" in states(plane, "vault"), 30)
    shown = operator.log + json.dumps(plane.get("td", "vault")) + json.dumps(plane.get("events", "--all-namespaces"))
    assert environment["VAULT_TOKEN"] not in shown
    assert "PRIVATE KEY" not in shown
    keys = plane.get("secrets", f"--namespace={NAMESPACE}", "-l", "serviceidentity.dev/authority-role=Root")["items"]
    assert all("tls.key" not in item["data"] for item in keys)
    operator.stop()
