"""Issuance policy as its users meet it: a clear refusal, and the certificate as soon as it is allowed."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.controlplane import ControlPlane
from tests.e2e.support import Space, chain, eventually, new_space, trust_domain

pytestmark = pytest.mark.e2e


@pytest.fixture
def neighbour(control_plane: ControlPlane, space: Space) -> Iterator[Space]:
    found = new_space(control_plane)
    yield found
    control_plane.kubectl("delete", "namespace", found.name, "--wait=false")


def refused(space: Space, name: str, reason: str = "PolicyDenied") -> str:
    """Wait until an identity is refused and return what its owner reads."""
    space.kubectl("wait", f"--for=jsonpath={{.status.conditions[0].reason}}={reason}", f"sid/{name}", "--timeout=15s")
    return str(space.condition(name)["message"])


def events(space: Space, reason: str) -> list[dict[str, Any]]:
    items = space.plane.get("events", f"--namespace={space.name}")["items"]
    return [item for item in items if item["reason"] == reason]


def test_a_refusal_says_what_is_wrong_once_and_ends_when_the_policy_allows_it(space: Space):
    trust_domain(space.plane, space.name)
    space.apply(
        "orders",
        {"trustDomainRef": {"name": space.name}, "certificate": {"dnsNames": ["orders", "orders.example.org"]}},
    )
    message = refused(space, "orders")
    assert message.startswith(
        f'spec.certificate.dnsNames[1]: "orders.example.org" is not allowed by TrustDomain {space.name}: dnsNames'
    )
    assert f"orders.{space.name}.svc" in message
    assert space.secret("orders-tls") is None
    (event,) = eventually(lambda: events(space, "PolicyDenied"))
    assert event["message"] == message and event["type"] == "Warning"
    trust_domain(space.plane, space.name, policy={"dnsNames": ["{name}", "{name}.example.org"]})
    space.ready("orders")
    trust_domain(space.plane, space.name, policy={"dnsNames": ["{name}"]})
    assert "; what was issued before is kept until it ends at " in refused(space, "orders")
    assert space.secret("orders-tls") is not None


def test_a_label_of_the_namespace_is_all_that_is_missing(space: Space):
    selector = {"matchExpressions": [{"key": "issue", "operator": "In", "values": ["yes"]}]}
    trust_domain(space.plane, space.name, policy={"namespaces": {"selector": selector}})
    space.apply("orders", {"trustDomainRef": {"name": space.name}, "certificate": {}, "hmac": {}})
    assert f'metadata.namespace: "{space.name}" is not allowed' in refused(space, "orders")
    assert not [name for name in space.secrets() if name.startswith("orders-")]
    space.plane.kubectl("label", "namespace", space.name, "issue=yes")
    space.ready("orders")


def test_a_namespace_gets_no_name_of_its_neighbour(space: Space, neighbour: Space):
    for owner in (space, neighbour):
        owner.apply("payments", {"certificate": {"dnsNames": ["payments", f"payments.{owner.name}.svc"]}})
        owner.ready("payments")
    tricks: dict[str, dict[str, Any]] = {
        "plain": {"certificate": {"dnsNames": [f"payments.{space.name}"]}},
        "full": {"certificate": {"dnsNames": [f"payments.{space.name}.svc.cluster.local"]}},
        "common": {"certificate": {"commonName": f"payments.{space.name}.svc"}},
        "wild": {"certificate": {"dnsNames": [f"*.{space.name}.svc"]}},
        "dotted": {
            "serviceAccountName": f"payments.{space.name}",
            "certificate": {"dnsNames": [f"payments.{space.name}"]},
        },
        space.name: {"certificate": {"dnsNames": [f"payments.{space.name}"]}},
        "uri": {"certificate": {"uris": [f"https://payments.{space.name}/"]}},
    }
    for name, spec in tricks.items():
        neighbour.apply(name, spec)
    for name in tricks:
        assert "is not allowed by TrustDomain default" in refused(neighbour, name)
    assert set(neighbour.secrets()) == {"payments-tls"}


def test_a_service_account_has_one_identity(space: Space):
    spec = {"serviceAccountName": "orders", "certificate": {}}
    space.apply("first", spec)
    space.ready("first")
    space.apply("second", spec)
    spiffe_id = f"spiffe://test.example/ns/{space.name}/sa/orders"
    assert refused(space, "second", "SPIFFEIDInUse") == (
        f"spec.serviceAccountName: {spiffe_id} belongs to ServiceIdentity first"
    )
    space.kubectl("delete", "sid", "first")
    space.ready("second")
    assert len(chain(space.data("second-tls"))) == 2


def test_a_rule_in_cel_speaks_to_the_owner(space: Space):
    rule = {
        "name": "team",
        "expression": "has(object.metadata.labels) && object.metadata.labels['team'] == namespaceObject.metadata.labels['team']",
        "message": "label the identity with the team of its namespace",
    }
    trust_domain(space.plane, space.name, policy={"rules": [rule]})
    space.plane.kubectl("label", "namespace", space.name, "team=shop")
    space.apply("orders", {"trustDomainRef": {"name": space.name}, "certificate": {}})
    assert refused(space, "orders") == (
        f"TrustDomain {space.name}, rule team: label the identity with the team of its namespace"
    )
    space.kubectl("label", "sid", "orders", "team=shop")
    space.ready("orders")


def test_a_rule_that_is_not_cel_is_shown_at_the_trust_domain(space: Space):
    rule = {"name": "typo", "expression": "objekt.metadata.name != ''", "message": "no"}
    trust_domain(space.plane, space.name, policy={"rules": [rule]})
    space.plane.kubectl(
        "wait", "--for=jsonpath={.status.conditions[0].reason}=InvalidSpec", f"td/{space.name}", "--timeout=15s"
    )
    (condition,) = space.plane.get("td", space.name)["status"]["conditions"]
    assert condition["message"] == (
        "spec.policy.rules[0].expression: rule typo: there is no variable objekt, only object and namespaceObject"
    )
