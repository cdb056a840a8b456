"""Keys on their way from the service that signs to the services that verify: by consent, and before they are used."""

import json
from datetime import timedelta

import pytest

from serviceidentity.domain import hmac_ring
from serviceidentity.domain.schedule import parse_time
from serviceidentity.errors import RejectedError
from tests.unit.app.scenarios import HMAC, restarted, scenario
from tests.unit.domain.builders import HOUR

KEYRING = ("shop", "verifier-hmac-keyring")
SIGNER = {"hmac": {"verifiers": [{"name": "verifier"}]}}
VERIFIER = {"callers": [{"name": "order-service"}]}
MINUTE = timedelta(minutes=1)


def verifier(world, spec=None, **meta):
    return world.apply(spec or VERIFIER, **{"name": "verifier", "uid": "uid-v"} | meta)


def delivered(world, service="order-service"):
    """The IDs of the keys in the verifier's keyring."""
    view = world.api.stored.get(KEYRING)
    services = json.loads(view.value("keyring.json"))["services"] if view else {}
    return {key["kid"] for key in services.get(service, {}).get("keys", ())}


def ring(world):
    return hmac_ring.from_json(world.api.stored[HMAC].value("keys.json"))


def refuse(world, location):
    """Let the server refuse writes of one Secret; call the result to end that."""
    real = world.api.replace

    async def refusing(view, content, metadata):
        if (view.namespace, view.name) == location:
            raise RejectedError("quota")
        return await real(view, content, metadata)

    world.api.replace = refusing
    return lambda: setattr(world.api, "replace", real)


@pytest.mark.parametrize("first", ["signer", "verifier"])
@scenario
async def test_keys_are_delivered_whoever_comes_first(world, first):
    for one in (first, "verifier" if first == "signer" else "signer"):
        world.apply(SIGNER) if one == "signer" else verifier(world)
        await world.settle()
    assert delivered(world) == ring(world).key_ids


@pytest.mark.parametrize(
    ("signer", "other"),
    [({"hmac": {}}, VERIFIER), (SIGNER, {"callers": [{"name": "somebody-else"}]}), (SIGNER, {"hmac": {}})],
    ids=["the signer named nobody", "the verifier named another", "the verifier named nobody"],
)
@scenario
async def test_without_consent_of_both_nothing_is_delivered(world, signer, other):
    world.apply(signer)
    verifier(world, other)
    await world.settle()
    assert delivered(world) == set()


@scenario
async def test_consent_that_is_taken_back_takes_the_keys_back(world):
    world.apply(SIGNER)
    verifier(world, {"callers": [{"name": "order-service"}, {"name": "another"}]})
    await world.settle()
    assert delivered(world)
    verifier(world, {"callers": [{"name": "another"}]}, generation=2)
    await world.settle()
    assert delivered(world) == set()
    verifier(world, {"hmac": {}}, generation=3)
    await world.settle()
    assert KEYRING not in world.api.stored


@scenario
async def test_a_deleted_signers_keys_leave_the_keyring(world):
    world.apply(SIGNER)
    verifier(world)
    await world.settle()
    world.engine.wake(world.engine.inventory.drop_identity("shop", "order-service", "uid-1"))
    await world.settle()
    assert delivered(world) == set()


@scenario
async def test_a_verifier_in_another_namespace_needs_to_name_it(world):
    world.apply({"hmac": {"verifiers": [{"name": "verifier", "namespace": "attic"}]}})
    verifier(world, {"callers": [{"name": "order-service", "namespace": "shop"}]}, namespace="attic")
    await world.settle()
    view = world.api.stored["attic", "verifier-hmac-keyring"]
    assert json.loads(view.value("keyring.json"))["services"]["order-service"]["namespace"] == "shop"


@scenario
async def test_a_key_that_a_verifier_lacks_does_not_sign(world):
    world.apply(SIGNER)
    verifier(world)
    await world.settle()
    first = ring(world).active.key_id
    refuse(world, KEYRING)
    for _ in range(40):
        await world.settle(24 * HOUR)
    assert ring(world).active.key_id == first
    assert delivered(world) == {first}


@scenario
async def test_a_key_that_was_delivered_late_waits_its_time_all_the_same(world):
    world.apply(SIGNER)
    verifier(world)
    await world.settle()
    first = ring(world).active.key_id
    allow = refuse(world, KEYRING)
    while len(ring(world).keys) == 1:
        await world.settle(HOUR)
    for _ in range(30):
        await world.settle(MINUTE)
    assert delivered(world) == {first}
    allow()
    while delivered(world) == {first}:
        await world.settle(HOUR)
    assert ring(world).active.key_id == first, "delivered this very second"
    await world.settle(timedelta(minutes=2))
    await world.settle(MINUTE)
    assert ring(world).active.key_id != first


@scenario
async def test_through_ten_rotations_every_signature_finds_its_key(world):
    key = world.apply(SIGNER)
    verifier(world)
    await world.settle()
    active = set()
    while len(active) < 10:
        due = parse_time(world.status(key)["nextActionTime"])
        assert due > world.now
        signing = ring(world).active.key_id
        await world.settle(due - world.now)
        assert signing in delivered(world), "a request that was signed just before"
        assert ring(world).active.key_id in delivered(world)
        active.add(ring(world).active.key_id)


@scenario
async def test_a_restart_at_any_point_of_a_rotation_changes_nothing_about_it(world):
    key = world.apply(SIGNER)
    verifier(world)
    await world.settle()
    for _ in range(6):
        await world.settle(parse_time(world.status(key)["nextActionTime"]) - world.now)
        before, world.api.writes = ring(world), type(world.api.writes)()
        world = await restarted(world)
        assert ring(world) == before
        assert world.api.writes == {}
