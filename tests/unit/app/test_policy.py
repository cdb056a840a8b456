"""A policy at work: what is denied costs nothing and is told once, what changes is followed, and nothing is lost."""

import json
from base64 import b64decode
from datetime import timedelta

from serviceidentity.domain.model import identity_key
from serviceidentity.domain.pki import certificates, keys
from tests.unit.app.scenarios import HMAC, TLS, edit, passes_when_left_alone, restarted, scenario, tell
from tests.unit.domain.builders import DAY, HOUR, trust_domain_body

OTHERS = {"certificate": {"dnsNames": ["payments.shop"]}}
TEAM = {
    "name": "team",
    "expression": "object.metadata.labels.team == namespaceObject.metadata.labels.team",
    "message": "must have the namespace's team",
}


def domain(world, name="default", **spec):
    """Change the spec of the TrustDomain, or add one."""
    key, body = world.engine.inventory.domains, trust_domain_body(**spec)
    old = next((body for known, body in world.api.objects.items() if known.name == name and not known.namespace), {})
    world.api.version += 1
    body["metadata"] |= {
        "name": name,
        "uid": f"uid-td-{name}",
        "generation": old.get("metadata", {}).get("generation", 0) + 1,
        "resourceVersion": str(world.api.version),
        "creationTimestamp": old.get("metadata", {}).get("creationTimestamp", f"2026-01-01T00:00:{len(key):02}Z"),
    }
    if name == "default":
        body["metadata"]["uid"] = "uid-td"
    body["status"] = old.get("status", {})
    woken = world.engine.inventory.put_trust_domain(body)
    (found,) = (known for known in woken if known.name == name and not known.namespace)
    world.api.objects[found] = body
    world.engine.wake(woken)
    return found


def label(world, namespace, **labels):
    world.api.version += 1
    body = {"metadata": {"name": namespace, "resourceVersion": str(world.api.version), "labels": labels}}
    world.engine.wake(world.engine.inventory.put_namespace(body))


def serial(world, at=TLS):
    chain = b64decode(world.api.stored[at].data["tls.crt"])
    return certificates.facts(certificates.load_chain(chain)[0]).serial_number


@scenario
async def test_what_is_denied_costs_one_status_one_event_and_no_key(world, monkeypatch):
    monkeypatch.setattr(keys, "generate", lambda *_: 1 / 0)
    world.api.events.clear()
    key = world.apply(OTHERS)
    await world.settle()
    assert world.ready(key) == ("False", "PolicyDenied")
    assert world.status(key)["conditions"][0]["message"].startswith(
        'spec.certificate.dnsNames[0]: "payments.shop" is not allowed by TrustDomain default: dnsNames (allowed: order-'
    )
    assert world.api.writes == {"status": 1}
    assert [reason for reason, _ in world.api.events] == ["PolicyDenied"]
    assert "nextActionTime" not in world.status(key) and "backoff" not in world.status(key)
    assert await passes_when_left_alone(world) == 0
    world.api.writes.clear()
    await restarted(world)
    assert world.api.writes == {}


@scenario
async def test_a_policy_that_is_widened_lets_it_through(world):
    key = world.apply(OTHERS)
    await world.settle()
    domain(world, policy={"dnsNames": ["payments.shop"]})
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_spec_that_asks_for_less_goes_through(world):
    key = world.apply(OTHERS)
    await world.settle()
    world.apply({"certificate": {"dnsNames": ["order-service.shop.svc"]}}, generation=2)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_label_of_the_namespace_lets_it_through(world):
    domain(world, policy={"namespaces": {"selector": {"matchLabels": {"issue": "yes"}}}})
    label(world, "shop")
    key = world.apply()
    await world.settle()
    conditions = {c["type"]: c["reason"] for c in world.status(key)["conditions"]}
    assert conditions == dict.fromkeys(("Ready", "CertificateReady", "HMACReady"), "PolicyDenied")
    assert not [at for at in world.api.stored if at[0] == "shop"]
    label(world, "shop", issue="yes")
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_an_identity_that_is_seen_before_its_namespace_waits_without_an_event(world):
    domain(world, policy={"namespaces": {"selector": {"matchLabels": {"issue": "yes"}}}})
    key = world.apply()
    await world.settle()
    assert world.ready(key) == ("False", "NamespaceNotSeen")
    label(world, "shop", issue="yes")
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert "NamespaceNotSeen" not in [reason for reason, _ in world.api.events]


@scenario
async def test_a_refusal_is_told_though_the_namespace_was_seen_late(world):
    domain(world, policy={"namespaces": {"selector": {"matchLabels": {"issue": "yes"}}}})
    world.apply()
    await world.settle()
    label(world, "shop")
    await world.settle()
    assert "PolicyDenied" in [reason for reason, _ in world.api.events]


@scenario
async def test_a_rule_follows_the_labels_of_both(world):
    domain(world, policy={"rules": [TEAM]})
    label(world, "shop", team="a")
    key = world.apply({"certificate": {}}, labels={"team": "b"})
    await world.settle()
    condition = world.status(key)["conditions"][0]
    assert condition["message"] == "TrustDomain default, rule team: must have the namespace's team"
    world.apply({"certificate": {}}, labels={"team": "a"})
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    label(world, "shop", team="c")
    await world.settle()
    assert world.ready(key) == ("False", "PolicyDenied")


@scenario
async def test_a_rule_that_is_not_cel_is_the_trust_domains_problem(world):
    found = domain(world, policy={"rules": [TEAM | {"expression": "object.metadata."}]})
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(found) == ("False", "InvalidSpec")
    assert "spec.policy.rules[0].expression: rule team: " in world.status(found)["conditions"][0]["message"]
    assert world.ready(key) == ("False", "TrustDomainNotReady")
    domain(world)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_names_are_no_business_of_hmac_keys(world):
    key = world.apply(OTHERS | {"hmac": {}})
    await world.settle()
    conditions = {c["type"]: c["reason"] for c in world.status(key)["conditions"]}
    assert conditions == {"Ready": "PolicyDenied", "CertificateReady": "PolicyDenied", "HMACReady": "Issued"}
    for _ in range(10):
        await world.settle(5 * DAY)
    assert world.status(key)["hmac"]["keys"], "and they are rotated"
    assert world.api.writes["replace"] > 0


@scenario
async def test_a_policy_that_is_tightened_takes_nothing_away_but_renews_nothing(world):
    key = world.apply({"certificate": {"dnsNames": ["order-service.shop.svc"]}})
    await world.settle()
    before, ends = serial(world), world.status(key)["certificate"]["notAfter"]
    domain(world, policy={"dnsNames": []})
    await world.settle()
    assert world.ready(key) == ("False", "PolicyDenied")
    message = world.status(key)["conditions"][0]["message"]
    assert message.endswith(f"; what was issued before is kept until it ends at {ends}, and not renewed")
    assert world.status(key)["nextActionTime"] == ends
    world.api.writes.clear()
    world.api.events.clear()
    for _ in range(23):
        await world.settle(HOUR)
    assert (serial(world), world.api.writes, world.api.events) == (before, {}, [])
    await world.settle(2 * HOUR)
    assert await passes_when_left_alone(world) == 0
    assert serial(world) == before, "not even when it has ended"
    domain(world)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert serial(world) != before


@scenario
async def test_what_is_kept_is_kept_up_to_date_and_in_shape(world):
    """The roots that it trusts change, somebody edits it, the operator starts anew: it stays of use."""
    key = world.apply({"certificate": {"dnsNames": ["order-service.shop.svc"]}})
    await world.settle()
    domain(world, policy={"dnsNames": []})
    again = await restarted(world)
    before = dict(world.api.stored[TLS].data)
    tell(again, edit(again, TLS, {"tls.crt": "eA=="}))
    await again.settle()
    assert world.api.stored[TLS].data == before
    world.apply({"certificate": {"dnsNames": ["order-service.shop.svc"], "outputFormats": ["DER"]}}, generation=2)
    again.engine.wake(again.engine.inventory.put_identity(world.api.objects[key]))
    await again.settle()
    assert world.api.stored[TLS].data["tls.crt"] == before["tls.crt"] and "key.der" in world.api.stored[TLS].data
    rooted = dict(world.api.objects[next(k for k in world.api.objects if not k.namespace)])
    rooted["metadata"] = rooted["metadata"] | {
        "annotations": {"serviceidentity.dev/rotate-root": "1"},
        "resourceVersion": str(world.api.version + 1),
    }
    world.api.version += 1
    again.engine.wake(again.engine.inventory.put_trust_domain(rooted))
    await again.settle()
    roots = b64decode(world.api.stored[TLS].data["ca.crt"])
    assert len(certificates.load_chain(roots)) == 2
    assert again.ready(key) == ("False", "PolicyDenied")


@scenario
async def test_a_denied_change_of_the_secrets_name_leaves_the_old_one(world):
    world.apply({"certificate": {}})
    await world.settle()
    world.apply({"certificate": {"secretName": "other", "dnsNames": ["payments.shop"]}}, generation=2)
    await world.settle()
    assert TLS in world.api.stored
    world.apply({"certificate": {"secretName": "other"}}, generation=3)
    await world.settle()
    assert TLS not in world.api.stored and ("shop", "other") in world.api.stored


@scenario
async def test_keys_of_a_namespace_that_is_not_allowed_any_more_are_not_rotated(world):
    world.apply({"hmac": {}})
    await world.settle()
    before = world.api.stored[HMAC].data["keys.json"]
    domain(world, policy={"namespaces": {"names": ["elsewhere"]}})
    key = identity_key("shop", "order-service")
    for _ in range(12):
        await world.settle(5 * DAY)
    assert world.ready(key) == ("False", "PolicyDenied")
    assert world.api.stored[HMAC].data["keys.json"] == before


@scenario
async def test_a_verifier_that_gets_no_keyring_holds_up_nobody(world):
    domain(world, policy={"namespaces": {"names": ["shop"]}})
    verifier = {"name": "verifier", "namespace": "attic"}
    key = world.apply({"hmac": {"verifiers": [verifier]}})
    world.apply({"callers": [{"name": "order-service", "namespace": "shop"}]}, uid="uid-2", **verifier)
    await world.settle()
    assert not [at for at in world.api.stored if at[0] == "attic"]
    first = world.status(key)["hmac"]["keys"][0]["keyID"]
    for _ in range(32):
        await world.settle(DAY)
    active = [k["keyID"] for k in world.status(key)["hmac"]["keys"] if k["state"] == "Active"]
    assert active != [first]


@scenario
async def test_the_second_of_a_service_account_does_not_get_its_spiffe_id(world):
    spec = {"certificate": {}, "serviceAccountName": "orders"}
    first = world.apply(spec, name="first", uid="uid-2", creationTimestamp="2026-01-01T00:00:01Z")
    second = world.apply(spec, name="second", uid="uid-3", creationTimestamp="2026-01-01T00:00:02Z")
    await world.settle()
    assert (world.ready(first), world.ready(second)) == (("True", "Ready"), ("False", "SPIFFEIDInUse"))
    assert world.status(second)["conditions"][0]["message"] == (
        "spec.serviceAccountName: spiffe://example.org/ns/shop/sa/orders belongs to ServiceIdentity first"
    )
    assert "spiffeID" in world.status(first) and "spiffeID" not in world.status(second)
    again = await restarted(world)
    assert again.ready(second) == ("False", "SPIFFEIDInUse")
    del world.api.objects[first]
    again.engine.wake(again.engine.inventory.drop_identity("shop", "first", "uid-2"))
    await again.settle()
    assert again.ready(second) == ("True", "Ready")


@scenario
async def test_who_has_a_spiffe_id_keeps_it_from_an_older_one_that_wants_it_now(world):
    older = world.apply(
        {"hmac": {}, "serviceAccountName": "orders"},
        name="older",
        uid="uid-2",
        creationTimestamp="2026-01-01T00:00:01Z",
    )
    holder = world.apply(
        {"certificate": {}, "serviceAccountName": "orders"},
        name="holder",
        uid="uid-3",
        creationTimestamp="2026-01-01T00:00:02Z",
    )
    await world.settle()
    world.apply(
        {"hmac": {}, "certificate": {}, "serviceAccountName": "orders"},
        name="older", uid="uid-2", generation=2, creationTimestamp="2026-01-01T00:00:01Z",
    )  # fmt: skip
    await world.settle()
    assert (world.ready(older), world.ready(holder)) == (("False", "SPIFFEIDInUse"), ("True", "Ready"))
    await world.settle(HOUR * 20)
    assert world.ready(holder) == ("True", "Ready"), "and it is renewed"
    world.apply({"hmac": {}, "serviceAccountName": "orders"}, name="holder", uid="uid-3", generation=2)
    await world.settle()
    assert world.ready(older) == ("True", "Ready"), "given up, it is free"


@scenario
async def test_a_keyring_shows_no_spiffe_id_that_is_another_identitys(world):
    """An identity without a certificate may be of the same service account; its verifiers must not take it for that."""
    world.apply({"callers": [{"name": "*"}]}, name="verifier", uid="uid-9")
    world.apply(
        {"hmac": {"verifiers": [{"name": "verifier"}]}, "serviceAccountName": "orders"}, name="sly", uid="uid-2"
    )
    await world.settle()

    def shown():
        keyring = json.loads(world.api.stored["shop", "verifier-hmac-keyring"].value("keyring.json"))
        return keyring["services"]["sly"]["spiffeID"]

    assert shown() == "spiffe://example.org/ns/shop/sa/orders"
    world.apply({"certificate": {}, "serviceAccountName": "orders"}, name="orders", uid="uid-3")
    await world.settle()
    assert shown() == ""
    world.engine.wake(world.engine.inventory.drop_identity("shop", "orders", "uid-3"))
    await world.settle()
    assert shown() == "spiffe://example.org/ns/shop/sa/orders"


@scenario
async def test_the_second_trust_domain_of_a_name_signs_nothing(world):
    second = domain(world, "second")
    key = world.apply({"certificate": {}, "trustDomainRef": {"name": "second"}})
    await world.settle()
    assert world.ready(second) == ("False", "TrustDomainInUse")
    assert (
        world.status(second)["conditions"][0]["message"]
        == "spec.trustDomain: example.org belongs to TrustDomain default"
    )
    assert world.ready(key)[0] == "False"
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    for at in [at for at in world.api.stored if at[0] == "system"]:
        view = world.api.stored.pop(at)
        world.engine.wake(world.engine.inventory.drop_secret(view.namespace, view.name))
    await world.settle()
    assert (world.ready(second)[0], world.ready(key)[0]) == ("True", "True")


@scenario
async def test_a_trust_domain_that_signs_already_goes_on_whoever_comes(world):
    """Two of one name from before they were told apart: nobody's certificates stop being renewed."""
    inventory = world.engine.inventory
    (first,) = inventory.domains
    kept = [(at, view) for at, view in world.api.stored.items() if at[0] == "system"]
    world.engine.wake(inventory.drop_trust_domain("default"))
    for at, _ in kept:
        world.engine.wake(inventory.drop_secret(*at))
    second = domain(world, "second")
    await world.settle()
    world.engine.wake(inventory.put_trust_domain(world.api.objects[first]))
    for _, view in kept:
        tell(world, view)
    world.engine.wake(inventory.domains)
    await world.settle()
    assert [world.ready(key) for key in (first, second)] == [("True", "Ready")] * 2


@scenario
async def test_identities_that_a_rule_denies_are_looked_at_once_each(world):
    domain(world, policy={"rules": [TEAM]})
    label(world, "shop", team="a")
    await world.settle()
    for number in range(50):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"uid-s{number}", labels={"team": "b"})
    assert await world.settle() == 50
    assert world.api.writes["status"] >= 50 and not world.api.writes["create"]
    assert await world.settle(timedelta(minutes=5)) == 0


@scenario
async def test_what_is_of_no_use_any_more_is_not_said_to_be_kept(world):
    """Revoked, or over: who is called must not read that the service has what it needs."""
    label(world, "shop")
    key = world.apply({"certificate": {}})
    other = world.apply({"certificate": {}}, name="other", uid="uid-2")
    await world.settle()
    domain(world, policy={"rules": [{"name": "never", "expression": "false", "message": "not you"}]})
    world.apply({"certificate": {}}, annotations={"serviceidentity.dev/revoke": "1"})
    await world.settle()

    def message(key):
        assert world.ready(key) == ("False", "PolicyDenied")
        return world.status(key)["conditions"][0]["message"]

    assert message(key).endswith("has to be replaced, and is not: revocation asked for by annotation")
    assert "is kept until" in message(other)
    await world.settle(25 * HOUR)
    assert message(other).endswith("and is not: the certificate expired at 2026-01-02T12:00:00Z")
    world.api.writes.clear()
    world.engine.wake([key, other])
    await world.settle()
    assert world.api.writes == {}
