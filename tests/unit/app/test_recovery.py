"""Whatever happened to a Secret, and whenever: in the end it holds what it should, and nobody had to help."""

import asyncio
from base64 import b64encode
from dataclasses import replace

import pytest

from serviceidentity.domain.model import identity_key, trust_domain_key
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.errors import MissingError, RejectedError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import HMAC, TLS, edit, restarted, scenario, tell
from tests.unit.domain.builders import DAY, HOUR, issued, trust_domain_body

DEFAULT = trust_domain_key("default")
ELSEWHERE = issued({"certificate": {}}).contents["order-service-tls"]
GARBAGE = b64encode(b"garbage").decode()


def serves(world, at=TLS):
    """Whether the Secret can be served: its key is its certificate's."""
    view = world.api.stored.get(at)
    if view is None:
        return False
    try:
        chain = certificates.load_chain(view.value("tls.crt"))
        return certificates.key_matches(chain[0], keys.load(view.value("tls.key")))
    except ValueError:
        return False


DAMAGE = {
    "another key": {"tls.key": ELSEWHERE.data["tls.key"]},
    "garbage for a key": {"tls.key": GARBAGE},
    "garbage for a certificate": {"tls.crt": GARBAGE},
    "no key": {"tls.key": None},
    "no certificate": {"tls.crt": None},
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


@damaged
@scenario
async def test_damage_done_while_no_operator_ran_is_repaired_at_the_start(world, damage):
    world.apply({"certificate": {}})
    await world.settle()
    edit(world, TLS, damage)
    again = await restarted(world)
    assert serves(again)


@damaged
@scenario
async def test_damage_found_while_nobody_can_sign_is_repaired_when_somebody_can(world, damage):
    key = world.apply({"certificate": {}})
    await world.settle()
    edit(world, TLS, damage)
    body = world.api.objects.pop(DEFAULT)
    again = await restarted(world)
    assert again.ready(key) == ("False", "TrustDomainNotFound")
    again.api.objects[DEFAULT] = body
    again.engine.wake(again.engine.inventory.put_trust_domain(body))
    await again.settle()
    assert again.ready(key) == ("True", "Ready")
    assert serves(again)


@damaged
@scenario
async def test_damage_found_during_a_backoff_is_repaired_after_it(world, damage):
    key = world.apply({"certificate": {}})
    await world.settle()
    edit(world, TLS, damage)
    world.api.failures = [RejectedError("quota")]
    again = await restarted(world)
    assert again.ready(key) == ("False", "Rejected")
    once_more = await restarted(again)
    await once_more.settle(HOUR)
    assert once_more.ready(key) == ("True", "Ready")
    assert serves(once_more)


@scenario
async def test_a_secret_deleted_just_before_it_is_replaced_is_made_anew(world):
    world.apply({"certificate": {}})
    await world.settle()
    del world.api.stored[TLS]
    await world.settle(16 * HOUR)
    world.engine.wake(world.engine.inventory.drop_secret(*TLS))
    await world.settle()
    assert serves(world)


@scenario
async def test_a_namespace_on_its_way_out_is_not_fought(world):
    world.api.failures = [MissingError("the namespace is going")]
    key = world.apply({"certificate": {}})
    await world.settle()
    assert world.status(key) == {}
    assert not world.engine.counters.failing


@scenario
async def test_an_edit_that_came_between_is_seen_before_it_is_overwritten(world):
    """The fake API enforces versions: the write decided on the old one is refused, and decided anew."""
    world.apply({"certificate": {}})
    await world.settle()
    edit(world, TLS, labels=dict(world.api.stored[TLS].labels) | {"team": "orders"})
    before = world.api.stored[TLS].data
    world.now += 16 * HOUR
    world.engine.queue.wake_due()
    world.engine.start()
    for _ in range(300):
        await asyncio.sleep(0.005)
        if world.api.stored[TLS].data != before:
            break
    await world.engine.stop()
    changed = world.api.stored[TLS].data != before
    assert changed
    assert world.api.stored[TLS].labels["team"] == "orders"


@scenario
async def test_a_valid_certificate_that_was_deleted_is_put_back_while_nobody_can_sign(world):
    world.apply({"certificate": {}})
    await world.settle()
    good = world.api.stored[TLS].data
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    await world.settle(17 * HOUR)
    del world.api.stored[TLS]
    world.engine.wake(world.engine.inventory.drop_secret(*TLS))
    await world.settle()
    assert TLS in world.api.stored, "seven hours of its life are left"
    same = world.api.stored[TLS].data == good
    assert same


@scenario
async def test_authorities_of_another_spiffe_trust_domain_sign_nothing(world):
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    await world.settle()
    body = trust_domain_body(trustDomain="other.example")
    body["metadata"] |= {"uid": "uid-2", "resourceVersion": "9999"}
    world.api.objects[DEFAULT] = body
    world.engine.wake(world.engine.inventory.put_trust_domain(body))
    await world.settle()
    assert world.ready(DEFAULT) == ("False", "Conflict")
    key = world.apply({"certificate": {}})
    await world.settle()
    assert TLS not in world.api.stored
    assert world.ready(key)[0] == "False"


@scenario
async def test_news_of_a_secrets_predecessor_is_ignored(world):
    world.apply({"certificate": {}})
    await world.settle()
    current = world.api.stored[TLS]
    tell(world, replace(current, uid="predecessor", resource_version=current.resource_version - 1, data={}))
    assert world.engine.inventory.secrets[TLS].uid == current.uid


@scenario
async def test_a_secret_made_anew_by_somebody_else_is_newer_than_the_one_it_replaced(world):
    world.apply({"certificate": {}})
    await world.settle()
    good = world.api.stored[TLS].data
    tell(world, edit(world, TLS, {"tls.key": GARBAGE}, uid="made-anew"))
    await world.settle()
    same = world.api.stored[TLS].data == good
    assert same


@pytest.mark.parametrize(
    ("at", "record", "value"),
    [
        (TLS, "issued-at", "0001-01-01T00:00:00+10:00"),
        (TLS, "revision", "9" * 5000),
        (TLS, "issued-at", "garbage"),
        (TLS, "revision", "-1"),
        (TLS, "certificate-request", "[" * 5000),
        (TLS, "certificate-request", "[]"),
        (HMAC, "rotated", "garbage"),
    ],
)
@scenario
async def test_a_record_that_makes_no_sense_stops_nothing(world, at, record, value):
    key = world.apply()
    await world.settle()
    edit(world, at, annotations={**world.api.stored[at].annotations, f"serviceidentity.dev/{record}": value})
    again = await restarted(world)
    assert not again.engine.counters.failing
    assert again.ready(key) == ("True", "Ready")
    assert serves(again)


@scenario
async def test_an_operator_that_stops_at_any_write_leaves_nothing_that_the_next_can_not_finish(world):
    """Killed after each number of writes; the next one gets to the same end, with one certificate and one key."""
    for writes in range(5):
        api = World().api
        first = World(api)
        first.trust_domain()
        key = first.apply()
        first.engine.start()
        while sum(api.writes.values()) < writes:
            await asyncio.sleep(0)
        await first.engine.stop()
        second = await restarted(first)
        await second.settle()
        assert second.ready(key) == ("True", "Ready")
        assert len(api.stored) == 4
        assert second.status(key)["certificate"]["revision"] == 1
        assert serves(second)


@scenario
async def test_an_identity_that_is_gone_when_its_status_is_written_is_forgotten(world):
    key = world.apply({"certificate": {}})
    del world.api.objects[key]
    await world.settle()
    assert identity_key("shop", "order-service") not in world.engine.inventory.identities
    assert await world.settle(40 * DAY) <= 1
