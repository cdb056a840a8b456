"""Vault's PKI engine (OpenBao here) signs every certificate of a service; keys are made here and stay here."""

import json
from typing import Any

import pytest

from tests.contract.test_vault_leaves import POLICY, issuing, role_in_docs
from tests.controlplane import ControlPlane
from tests.controlplane.openbao import OpenBao
from tests.controlplane.operator import NAMESPACE, OperatorProcess
from tests.e2e.support import chain, eventually, fits, new_space, trust_domain
from tests.e2e.test_brought_along import condition, verified
from tests.e2e.test_ca_rotation import annotate, authorities, states, two_services
from tests.e2e.test_cli import sid
from tests.e2e.test_vault_pki import plane_with_vault
from tests.e2e.traffic import Traffic, openssl_connects

pytestmark = pytest.mark.e2e
__all__ = ["plane_with_vault"]


def prepared(plane: ControlPlane) -> tuple[OpenBao, dict[str, str]]:
    """Set up engine and role as the docs say; return the operator's environment, with no more rights than they say."""
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
    issuing(bao, "Vault issuing 1")
    allow(bao)
    bao.request("PUT", "sys/policies/acl/operator", {"policy": POLICY})
    token: Any = bao.request("POST", "auth/token/create", {"policies": ["operator"]})["auth"]["client_token"]
    return bao, {"VAULT_ADDR": bao.address, "VAULT_TOKEN": token}


def allow(bao: OpenBao, uris: str = "spiffe://*") -> None:
    bao.request("POST", "pki/roles/services", role_in_docs() | {"allowed_uri_sans": uris})


def test_vault_signs_every_leaf_rotates_without_a_failed_handshake_and_may_be_away(
    plane_with_vault: ControlPlane,
) -> None:
    plane = plane_with_vault
    bao, environment = prepared(plane)
    operator = OperatorProcess(plane, environment=environment)
    operator.start()
    trust_domain(plane, "calm", leaves={"vault": {"role": "services"}}, maxLeafDuration="24h")
    calm = new_space(plane)
    leaves = {"vault": {"role": "services"}}
    trust_domain(plane, "vault", leaves=leaves, maxLeafDuration="10s", propagation="2s", backdate="0s")
    space = new_space(plane)
    a, b = two_services(space, "vault", "10s")
    assert verified(a) == verified(b) == ""
    assert openssl_connects(a, b) == ""
    assert states(plane, "vault") == {"root-1": "Active", "intermediate-1": "Active"}
    shown = authorities(plane, "vault")
    assert {one["importedFrom"] for one in shown.values()} == {"vault:pki"}
    assert chain(a.files)[1].subject.rfc4514_string() == "CN=Vault issuing 1"
    assert "make the new one there" in sid(plane, "ca", "rotate", "vault", fails=True)

    old = chain(a.files)[1]
    with Traffic(a, b) as traffic:
        issuing(bao, "Vault issuing 2")
        annotate(plane, "vault", look="now")
        eventually(lambda: states(plane, "vault").get("intermediate-2") == "Prepared", 40)
        eventually(lambda: chain(a.files)[1] != old and chain(b.files)[1] != old, 40)
    assert traffic.failures == []
    assert traffic.connections > 50
    assert states(plane, "vault")["intermediate-2"] == "Active"
    plane.kubectl("delete", "td", "vault", "--wait=false")

    allow(bao, uris="spiffe://elsewhere.example/*")
    calm.apply("greedy", {"trustDomainRef": {"name": "calm"}, "certificate": {}})
    eventually(lambda: calm.condition("greedy").get("reason") == "IssueFailed")
    assert "allowed_uri_sans" in calm.condition("greedy")["message"]
    assert "greedy-tls" not in calm.secrets()
    allow(bao)

    bao.seal()
    calm.apply("late", {"trustDomainRef": {"name": "calm"}, "certificate": {}})
    eventually(lambda: calm.condition("late").get("reason") == "VaultUnavailable", 30)
    assert condition(plane, "calm", "Ready")["status"] == "True"
    bao.unseal()
    calm.ready("late")
    assert fits(calm.data("late-tls"))
    logged = operator.log + json.dumps(plane.get("td", "calm")) + json.dumps(plane.get("events", "--all-namespaces"))
    assert environment["VAULT_TOKEN"] not in logged
    assert "PRIVATE KEY" not in logged
    kept = plane.get("secrets", f"--namespace={NAMESPACE}", "-l", "serviceidentity.dev/authority-role")["items"]
    assert kept
    assert all("tls.key" not in item["data"] for item in kept)
    operator.stop()
