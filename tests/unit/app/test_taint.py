"""A tainted authority: everything under it is replaced, so many a second, and nothing else is written."""

from collections import Counter
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.app.pace import Pace
from serviceidentity.domain.model import identity_key, trust_domain_key
from serviceidentity.domain.pki import certificates
from serviceidentity.errors import RejectedError
from tests.unit.app.scenarios import restarted, scenario
from tests.unit.domain.builders import HOUR, T0, domain

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
DEFAULT = trust_domain_key("default")
SPEC = {"maxLeafDuration": "24h", "propagation": "1h", "reissuesPerSecond": 3}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=120), st.integers(1, 9))
def test_no_second_has_more_turns_than_allowed_and_everyone_gets_one(asked, per_second):
    pace, owner, now = Pace(), domain(reissuesPerSecond=per_second), T0
    taken, waiting = Counter(), {}
    for pause, number in asked:
        now += pause * SECOND
        key = identity_key("shop", f"s{number}")
        for who, at in list(waiting.items()):
            if at <= now:
                assert pace.turn(who, owner, now) <= now, "a turn that was given holds"
                del waiting[who]
        at = pace.turn(key, owner, now)
        if key in waiting:
            assert at == waiting[key]
        else:
            taken[at] += 1
            if at > now:
                waiting[key] = at
    assert all(count <= per_second for count in taken.values())


def test_nobody_waits_for_a_turn_that_a_clock_ahead_gave():
    pace, owner = Pace(), domain(reissuesPerSecond=1)
    a, b, c = (identity_key("shop", name) for name in "abc")
    ahead = T0 + 24 * HOUR
    assert [pace.turn(key, owner, ahead) for key in (a, b, c)] == [ahead, ahead + SECOND, ahead + 2 * SECOND]
    assert [pace.turn(key, owner, T0) for key in (b, c, a)] == [T0, T0 + SECOND, T0 + 2 * SECOND]


def taint(world, name):
    (fingerprint,) = (a["fingerprint"] for a in world.status(DEFAULT)["authorities"] if a["secretName"] == name)
    change(world, taintedAuthorities=[{"fingerprint": fingerprint}])


def change(world, annotations=None, **spec):
    body = world.api.objects[DEFAULT]
    body["spec"] |= SPEC | spec
    meta = body["metadata"]
    world.api.version += 1
    meta |= {"generation": meta["generation"] + 1, "resourceVersion": str(world.api.version)}
    meta["annotations"] = meta.get("annotations", {}) | (annotations or {})
    world.engine.wake(world.engine.inventory.put_trust_domain(body))


def states(world):
    return {a["secretName"].removeprefix("default-"): a["state"] for a in world.status(DEFAULT)["authorities"]}


def bundles(world):
    return {v.value("ca.crt") for (space, _), v in world.api.stored.items() if space == "shop"}


def issuers(world):
    leaves = (v for (space, _), v in world.api.stored.items() if space == "shop")
    return Counter(certificates.load_chain(v.value("tls.crt"))[1].serial_number for v in leaves)


@scenario
async def test_everything_under_a_tainted_root_is_replaced_at_the_rate_and_then_it_goes(world):
    change(world)
    for number in range(10):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    assert states(world)["root-2"] == "Prepared"
    await world.settle(HOUR)
    assert states(world)["root-2"] == "Active"
    (before,) = issuers(world)
    taint(world, "default-root-1")
    done = []
    for _ in range(5):
        await world.settle(SECOND)
        done.append(10 - issuers(world)[before])
    assert done == [3, 6, 9, 10, 10]
    world.api.writes.clear()
    again = await restarted(world)
    assert again.api.writes == {}, "nothing is lost or done twice"
    await again.settle(HOUR)
    assert states(again) == {"root-2": "Active", "intermediate-2": "Active"}
    bundle = again.api.stored["system", "default-root-2"].value("tls.crt")
    assert all(v.value("ca.crt") == bundle for (space, _), v in again.api.stored.items() if space == "shop")


@scenario
async def test_one_that_cant_get_the_bundle_holds_up_the_root_and_is_named(world):
    change(world)
    world.apply({"certificate": {}}, name="slow", uid="u-1")
    world.apply({"certificate": {}}, name="off", uid="u-2")
    await world.settle()
    world.apply({"certificate": {}, "suspend": True}, name="off", uid="u-2", generation=2)
    await world.settle()
    real = world.api.replace

    async def refusing(view, content, metadata):
        if view.name == "slow-tls":
            raise RejectedError("quota")
        return await real(view, content, metadata)

    world.api.replace = refusing
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    for _ in range(4):
        await world.settle(HOUR)
    assert states(world)["root-2"] == "Prepared"
    assert "waits until everyone has it: shop/slow" in world.status(DEFAULT)["conditions"][0]["message"]
    world.api.replace = real
    for _ in range(4):
        await world.settle(HOUR)
    assert states(world)["root-2"] == "Active", "the suspended one is not waited for"


@scenario
async def test_a_root_that_is_revoked_leaves_every_bundle_at_once_also_of_those_in_line(world):
    change(world)
    for number in range(5):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    change(world, annotations={"serviceidentity.dev/rotate-root": "1"})
    await world.settle()
    await world.settle(HOUR)
    (fingerprint,) = (
        a["fingerprint"] for a in world.status(DEFAULT)["authorities"] if a["secretName"].endswith("root-1")
    )
    change(world, taintedAuthorities=[{"fingerprint": fingerprint, "removeFromBundle": "Immediately"}])
    await world.settle()
    assert bundles(world) == {world.api.stored["system", "default-root-2"].value("tls.crt")}
    assert len(issuers(world)) == 2, "the others wait for their turn"
    await world.settle(SECOND)
    assert len(issuers(world)) == 1


@scenario
async def test_a_secret_that_is_deleted_while_it_is_in_line_is_put_back_at_once(world):
    change(world)
    for number in range(5):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    taint(world, "default-intermediate-1")
    await world.settle()
    waiting = [at for at, v in world.api.stored.items() if v.annotations.get("serviceidentity.dev/revision") == "1"]
    assert len(waiting) == 2
    del world.api.stored[waiting[0]]
    world.engine.wake(world.engine.inventory.drop_secret(*waiting[0]))
    await world.settle()
    assert waiting[0] in world.api.stored
    await world.settle(SECOND)
    assert len(issuers(world)) == 1


@scenario
async def test_the_line_goes_on_when_the_clock_is_put_back(world):
    change(world)
    world.now += 2 * HOUR  # the clock is ahead
    for number in range(8):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    taint(world, "default-intermediate-1")
    await world.settle()
    assert len(issuers(world)) == 2
    world.now -= 4 * MINUTE
    await world.settle()
    await world.settle(3 * SECOND)
    assert len(issuers(world)) == 1


@scenario
async def test_a_trust_domain_looks_once_at_what_all_of_its_identities_did(world):
    """It looks at every identity in each pass: once for each of them would be quadratic."""
    change(world)
    for number in range(60):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    taint(world, "default-intermediate-1")
    await world.settle()
    looks = 0
    while len(issuers(world)) > 1:
        passes = await world.settle(SECOND)
        looks += passes - 3
    assert 19 <= looks <= 2 * 20
