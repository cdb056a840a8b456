import asyncio
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from serviceidentity.domain.model import identity_key
from serviceidentity.errors import ConflictError, RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.domain.builders import DAY, HOUR

TLS, HMAC = ("shop", "order-service-tls"), ("shop", "order-service-hmac")


def scenario(test):
    """Run an asynchronous test with a world that has a trust domain."""

    def run():
        async def inside():
            world = World()
            world.trust_domain()
            await world.settle()
            world.api.writes.clear()
            await test(world)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@scenario
async def test_one_secret_costs_two_writes_and_two_cost_three(world):
    first = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(first) == ("True", "Ready")
    assert world.api.writes == {"create": 1, "status": 1}
    world.apply({"certificate": {}, "hmac": {}}, name="other", uid="uid-2")
    await world.settle()
    assert world.api.writes == {"create": 3, "status": 2}


@scenario
async def test_own_echoes_cause_no_pass(world):
    world.apply()
    await world.settle()
    world.echo()
    assert len(world.engine.queue) == 0


@scenario
async def test_a_restart_with_nothing_due_writes_nothing(world):
    world.apply()
    await world.settle()
    world.api.writes.clear()
    again = World(world.api)
    again.now = world.now + HOUR
    await again.settle()
    assert world.api.writes == {}


@scenario
async def test_renewal_happens_by_the_deadline_in_status(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    before = world.status(key)["certificate"]
    assert await world.settle(timedelta(hours=15)) == 0
    await world.settle(HOUR)
    assert world.status(key)["certificate"]["serialNumber"] != before["serialNumber"]


@scenario
async def test_a_key_rotation_reaches_the_verifier_before_it_is_used(world):
    signer = world.apply({"hmac": {"verifiers": [{"name": "verifier"}]}})
    world.apply({"callers": [{"name": "order-service"}]}, name="verifier", uid="uid-2")
    await world.settle()
    states = []
    for _ in range(800):
        await world.settle(HOUR)
        keys = world.status(signer)["hmac"]["keys"]
        keyring = world.api.objects[identity_key("shop", "verifier")]["status"]["keyring"]["callers"][0]["keyIDs"]
        assert {key["keyID"] for key in keys} == set(keyring)
        found = [key["state"] for key in keys]
        if not states or states[-1] != found:
            states.append(found)
    assert states == [["Active"], ["Active", "Prepared"], ["Retiring", "Active"], ["Active"]]


@scenario
async def test_drift_is_undone_with_the_same_content(world):
    world.apply()
    await world.settle()
    good = dict(world.api.stored)
    edited = replace(good[HMAC], data={"key": "eA=="}, resource_version=world.api.version + 1)
    world.api.stored[HMAC] = edited
    del world.api.stored[TLS]
    world.api.version += 1
    world.engine.wake(world.engine.inventory.put_secret(edited))
    world.engine.wake(world.engine.inventory.drop_secret(*TLS))
    await world.settle()
    assert {at: view.data for at, view in world.api.stored.items()} == {at: view.data for at, view in good.items()}


@scenario
async def test_a_foreign_secret_is_reported_and_not_tried_again_before_its_time(world):
    world.apply({"certificate": {}}, name="elsewhere", namespace="attic", uid="uid-9")
    await world.settle()
    foreign = replace(next(iter(world.api.stored.values())), namespace="shop", name=TLS[1], labels={}, owners=())
    world.api.stored[TLS] = replace(foreign, annotations={}, data={"mine": "eA=="})
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(key) == ("False", "Conflict")
    world.api.writes.clear()
    again = World(world.api)
    again.now = world.now + timedelta(seconds=30)
    await again.settle()
    assert world.api.writes == {}, "a restart does not start over"
    del world.api.stored[TLS]
    again.engine.inventory.drop_secret(*TLS)
    await again.settle(timedelta(seconds=30))
    assert again.ready(key) == ("True", "Ready")
    assert "backoff" not in again.status(key)


@pytest.mark.parametrize("error", [RetryableError("down"), ConflictError("changed")])
def test_what_fails_in_passing_is_tried_again_without_a_word_in_the_status(error):
    @scenario
    async def test(world):
        world.api.failures = [error, error]
        key = world.apply({"certificate": {}})
        await world.settle()
        assert world.status(key) == {}
        world.engine.start()
        for _ in range(400):
            await asyncio.sleep(0.005)
            if world.status(key):
                break
        await world.engine.stop()
        assert world.ready(key) == ("True", "Ready")
        assert world.api.writes == {"create": 1, "status": 1}

    test()


@scenario
async def test_what_the_server_refuses_backs_off_in_status(world):
    world.api.failures = [RejectedError("quota")]
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.ready(key) == ("False", "Rejected")
    assert world.status(key)["backoff"]["failedAttempts"] == 1
    await world.settle(timedelta(minutes=1))
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_one_credential_backing_off_does_not_hold_up_the_other(world):
    key = world.apply({"hmac": {}})
    await world.settle()
    world.api.failures = [RejectedError("quota")]
    world.apply({"hmac": {}, "certificate": {}}, generation=2)
    await world.settle()
    assert world.ready(key) == ("False", "Rejected")
    world.api.failures = []
    await world.settle(40 * DAY)
    assert "Prepared" in [k["state"] for k in world.status(key)["hmac"]["keys"]]


@scenario
async def test_a_stale_watch_event_is_ignored(world):
    world.apply({"certificate": {}})
    await world.settle()
    old = replace(world.api.stored[TLS], resource_version=1, data={"tls.crt": b64encode(b"old").decode()})
    assert world.engine.inventory.put_secret(old) == set()
    assert world.engine.inventory.secrets[TLS].resource_version > 1


@scenario
async def test_deletions_that_no_watch_told_of_are_found_by_comparing(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    inventory = world.engine.inventory
    del world.api.stored[TLS]
    woken = inventory.resync(
        [], [world.api.objects[key]], [], list(world.api.stored.values()), lambda _name: world.api.version
    )
    assert key in woken
    assert TLS not in inventory.secrets


@scenario
async def test_a_list_does_not_bring_back_what_was_deleted_meanwhile(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    inventory, listed = world.engine.inventory, world.api.objects[key]
    inventory.expect_lists()
    inventory.drop_identity("shop", "order-service", "uid-1")
    inventory.resync([], [listed], [], [], lambda _name: 0)
    assert key not in inventory.identities


@scenario
async def test_a_forgotten_identity_leaves_nothing_behind(world):
    world.apply()
    await world.settle()
    inventory = world.engine.inventory
    inventory.drop_identity("shop", "order-service", "uid-1")
    for location in (TLS, HMAC):
        inventory.drop_secret(*location)
    assert not [at for at in inventory.remembered if at[0] == "shop"]
    assert not inventory.locations_of(identity_key("shop", "order-service"))


@scenario
async def test_an_authority_label_outside_the_operators_namespace_means_nothing(world):
    authority = next(view for view in world.api.stored.values() if view.namespace == "system")
    forged = replace(authority, namespace="shop", name="forged", uid="x")
    assert world.engine.inventory.put_secret(forged) == set()


@scenario
async def test_an_internal_error_of_one_object_does_not_stop_the_others(world):
    broken = world.apply({"certificate": {}})
    entry = world.engine.inventory.identities[broken]
    entry.status = {"conditions": 3}  # nothing that the API server would let through
    fine = world.apply({"certificate": {}}, name="fine", uid="uid-2")
    await world.settle()
    assert world.ready(fine) == ("True", "Ready")
    assert world.engine.counters.failing[broken] == 1


@scenario
async def test_an_echo_that_is_faster_than_the_answer_wakes_nobody(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    body = world.api.objects[key]
    body["metadata"]["resourceVersion"] = str(int(body["metadata"]["resourceVersion"]) + 1)
    assert world.engine.inventory.put_identity(body) == set()
    assert world.engine.inventory.put_identity(body | {"status": {}}) == set(), "the same version again"
    body["metadata"]["resourceVersion"] = str(int(body["metadata"]["resourceVersion"]) + 1)
    assert world.engine.inventory.put_identity(body | {"status": {}}) == {key}, "somebody else edited the status"
