"""The token keys of a trust domain: made, published, rotated, lost, revoked, encrypted."""

import asyncio
import json
from base64 import b64decode, b64encode
from datetime import timedelta

import pytest

from serviceidentity.app.inventory import Location
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.material import Held, SecretContent
from serviceidentity.domain.model import trust_domain_key
from serviceidentity.domain.ownership import Metadata
from serviceidentity.errors import RejectedError, RetryableError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import edit, passes_when_left_alone, restarted, scenario, tell
from tests.unit.app.test_authority_keys import Safe, with_safe
from tests.unit.app.test_publishing import ALL, change, namespace

DOMAIN = trust_domain_key("default")
KEYS: Location = ("system", "default-token-keys")
SETS: Location = ("system", "serviceidentity-jwks")
COPY: Location = ("shop", "default-trust-bundle")
QUICK = {"rotateEvery": "2h", "maxTokenTTL": "10m", "cacheTime": "10m", "propagation": "1m"}
LEAD, TAIL = timedelta(minutes=11), timedelta(minutes=11)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TOKEN = {"jwt": {"signingKey": "None", "tokens": [{"name": "api", "audiences": ["x"]}]}}


def issuer(world):
    return world.engine.issuers.of("default", world.now)


def ready(world):
    conditions = {c["type"]: c for c in world.status(DOMAIN)["conditions"]}
    return conditions.get("JWTReady")


def published(world, at=SETS, name="default.json", maps=True):
    store = (world.maps if maps else world.api).stored
    found = json.loads(b64decode(store[at].data[name]))
    assert not any(set(jwk) & {"d", "p", "q", "dp", "dq", "qi", "k"} for jwk in found["keys"])
    return {jwk["kid"] for jwk in found["keys"]}


def ask(world, **annotations):
    change(world, {f"serviceidentity.dev/{name.replace('_', '-')}": value for name, value in annotations.items()})


def writes(world):
    return sum(world.api.writes.values()) + sum(world.maps.writes.values())


async def begun(world, **jwt):
    change(world, jwt=QUICK | jwt)
    await world.settle()
    found = issuer(world)
    assert isinstance(found, TokenIssuer)
    return found.ring.active.key_id


async def minutes(world, count):
    for _ in range(count):
        await world.settle(MINUTE)


@scenario
async def test_without_anybody_asking_there_are_no_keys(world):
    world.apply()
    await world.settle()
    assert KEYS not in world.api.stored
    assert SETS not in world.maps.stored
    assert ready(world) is None
    assert "jwt" not in world.status(DOMAIN)


@scenario
async def test_the_block_makes_keys_and_publishes_them(world):
    key_id = await begun(world)
    assert published(world) == {key_id}
    shown = world.status(DOMAIN)["jwt"]
    assert shown["issuer"] == "https://serviceidentity-jwks.system.svc/default"
    assert (shown["secretName"], shown["jwksConfigMapName"]) == (KEYS[1], SETS[1])
    assert [(k["keyID"], k["state"]) for k in shown["keys"]] == [(key_id, "Active")]
    assert ready(world)["status"] == "True"
    assert world.ready(DOMAIN) == ("True", "Ready")
    found = issuer(world)
    claims = {"iss": found.issuer}
    key, algorithm = jose.load_private(found.ring.active.material)
    public, _ = jose.read_public(json.loads(b64decode(world.maps.stored[SETS].data["default.json"]))["keys"][0])
    assert jose.verify(jose.sign(claims, key, algorithm, key_id), public, algorithm) == claims


@scenario
async def test_the_first_identity_that_asks_for_a_token_makes_the_keys(world):
    world.apply(TOKEN)
    await world.settle()
    assert isinstance(issuer(world), TokenIssuer)


@scenario
async def test_a_suspended_identity_asks_for_nothing(world):
    world.apply(TOKEN | {"suspend": True})
    await world.settle()
    assert KEYS not in world.api.stored


@scenario
async def test_at_rest_and_after_a_restart_nothing_is_written(world):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    await begun(world)
    world.echo()
    await world.settle()
    before = writes(world)
    again = await restarted(world)
    await minutes(again, 5)
    assert writes(again) == before
    assert await passes_when_left_alone(again) == 0


@scenario
async def test_a_key_signs_when_everyone_has_had_it_for_its_lead(world):
    change(world, bundle={"target": ALL | {"formats": ["SPIFFE"]}})
    namespace(world, "shop")
    first = await begun(world)
    sequence = world.status(DOMAIN)["bundle"]["sequence"]
    ask(world, rotate_jwt="1")
    await world.settle()
    (second,) = published(world) - {first}
    assert published(world, COPY, "jwks.json") == {first, second}
    spiffe = json.loads(b64decode(world.maps.stored[COPY].data["bundle.spiffe.json"]))
    assert {k["kid"] for k in spiffe["keys"] if k["use"] == "jwt-svid"} == {first, second}
    assert spiffe["spiffe_sequence"] > sequence
    await world.settle(LEAD - SECOND)
    assert issuer(world).ring.active.key_id == first
    await world.settle(SECOND)
    assert issuer(world).ring.active.key_id == second
    await world.settle(TAIL - SECOND)
    assert published(world) == {first, second}
    await world.settle(SECOND)
    assert published(world) == published(world, COPY, "jwks.json") == {second}


@scenario
async def test_the_lead_counts_from_when_the_last_namespace_has_the_key(world):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    first = await begun(world)
    del world.maps.stored[COPY]
    stuck = RetryableError("away")
    write = world.maps.replace

    async def refuse(view, content, metadata):
        if view.namespace == "shop":
            raise stuck
        return await write(view, content, metadata)

    world.maps.replace = refuse
    ask(world, rotate_jwt="1")
    await minutes(world, 30)
    assert issuer(world).ring.active.key_id == first
    assert "namespace shop" in ready(world)["message"]
    world.maps.replace = write
    await minutes(world, 2)
    await world.settle(LEAD - MINUTE - MINUTE)
    assert issuer(world).ring.active.key_id == first
    await minutes(world, 2)
    assert issuer(world).ring.active.key_id != first


@scenario
async def test_a_namespace_whose_name_is_taken_is_not_waited_for(world):
    change(world, bundle={"target": ALL})
    await begun(world)
    foreign = await world.maps.create("shop", COPY[1], _content(), _metadata())
    world.maps.stored[COPY] = foreign
    namespace(world, "shop")
    first = issuer(world).ring.active.key_id
    ask(world, rotate_jwt="1")
    await minutes(world, 15)
    assert issuer(world).ring.active.key_id != first


@scenario
async def test_rotation_by_the_clock_never_leaves_a_signing_key_unpublished(world):
    await begun(world)
    seen = set()
    for _ in range(30):
        await world.settle(10 * MINUTE)
        active = issuer(world).ring.active.key_id
        assert active in published(world)
        seen.add(active)
    assert len(seen) >= 3
    assert len(published(world)) <= 3


def die_after(world, count):
    """Let `count` more writes through, of whatever; every other one fails until the operator starts anew."""
    left = [count]

    def limited(store):
        write = type(store)._write

        def one(verb):
            if left[0] == 0:
                raise RetryableError("killed")
            left[0] -= 1
            return write(store, verb)

        return one

    for store in (world.api, world.maps):
        store._write = limited(store)


async def revived(world):
    """Let the operator work until it is stuck; return a new one on the same API."""
    world.engine.queue.wake_due()
    world.engine.start()
    await asyncio.sleep(0.02)
    await world.engine.stop()
    for store in (world.api, world.maps):
        del store._write
    again = World(world.api, world.maps)
    again.engine.inventory.namespaces.update(world.engine.inventory.namespaces)
    again.now = world.now + SECOND
    await again.settle()
    return again


@pytest.mark.parametrize("count", range(8))
@scenario
async def test_killed_at_any_write_of_the_beginning_one_ring_comes_of_it(world, count):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    await world.settle()
    change(world, jwt=QUICK)
    die_after(world, count)
    world = await revived(world)
    assert published(world) == published(world, COPY, "jwks.json") == {issuer(world).ring.active.key_id}
    assert not [event for event in world.api.events if event[0] == "TokenKeysLost"]
    assert [reason for reason, _ in world.api.events].count("TokenKeysMade") <= 1


@pytest.mark.parametrize("phase", ["prepare", "activate", "drop"])
@pytest.mark.parametrize("count", range(6))
@scenario
async def test_killed_at_any_write_of_a_rotation_it_goes_on(world, count, phase):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    first = await begun(world)
    for name in ("prepare", "activate", "drop"):
        if name == "prepare":
            ask(world, rotate_jwt="1")
        else:
            world.now += LEAD + SECOND
        if name == phase:
            die_after(world, count)
            world = await revived(world)
        await world.settle()
        active = issuer(world).ring.active.key_id
        assert active in published(world) & published(world, COPY, "jwks.json")
    await minutes(world, 26)
    assert issuer(world).ring.active.key_id != first
    assert published(world) == published(world, COPY, "jwks.json") == {issuer(world).ring.active.key_id}
    assert not [event for event in world.api.events if event[0] == "TokenKeysLost"]


@pytest.mark.parametrize("count", range(6))
@scenario
async def test_killed_at_any_write_of_a_revocation_it_is_done_once(world, count):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    first = await begun(world)
    ask(world, revoke_jwt="1")
    die_after(world, count)
    world = await revived(world)
    now = issuer(world).ring.active.key_id
    assert now != first
    assert published(world) == published(world, COPY, "jwks.json") == {now}
    again = await restarted(world)
    assert issuer(again).ring.active.key_id == now


@scenario
async def test_two_operators_that_begin_at_once_make_one_ring(world):
    other = World(world.api, world.maps)
    await other.settle()
    for one in (world, other):
        one.api.objects[DOMAIN]["spec"]["jwt"] = QUICK
    change(world, jwt=QUICK)
    other.engine.wake(other.engine.inventory.put_trust_domain(other.api.objects[DOMAIN]))
    await asyncio.gather(world.settle(), other.settle())
    for one in (world, other):
        for view in one.maps.stored.values():
            one.engine.wake(one.engine.inventory.put_config_map(view))
        one.echo()
        await one.settle(SECOND)
    assert issuer(world).ring == issuer(other).ring
    assert published(world) == {issuer(world).ring.active.key_id}


@scenario
async def test_revocation_drops_every_earlier_key_at_once(world):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    first = await begun(world)
    ask(world, rotate_jwt="1")
    await world.settle()
    ask(world, revoke_jwt="1")
    await world.settle()
    new = issuer(world).ring.active.key_id
    assert new != first
    assert published(world) == published(world, COPY, "jwks.json") == {new}
    assert issuer(world).ring.key_ids == {new}
    again = await restarted(world)
    assert published(again) == {new}
    assert any(reason == "TokenKeysRevoked" for reason, _ in world.api.events)


@scenario
async def test_a_deleted_secret_is_put_back_from_memory(world):
    key_id = await begun(world)
    view = world.api.stored.pop(KEYS)
    world.engine.wake(world.engine.inventory.drop_secret(*KEYS, view.uid))
    await world.settle()
    assert world.api.stored[KEYS].data == view.data
    assert issuer(world).ring.active.key_id == key_id


@scenario
async def test_an_edited_secret_is_put_back(world):
    key_id = await begun(world)
    before = world.api.stored[KEYS].data
    tell(world, edit(world, KEYS, {"keys.json": b64encode(b"[]").decode()}))
    await world.settle()
    assert world.api.stored[KEYS].data == before
    assert issuer(world).ring.active.key_id == key_id


@scenario
async def test_keys_that_are_lost_are_made_anew_and_that_is_told(world):
    key_id = await begun(world)
    del world.api.stored[KEYS]
    again = await restarted(world)
    assert issuer(again).ring.active.key_id != key_id
    assert any(reason == "TokenKeysLost" for reason, _ in world.api.events)
    assert "were lost" in ready(again)["message"]
    assert published(again) == {issuer(again).ring.active.key_id}
    once_more = await restarted(again)
    assert "were lost" in ready(once_more)["message"]
    ask(once_more, rotate_jwt="1")
    await minutes(once_more, 15)
    assert "were lost" not in ready(once_more)["message"]


@scenario
async def test_what_can_not_be_read_holds_and_what_is_published_stays(world):
    key_id = await begun(world)
    edit(world, KEYS, {"ring.json": b64encode(b"{}").decode()})
    again = await restarted(world)
    assert ready(again)["reason"] == "TokenKeysUnreadable"
    assert isinstance(issuer(again), Held)
    assert published(again) == {key_id}
    assert again.status(DOMAIN)["jwt"]["keys"][0]["keyID"] == key_id
    assert again.ready(DOMAIN) == ("True", "Ready")
    ask(again, revoke_jwt="1")
    await again.settle()
    assert isinstance(issuer(again), TokenIssuer)
    assert ready(again)["status"] == "True"


@scenario
async def test_somebody_elses_config_map_is_left_alone(world):
    world.maps.stored[SETS] = await world.maps.create(*SETS, _content(), _metadata())
    before = world.maps.stored[SETS]
    change(world, jwt=QUICK)
    await world.settle()
    assert ready(world)["reason"] == "Conflict"
    assert world.maps.stored[SETS] == before
    assert isinstance(issuer(world), Held)
    assert await passes_when_left_alone(world) == 0
    del world.maps.stored[SETS]
    await world.settle(timedelta(seconds=31))
    assert ready(world)["status"] == "True"
    assert isinstance(issuer(world), TokenIssuer)


@scenario
async def test_the_config_map_is_put_back(world):
    key_id = await begun(world)
    view = world.maps.stored.pop(SETS)
    world.engine.wake(world.engine.inventory.drop_config_map(*SETS, view.uid))
    assert isinstance(issuer(world), TokenIssuer)  # nobody has to wait for it
    await world.settle()
    assert published(world) == {key_id}


@scenario
async def test_a_deleted_trust_domain_leaves_the_config_map_with_its_secret(world):
    await begun(world)
    world.engine.wake(world.engine.inventory.drop_trust_domain("default"))
    del world.api.objects[DOMAIN]
    await world.settle()
    assert "default.json" in world.maps.stored[SETS].data
    view = world.api.stored.pop(KEYS)
    world.engine.wake(world.engine.inventory.drop_secret(*KEYS, view.uid))
    await world.settle()
    assert "default.json" not in world.maps.stored[SETS].data


@scenario
async def test_another_algorithm_rotates_the_key(world):
    first = await begun(world)
    change(world, jwt=QUICK | {"algorithm": "EdDSA"})
    await minutes(world, 13)
    ring = issuer(world).ring
    assert ring.active.key_id != first
    assert rings.algorithm_of(ring.active) == "EdDSA"
    assert first in ring.key_ids


@scenario
async def test_identities_with_tokens_alone_are_woken_when_the_key_changes(world):
    await begun(world)
    world.apply(TOKEN, name="asks", uid="uid-asks", namespace="shop")
    world.apply({"hmac": {}}, name="other", uid="uid-other", namespace="shop")
    await world.settle()
    woken = []
    wake = world.engine.queue.wake
    ask(world, rotate_jwt="1")
    await world.settle()
    world.engine.queue.wake = lambda key: (woken.append(key), wake(key))
    await world.settle(LEAD)
    assert "asks" in {key.name for key in woken}
    assert "other" not in {key.name for key in woken}


@scenario
async def test_no_private_key_is_told_anywhere(world):
    await begun(world)
    private = json.loads(b64decode(world.api.stored[KEYS].data["keys.json"]))[0]["d"]
    told = json.dumps([world.status(DOMAIN), world.api.events, dict(world.api.stored[KEYS].annotations)])
    assert private not in told
    assert private not in b64decode(world.api.stored[KEYS].data["ring.json"]).decode()
    assert private not in repr(issuer(world))


def encrypted(test):
    def run():
        async def inside():
            safe = Safe()
            world = World(keys=with_safe(safe))
            world.trust_domain(jwt=QUICK)
            await world.settle()
            await test(world, safe)

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


async def again_with(world, keys):
    again = World(world.api, world.maps, keys=keys)
    again.now = world.now
    await again.engine.open_keys()
    await again.settle()
    return again


@encrypted
async def test_the_keys_are_encrypted_at_rest(world, safe):
    stored = json.loads(b64decode(world.api.stored[KEYS].data["keys.json"]))
    assert stored["kek"] == "safe:one"
    key_id = issuer(world).ring.active.key_id
    again = await again_with(world, with_safe(safe))
    assert issuer(again).ring.active.key_id == key_id


@encrypted
async def test_an_envelope_of_another_ring_does_not_open(world, safe):
    old = world.api.stored[KEYS].data["keys.json"]
    ask(world, revoke_jwt="1")
    await world.settle()
    edit(world, KEYS, {"keys.json": old})
    again = await again_with(world, with_safe(safe))
    assert isinstance(issuer(again), Held)
    assert ready(again)["reason"] == "TokenKeysLocked"


@encrypted
async def test_while_the_key_encryption_key_is_away_what_was_opened_is_used_and_after_a_restart_nothing_new_is_made(
    world, safe
):
    key_id = issuer(world).ring.active.key_id
    safe.error = RetryableError("away")
    await minutes(world, 3)
    assert issuer(world).ring.active.key_id == key_id
    before = dict(world.api.stored[KEYS].data)
    again = await again_with(world, with_safe(safe))
    assert isinstance(issuer(again), Held)
    assert ready(again)["reason"] == "TokenKeysLocked"
    assert published(again) == {key_id}
    assert again.status(DOMAIN)["jwt"]["keys"][0]["keyID"] == key_id
    assert dict(world.api.stored[KEYS].data) == before
    safe.error = None
    await again.settle(timedelta(seconds=20))
    assert issuer(again).ring.active.key_id == key_id
    assert ready(again)["status"] == "True"


@encrypted
async def test_nothing_is_made_that_can_not_be_encrypted(world, safe):
    key_id, before = issuer(world).ring.active.key_id, dict(world.api.stored[KEYS].data)
    safe.wrap_error = RetryableError("away")
    ask(world, revoke_jwt="1")
    await world.settle()
    assert ready(world)["reason"] == "KeyEncryptionFailed"
    assert dict(world.api.stored[KEYS].data) == before
    safe.wrap_error = None
    await world.settle(timedelta(seconds=20))
    assert issuer(world).ring.active.key_id != key_id


@encrypted
async def test_keys_are_wrapped_anew_and_stored_in_plain_again(world, safe):
    key_id = issuer(world).ring.active.key_id
    safe.names.insert(0, "two")
    await world.settle(timedelta(minutes=2))
    assert json.loads(b64decode(world.api.stored[KEYS].data["keys.json"]))["kek"] == "safe:two"
    plain = await again_with(world, type(with_safe(safe))(None, (safe,)))
    assert isinstance(json.loads(b64decode(world.api.stored[KEYS].data["keys.json"])), list)
    assert issuer(plain).ring.active.key_id == key_id
    back = await again_with(plain, with_safe(safe))
    assert json.loads(b64decode(world.api.stored[KEYS].data["keys.json"]))["kek"] == "safe:two"
    assert issuer(back).ring.active.key_id == key_id


@scenario
async def test_a_secret_of_somebody_else_is_left_alone(world):
    foreign = await world.api.create(*KEYS, _content(), _metadata())
    change(world, jwt=QUICK)
    await world.settle()
    assert ready(world)["reason"] == "Conflict"
    assert world.api.stored[KEYS] == foreign
    assert world.ready(DOMAIN) == ("True", "Ready")


@scenario
async def test_the_api_server_does_not_let_the_config_map_be_written(world):
    world.maps.failures = [RejectedError("no")] * 3
    change(world, jwt=QUICK)
    await world.settle()
    assert ready(world)["reason"] == "Rejected"
    world.maps.failures = []
    await world.settle(timedelta(seconds=31))
    assert ready(world)["status"] == "True"


def _content():
    return SecretContent.of("Opaque", {"mine": b"x"}, {})


def _metadata():
    return Metadata({}, {}, ())


@encrypted
async def test_a_revocation_does_not_wait_for_the_key_that_encrypts(world, safe):
    change(world, bundle={"target": ALL})
    namespace(world, "shop")
    first = await begun(world)
    safe.wrap_error = RetryableError("away")
    ask(world, revoke_jwt="1")
    await world.settle()
    assert published(world) == set()
    assert published(world, COPY, "jwks.json") == set()
    assert isinstance(issuer(world), Held)
    assert (ready(world)["status"], ready(world)["reason"]) == ("False", "KeyEncryptionFailed")
    assert "no key is published" in ready(world)["message"]
    safe.wrap_error = None
    await minutes(world, 2)
    (second,) = published(world)
    assert second != first
    assert issuer(world).ring.active.key_id == second


@scenario
async def test_a_key_published_by_a_clock_that_was_ahead_signs_after_its_lead(world):
    first, year = await begun(world), timedelta(days=365)
    await world.settle(year)
    (second,) = published(world) - {first}
    world.now -= year
    again = await restarted(world)
    await minutes(again, 5)
    assert issuer(again).ring.active.key_id == first
    await minutes(again, 8)
    assert issuer(again).ring.active.key_id == second
