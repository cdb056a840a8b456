"""An operator that was killed, and comes back when several deadlines have passed at once: it goes on to the right end."""

from datetime import timedelta

import pytest

from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.pki import certificates
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import TLS, scenario
from tests.unit.domain.builders import DAY, HOUR

DEFAULT = trust_domain_key("default")
SPEC = {
    "root": {"duration": "2400h"},
    "intermediate": {"duration": "240h"},
    "maxLeafDuration": "24h",
    "propagation": "2h",
    "backdate": "0s",
}


def change(world, annotations=None, **spec):
    body = world.api.objects[DEFAULT]
    body["spec"] |= spec
    meta = body["metadata"]
    world.api.version += 1
    meta |= {"generation": meta["generation"] + 1, "resourceVersion": str(world.api.version)}
    meta["annotations"] = meta.get("annotations", {}) | (annotations or {})
    world.engine.wake(world.engine.inventory.put_trust_domain(body))


def listed(world):
    return {a["secretName"].removeprefix("default-"): a for a in world.status(DEFAULT)["authorities"]}


def states(world):
    return {name: one["state"] for name, one in listed(world).items()}


async def at_rest(_world):
    pass


async def prepared(world):
    change(world, {"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert states(world)["root-2"] == "Prepared"


async def retiring(world):
    await prepared(world)
    await world.settle(2 * HOUR)
    assert states(world)["root-1"] == "Retiring"


async def tainted(world):
    await retiring(world)
    change(world, taintedAuthorities=[{"fingerprint": listed(world)["root-1"]["fingerprint"]}])


async def tainted_while_active(world):
    change(world, taintedAuthorities=[{"fingerprint": listed(world)["root-1"]["fingerprint"]}])


async def tainted_while_its_successor_is_prepared(world):
    await prepared(world)
    change(world, taintedAuthorities=[{"fingerprint": listed(world)["root-1"]["fingerprint"]}])


STATES = (at_rest, prepared, retiring, tainted, tainted_while_active, tainted_while_its_successor_is_prepared)


@pytest.mark.parametrize("seen_the_state", [True, False])
@pytest.mark.parametrize("jump", [3 * HOUR, 2 * DAY, 11 * DAY, 90 * DAY, 101 * DAY, 500 * DAY], ids=str)
@pytest.mark.parametrize("state", STATES)
@scenario
async def test_killed_in_a_state_and_late_by_several_deadlines(world, state, jump, seen_the_state):
    world = World()
    world.trust_domain(**SPEC)
    world.apply({"certificate": {"duration": "24h"}})
    await world.settle()
    await state(world)
    if seen_the_state:
        await world.settle()
    last = world.api.stored[TLS].value("tls.crt")
    late = World(world.api, world.maps)
    late.now = world.now + jump
    for pause in (timedelta(0), *(timedelta(minutes=30) for _ in range(8)), 2 * DAY):
        await late.settle(pause)
        last = signed_by_the_living(late, last)
    assert late.ready(DEFAULT) == ("True", "Ready"), late.status(DEFAULT)["conditions"]
    assert all(key == DEFAULT or late.ready(key) == ("True", "Ready") for key in late.api.objects)
    assert "Tainted" not in states(late).values()
    assert "Expired" not in states(late).values()
    before = len(late.api.writes)
    again = World(late.api, late.maps)
    again.now = late.now
    await again.settle()
    assert len(late.api.writes) == before, "at rest"


def signed_by_the_living(world, last):
    """Say that a new certificate is from an authority that is alive and not tainted, and leads to a root it comes with."""
    found = world.api.stored[TLS]
    text = found.value("tls.crt")
    if text != last:
        leaf, issuer = certificates.load_chain(text)
        tainted = {one["fingerprint"] for one in world.api.objects[DEFAULT]["spec"].get("taintedAuthorities", ())}
        roots = certificates.load_chain(found.value("ca.crt"))
        (root, *_) = (one for one in roots if certificates.signed_by(issuer, one))
        assert not tainted & {certificates.fingerprint(one) for one in (issuer, root)}
        for authority in (issuer, root):
            assert authority.not_valid_before_utc <= world.now < authority.not_valid_after_utc
        assert world.now < leaf.not_valid_after_utc <= issuer.not_valid_after_utc <= root.not_valid_after_utc
    return text
