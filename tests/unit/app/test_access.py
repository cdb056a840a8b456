"""AccessPolicies at work: who gets what, signed by whom, what stays when one breaks, and nothing written at rest."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.verification import read_jwks, verify_token
from serviceidentity.domain.model import policy_bundle_key
from serviceidentity.errors import RejectedError, RetryableError
from serviceidentity_sdk.jwt.jose import read_key_set
from serviceidentity_sdk.policy.bundle import read_bundle
from serviceidentity_sdk.principal import Kind, Principal
from tests.unit.access.builders import access_policy_body
from tests.unit.app.scenarios import passes_when_left_alone, restarted, scenario

MAP = ("shop", "order-service-policy")
RULE = {"name": "r", "effect": "Allow", "expression": "true"}
BROKEN = [RULE | {"expression": "nonsense("}]
NO_JWT = {"certificate": {}}


def jws(world, at=MAP):
    return base64.b64decode(world.maps.stored[at].data["policy.jws"]).decode()


def jwks(world):
    found = world.maps.stored["system", "serviceidentity-jwks"]
    return read_jwks(base64.b64decode(found.data["default.json"]))


def signer(world, at=MAP):
    return jose.header_of(jws(world, at), jose.LONGEST_DOCUMENT)["kid"]


def bundle(world, at=MAP):
    """Return the bundle as a service reads it: with nothing but the published keys."""
    text = jws(world, at)
    key = next(key for key in jwks(world).keys if key.key_id == signer(world, at))
    return jose.verify_document(text, key.key, key.algorithm, "serviceidentity-policy+jws")


def names(world, at=MAP):
    return [policy["name"] for policy in bundle(world, at)["policies"]]


def condition(world, key, type_="Ready"):
    found = next(one for one in world.status(key)["conditions"] if one["type"] == type_)
    return found["status"], found["reason"]


def edit_map(world, at=MAP, **data):
    found = world.maps.stored[at]
    world.maps.version += 1
    view = replace(found, data={**found.data, **data}, resource_version=world.maps.version)
    world.maps.stored[at] = view
    world.engine.wake(world.engine.inventory.put_config_map(view))


def drop(world, key):
    world.api.objects.pop(key)
    world.engine.wake(world.engine.inventory.drop_access_policy(key.namespace, key.name))


async def delivered(world, **spec):
    world.apply(NO_JWT)
    key = world.access_policy(**spec)
    await world.settle()
    world.api.writes.clear()
    world.maps.writes.clear()
    return key


@scenario
async def test_a_service_gets_what_it_can_verify_with_its_trust_domains_keys(world):
    key = await delivered(world)
    assert names(world) == ["payments"]
    assert bundle(world)["service"] == {"namespace": "shop", "name": "order-service"}
    view = world.maps.stored[MAP]
    assert [owner["kind"] for owner in view.owners] == ["ServiceIdentity"]
    assert condition(world, key) == ("True", "Delivered")
    assert condition(world, key, "Compiled") == ("True", "Compiled")
    assert world.status(key)["services"] == ["order-service"]
    assert (world.status(key)["selected"], world.status(key)["delivered"]) == (1, 1)


@scenario
async def test_the_sdk_reads_it_and_decides(world):
    await delivered(world, timeZone="Europe/Berlin")
    published = base64.b64decode(world.maps.stored["system", "serviceidentity-jwks"].data["default.json"])
    policies = read_bundle(jws(world), read_key_set(published), "shop/order-service")
    admin, guest = (Principal(Kind.TOKEN, "alice", roles=frozenset({role})) for role in ("admin", "guest"))
    assert policies.decide(admin, "orders:read", now=world.now).allowed
    assert policies.decide(guest, "orders:read", now=world.now).reason == "No matching policy"
    with pytest.raises(ValueError, match="another service"):
        read_bundle(jws(world), read_key_set(published), "shop/other")


@scenario
async def test_nothing_is_written_at_rest_nor_after_a_restart(world):
    await delivered(world)
    world.echo()
    for view in list(world.maps.stored.values()):
        world.engine.wake(world.engine.inventory.put_config_map(view))
    await world.settle()
    assert await passes_when_left_alone(world) == 0
    again = await restarted(world)
    again.engine.wake([policy_bundle_key("shop", "order-service")])
    await again.settle()
    assert not world.api.writes
    assert not world.maps.writes


@scenario
async def test_it_is_no_token(world):
    await delivered(world)
    refused = verify_token(
        jws(world), jwks(world), issuer=None, audience=None, now=datetime(2026, 1, 1, 12, tzinfo=UTC)
    )
    assert not hasattr(refused, "subject")
    assert "typ" in " ".join(problem.message for problem in refused.problems)


@scenario
async def test_an_identity_without_a_policy_is_not_looked_at(world):
    await delivered(world)
    world.apply(NO_JWT, name="other", uid="uid-other")
    await world.settle()
    assert ("shop", "other-policy") not in world.maps.stored
    assert policy_bundle_key("shop", "other") not in world.engine.inventory.policies.bundles._owned


@scenario
async def test_policies_are_joined_and_leave_again(world):
    await delivered(world)
    other = world.access_policy("audit", services=[], selector={"matchLabels": {"audited": "yes"}})
    await world.settle()
    assert names(world) == ["payments"]
    assert condition(world, other) == ("False", "NoServiceSelected")
    world.apply(NO_JWT, labels={"audited": "yes"}, generation=2)
    await world.settle()
    assert names(world) == ["audit", "payments"]
    assert condition(world, other) == ("True", "Delivered")
    world.apply(NO_JWT, generation=3)
    await world.settle()
    assert names(world) == ["payments"]
    assert condition(world, other) == ("False", "NoServiceSelected")


@scenario
async def test_the_config_map_goes_with_the_last_policy(world):
    key = await delivered(world)
    drop(world, key)
    await world.settle()
    assert MAP not in world.maps.stored
    assert world.maps.writes == {"delete": 1}
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_what_can_not_be_compiled_is_told_and_the_last_good_stays(world):
    key = await delivered(world)
    before = jws(world)
    world.access_policy(rules=BROKEN)
    await world.settle()
    assert jws(world) == before
    assert condition(world, key) == ("False", "InvalidSpec")
    assert condition(world, key, "Compiled") == ("False", "InvalidSpec")
    assert world.status(key)["services"] == ["order-service"]
    world.access_policy("audit")
    await world.settle()
    assert names(world) == ["audit", "payments"]
    again = await restarted(world)
    assert jws(again) == jws(world)
    drop(again, key)
    await again.settle()
    assert names(again) == ["audit"]


@scenario
async def test_a_policy_that_never_compiled_is_never_delivered(world):
    world.apply(NO_JWT)
    key = world.access_policy(rules=BROKEN)
    await world.settle()
    assert MAP not in world.maps.stored
    assert condition(world, key) == ("False", "InvalidSpec")
    world.access_policy()
    await world.settle()
    assert names(world) == ["payments"]
    assert condition(world, key) == ("True", "Delivered")


@scenario
async def test_an_edited_bundle_is_put_back(world):
    await delivered(world)
    edit_map(world, **{"policy.jws": base64.b64encode(b"theirs").decode()})
    await world.settle()
    assert names(world) == ["payments"]
    view = world.maps.stored.pop(MAP)
    world.engine.wake(world.engine.inventory.drop_config_map(*MAP, view.uid))
    await world.settle()
    assert names(world) == ["payments"]


@scenario
async def test_an_edited_bundle_of_a_broken_policy_is_put_back_as_it_was(world):
    await delivered(world)
    world.access_policy(rules=BROKEN)
    await world.settle()
    edit_map(world, **{"policy.jws": base64.b64encode(b"theirs").decode()})
    await world.settle()
    assert names(world) == ["payments"]


@scenario
async def test_an_edited_bundle_that_nobody_remembers_is_not_replaced_by_less(world):
    key = await delivered(world)
    other = world.access_policy("audit")
    await world.settle()
    world.access_policy(rules=BROKEN)
    await world.settle()
    edit_map(world, **{"policy.jws": base64.b64encode(b"theirs").decode()})
    again = await restarted(world)
    assert base64.b64decode(again.maps.stored[MAP].data["policy.jws"]) == b"theirs"
    assert condition(again, other) == ("False", "LastBundleUnverifiable")
    again.access_policy()
    await again.settle()
    assert names(again) == ["audit", "payments"]
    assert condition(again, key) == condition(again, other) == ("True", "Delivered")


async def ask(world, annotation):
    """Ask something of the trust domain's token keys, and do what is due of it now."""
    key = next(iter(world.engine.inventory.domains))
    meta = world.api.objects[key]["metadata"]
    meta["annotations"] = {f"serviceidentity.dev/{annotation}": "1"}
    meta["resourceVersion"] = str(world.api._write("edit"))
    world.engine.wake(world.engine.inventory.put_trust_domain(world.api.objects[key]))
    await world.settle()
    return key


@scenario
async def test_a_revoked_key_is_replaced_at_once(world):
    await delivered(world)
    before = signer(world)
    await ask(world, "revoke-jwt")
    after = signer(world)
    assert after != before
    assert names(world) == ["payments"]
    assert [key.key_id for key in jwks(world).keys] == [after]


@scenario
async def test_a_broken_policy_outlives_the_revocation_of_the_key_that_signed_it(world):
    await delivered(world)
    before = signer(world)
    world.access_policy(rules=BROKEN)
    await world.settle()
    await ask(world, "revoke-jwt")
    assert signer(world) != before
    assert names(world) == ["payments"]


@scenario
async def test_a_key_that_retires_does_not_sign_any_more_when_the_next_is_known(world):
    await delivered(world)
    before = signer(world)
    key = await ask(world, "rotate-jwt")
    assert signer(world) == before
    world.now = world.engine.queue._deadlines[key]
    await world.settle()
    assert signer(world) != before
    assert len(jwks(world).keys) == 2, "the former one verifies what has not reached everybody yet"
    assert names(world) == ["payments"]
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_a_config_map_of_somebody_else_is_left_alone(world):
    theirs = ownership.SecretContent.of("", {"policy.jws": b"theirs"}, {})
    await world.maps.create(*MAP, theirs, ownership.Metadata({}, {}, ()))
    key = await delivered(world)
    assert base64.b64decode(world.maps.stored[MAP].data["policy.jws"]) == b"theirs"
    assert condition(world, key) == ("False", "Conflict")
    assert not world.maps.writes
    del world.maps.stored[MAP]
    world.now = world.engine.queue._deadlines[policy_bundle_key("shop", "order-service")]
    await world.settle()
    assert condition(world, key) == ("True", "Delivered")


@pytest.mark.parametrize("error", [RetryableError("away"), RejectedError("quota")])
def test_a_refused_write_is_tried_again(error):
    @scenario
    async def play(world):
        world.apply(NO_JWT)
        await world.settle()
        key = world.access_policy()
        world.maps.failures = [error] * 3
        for _ in range(8):
            await world.settle()
            for timer_key in list(world.engine._retries):
                world.engine._retries.pop(timer_key).cancel()
                world.engine.wake([timer_key])
            world.now = max(world.engine.queue._deadlines.values(), default=world.now)
        await world.settle()
        assert condition(world, key) == ("True", "Delivered")

    play()


@scenario
async def test_services_that_can_not_have_it_are_named(world):
    world.apply(NO_JWT | {"suspend": True})
    key = world.access_policy(services=[{"name": "order-service"}, {"name": "nobody"}])
    await world.settle()
    assert condition(world, key) == ("False", "Suspended")
    assert world.status(key)["delivered"] == 0
    world.apply(NO_JWT, generation=2)
    await world.settle()
    ready = world.status(key)["conditions"][0]
    assert ready["message"] == "services that have it: order-service; there is no ServiceIdentity nobody"


@scenario
async def test_what_is_too_large_is_told(world):
    large = [RULE | {"name": f"r{i}", "reason": "x" * 10_000} for i in range(64)]
    key = await delivered(world, rules=large)
    assert condition(world, key) == ("False", "BundleTooLarge")
    assert MAP not in world.maps.stored


@scenario
async def test_what_is_just_small_enough_is_delivered(world):
    key = await delivered(world, rules=[RULE | {"name": f"r{i}", "reason": "x" * 5_900} for i in range(64)])
    assert condition(world, key) == ("True", "Delivered")
    assert len(bundle(world)["policies"][0]["rules"]) == 64
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_an_identity_that_goes_takes_nothing_of_others_along(world):
    key = await delivered(world, services=[], selector={})
    world.apply(NO_JWT, name="other", uid="uid-other")
    await world.settle()
    assert world.status(key)["services"] == ["order-service", "other"]
    world.api.objects.pop(next(k for k in world.api.objects if k.name == "other"))
    world.engine.wake(world.engine.inventory.drop_identity("shop", "other"))
    await world.settle()
    assert world.status(key)["services"] == ["order-service"]


def test_complete_lists_find_what_no_watch_told():
    @scenario
    async def play(world):
        key = await delivered(world)
        inventory = world.engine.inventory
        body = access_policy_body("late")
        body["metadata"]["resourceVersion"] = "900"
        bodies = [world.api.objects[key], body]
        woken = inventory.resync([], [], [], [], lambda _: 0, policies=bodies)
        assert policy_bundle_key("shop", "order-service") in woken
        assert inventory.resync([], [], [], [], lambda _: 0, policies=bodies) == set()
        gone = inventory.resync([], [], [], [], lambda name: 1000 * (name == "policies"), policies=bodies[:1])
        assert policy_bundle_key("shop", "order-service") in gone
        assert len(inventory.policies.entries) == 1

    play()
