"""Where nothing can be done now, nothing is done: no pass, no write, until the time or the world changes."""

from datetime import timedelta

import pytest

from serviceidentity.domain.model import trust_domain_key
from serviceidentity.errors import RejectedError
from tests.unit.app.scenarios import TLS, edit, passes_when_left_alone, restarted, scenario
from tests.unit.domain.builders import DAY, HOUR

DEFAULT = trust_domain_key("default")


def change_trust_domain(world, **spec):
    body = world.api.objects[DEFAULT]
    body["spec"] |= spec
    body["metadata"]["generation"] += 1
    world.api.version += 1
    body["metadata"]["resourceVersion"] = str(world.api.version)
    world.engine.wake(world.engine.inventory.put_trust_domain(body))


@scenario
async def test_an_operator_with_nothing_due_is_at_rest(world):
    world.apply()
    await world.settle()
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_an_expired_certificate_that_nobody_can_renew_is_waited_for_at_rest(world):
    world.apply({"certificate": {}})
    await world.settle()
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    world.now += 3 * DAY
    world.engine.queue.wake_due()
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_an_expired_root_is_followed_by_another_and_then_all_is_at_rest(world):
    change_trust_domain(world, root={"duration": "48h"}, intermediate={"duration": "24h"}, maxLeafDuration="1h")
    world.api.stored.clear()
    world.api.objects[DEFAULT].pop("status")
    again = await restarted(world)
    again.now += 3 * DAY
    again.engine.queue.wake_due()
    assert await passes_when_left_alone(again) == 0
    assert again.ready(DEFAULT) == ("True", "Ready")
    assert {a["secretName"] for a in again.status(DEFAULT)["authorities"]} == {
        "default-root-2",
        "default-intermediate-2",
    }


@scenario
async def test_an_intermediate_that_outlives_a_new_one_is_kept_at_rest(world):
    change_trust_domain(world, intermediate={"duration": "240h"}, maxLeafDuration="100h")
    await world.settle()
    world.now += timedelta(hours=6500)
    world.engine.queue.wake_due()
    assert await passes_when_left_alone(world) == 0
    assert world.ready(DEFAULT) == ("True", "Ready")


@scenario
async def test_a_refused_renewal_of_an_intermediate_is_at_rest_until_its_next_attempt(world):
    world.api.failures = [RejectedError("quota")]
    world.now += timedelta(hours=6500)
    world.engine.queue.wake_due()
    assert await passes_when_left_alone(world) == 0
    assert world.ready(DEFAULT) == ("False", "Rejected")


@scenario
async def test_a_refused_write_of_an_expired_certificate_is_at_rest_until_its_next_attempt(world):
    world.apply({"certificate": {}})
    await world.settle()
    world.api.failures = [RejectedError("quota")]
    world.now += 2 * DAY
    world.engine.queue.wake_due()
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_a_suspended_identity_is_left_alone_even_when_it_expires(world):
    key = world.apply({"certificate": {}})
    await world.settle()
    world.apply({"certificate": {}, "suspend": True}, generation=2)
    await world.settle()
    world.api.writes.clear()
    await world.settle(100 * DAY)
    assert world.api.writes == {"status": 1}, "which says that it has expired"
    assert world.ready(key) == ("False", "Expired")


@pytest.mark.parametrize("spec", [{"certificate": {}}, {"hmac": {}}, {"certificate": {}, "hmac": {}}])
@scenario
async def test_ten_restarts_in_a_row_write_nothing(world, spec):
    world.apply(spec)
    await world.settle()
    world.api.writes.clear()
    for _ in range(10):
        world = await restarted(world)
        world.now += timedelta(minutes=30)
    assert world.api.writes == {}


@scenario
async def test_a_rotation_asked_for_during_a_rotation_is_served_once(world):
    annotation = "serviceidentity.dev/rotate"
    world.apply({"hmac": {}}, annotations={annotation: "1"})
    await world.settle()
    world.apply({"hmac": {}}, annotations={annotation: "2"})
    await world.settle()
    await world.settle(timedelta(minutes=1))
    key = world.apply({"hmac": {}}, annotations={annotation: "3"})
    await world.settle()
    seen = set()
    for _ in range(30):
        await world.settle(timedelta(minutes=2))
        seen |= {one["keyID"] for one in world.status(key)["hmac"]["keys"]}
    assert len(seen) == 3, "the first key, and one for each request"


@pytest.mark.parametrize("record", ["certificate-request", "issued-at", "stored-as", "revision"])
@scenario
async def test_a_record_that_was_taken_off_a_secret_is_put_back(world, record):
    world.apply({"certificate": {}})
    await world.settle()
    name = f"serviceidentity.dev/{record}"
    before = world.api.stored[TLS].annotations
    view = edit(world, TLS, annotations={one: value for one, value in before.items() if one != name})
    world.engine.wake(world.engine.inventory.put_secret(view))
    await world.settle()
    assert world.api.stored[TLS].annotations == before


@scenario
async def test_the_time_to_look_again_is_in_the_status_and_in_the_future(world):
    key = world.apply()
    for _ in range(6):
        await world.settle()
        assert world.status(key)["nextActionTime"] > world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        world.now += 5 * HOUR
        world.engine.queue.wake_due()


@scenario
async def test_identities_that_go_do_not_wake_their_trust_domain_unless_it_waits_for_them(world):
    """It looks at all of its identities: for each of a thousand that are deleted, that is a million looks."""
    inventory = world.engine.inventory
    keys = [world.apply({"certificate": {}}, name=name, uid=name) for name in ("a", "b")]
    await world.settle()
    assert DEFAULT not in inventory.drop_identity(keys[0].namespace, keys[0].name)
    change_trust_domain(
        world, taintedAuthorities=[{"fingerprint": world.status(DEFAULT)["authorities"][0]["fingerprint"]}]
    )
    await world.settle()
    assert DEFAULT in inventory.drop_identity(keys[1].namespace, keys[1].name)
