"""A service's own signing key: what is published, when, and what is never usable before it is."""

import json
from base64 import b64decode, b64encode, urlsafe_b64decode
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from serviceidentity.app import identities
from serviceidentity.domain import ownership
from serviceidentity.errors import RejectedError, RetryableError
from tests.unit.app.fake_api import FakeApi
from tests.unit.app.scenarios import edit, passes_when_left_alone, restarted, scenario, tell
from tests.unit.app.test_policy import domain
from tests.unit.domain.builders import DAY, HOUR, T0

SECRET, JWKS = ("shop", "order-service-jwt"), ("shop", "order-service-jwks")
LEAD = timedelta(minutes=32)  # cacheTime and propagation, as by default
TAIL = timedelta(minutes=62)  # maxTokenTTL and propagation
SPEC = {"jwt": {}}
NO_JWT = {"certificate": {}}


def text(view, key):
    return b64decode(view.data[key])


def ring(world, at=SECRET):
    keys = json.loads(text(world.api.stored[at], "keys.json"))["keys"]
    return {key["kid"]: key["state"] for key in keys}


def active(world):
    return next(key_id for key_id, state in ring(world).items() if state == "Active")


def public(world, at=JWKS):
    return [key["kid"] for key in json.loads(text(world.maps.stored[at], "jwks.json"))["keys"]]


def since(world, at=JWKS):
    return json.loads(world.maps.stored[at].annotations["serviceidentity.dev/published"])


def condition(world, key):
    found = next(one for one in world.status(key)["conditions"] if one["type"] == "JWTReady")
    return found["status"], found["reason"]


def writes(world):
    return {**world.api.writes, **{f"map {verb}": number for verb, number in world.maps.writes.items()}}


def clear(world):
    world.api.writes.clear()
    world.maps.writes.clear()


def edit_map(world, at=JWKS, data=None, **fields):
    found = world.maps.stored[at]
    world.maps.version += 1
    view = replace(found, data={**found.data, **(data or {})}, resource_version=world.maps.version, **fields)
    world.maps.stored[at] = view
    return view


def tell_map(world, view):
    world.engine.wake(world.engine.inventory.put_config_map(view))


def drop_map(world, at=JWKS):
    view = world.maps.stored.pop(at)
    world.engine.wake(world.engine.inventory.drop_config_map(*at, view.uid))


async def foreign_map(world, at=JWKS):
    return await world.maps.create(*at, FOREIGN, ownership.Metadata({}, {}, ()))


FOREIGN = ownership.SecretContent.of("", {"jwks.json": b"theirs"}, {})


async def issued(world, spec=SPEC, **meta):
    key = world.apply(spec, **meta)
    await world.settle()
    clear(world)
    return key


async def until_prepared(world):
    """Let time pass until the next key is prepared; return the IDs of this one and the next."""
    first = active(world)
    await world.settle(30 * DAY - LEAD)
    (second,) = ring(world).keys() - {first}
    assert ring(world) == {first: "Active", second: "Prepared"}
    return first, second


@scenario
async def test_a_key_costs_a_config_map_a_secret_and_a_status_and_then_nothing(world):
    key = world.apply(SPEC)
    await world.settle()
    assert writes(world) == {"create": 1, "status": 1, "map create": 1}
    assert world.ready(key) == ("True", "Ready")
    assert list(ring(world)) == public(world) == list(since(world))
    clear(world)
    for view in world.maps.stored.values():
        tell_map(world, view)
    assert await passes_when_left_alone(world) == 0
    again = await restarted(world)
    assert writes(again) == {}
    assert again.status(key) == world.status(key)


@scenario
async def test_the_secret_has_one_key_in_every_form(world):
    key = await issued(world)
    view = world.api.stored[SECRET]
    assert view.type == "serviceidentity.dev/jwt"
    private = json.loads(text(view, "key.jwk"))
    (jwk,) = json.loads(text(view, "jwks.json"))["keys"]
    assert private | jwk == private
    assert private.keys() - jwk.keys() == {"d"}
    pem = text(view, "key.pem")
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    numbers = serialization.load_pem_private_key(pem, None).private_numbers()
    assert numbers.private_value == int.from_bytes(unpadded(private["d"]))
    assert text(view, "key-id").decode() == jwk["kid"]
    assert text(view, "algorithm") == b"ES256"
    assert text(view, "jwks.json") == text(world.maps.stored[JWKS], "jwks.json")
    report = world.status(key)["jwt"]
    assert (report["secretName"], report["jwksConfigMapName"]) == (SECRET[1], JWKS[1])
    assert [one["keyID"] for one in report["keys"]] == [jwk["kid"]]
    assert private["d"] not in json.dumps(world.status(key)) + repr(world.api.events) + repr(world.maps.stored)


def unpadded(value):
    return urlsafe_b64decode(value + "=" * (-len(value) % 4))


@scenario
async def test_a_key_is_public_for_the_lead_before_it_signs_and_for_the_tail_after(world):
    await issued(world)
    first, second = await until_prepared(world)
    assert sorted(public(world)) == sorted([first, second])
    assert writes(world) == {"replace": 1, "status": 1, "map replace": 1}
    prepared = world.now
    await world.settle(LEAD - timedelta(seconds=1))
    assert active(world) == first
    clear(world)
    await world.settle(timedelta(seconds=1))
    assert ring(world) == {first: "Retiring", second: "Active"}
    assert writes(world) == {"replace": 1, "status": 1}  # the public keys are the same
    assert world.now == prepared + LEAD
    await world.settle(TAIL - timedelta(seconds=1))
    assert first in public(world)
    await world.settle(timedelta(seconds=1))
    assert public(world) == list(ring(world)) == [second]


@scenario
async def test_a_key_that_was_not_published_all_the_time_waits_anew(world):
    await issued(world)
    first, second = await until_prepared(world)
    world.now += LEAD / 2
    jwks = {
        "keys": [key for key in json.loads(text(world.maps.stored[JWKS], "jwks.json"))["keys"] if key["kid"] == first]
    }
    tell_map(world, edit_map(world, data={"jwks.json": b64encode(json.dumps(jwks).encode()).decode()}))
    await world.settle()
    assert sorted(public(world)) == sorted([first, second])
    assert since(world)[first] < since(world)[second]
    await world.settle(LEAD / 2)
    assert active(world) == first
    await world.settle(LEAD / 2)
    assert active(world) == second


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("damage", ["edited", "deleted", "more keys", "labels", "annotation", "owner"])
@scenario
async def test_a_damaged_config_map_is_put_back_and_the_secret_left_alone(world, damage, restart):
    key = await issued(world)
    before, secret = world.maps.stored[JWKS], world.api.stored[SECRET]
    world.now += HOUR
    match damage:
        case "edited":
            view = edit_map(world, data={"jwks.json": b64encode(b"{]").decode()})
        case "more keys":
            view = edit_map(world, data={"more.json": b64encode(b"{}").decode()})
        case "labels":
            kept = {ownership.MANAGED_BY_LABEL: ownership.MANAGED_BY}
            view = edit_map(world, labels=kept)
        case "annotation":
            view = edit_map(world, annotations={"serviceidentity.dev/published": '{"x": 7}'})
        case "owner":
            view = edit_map(world, owners=())
        case "deleted":
            drop_map(world)
    if restart:
        world = await restarted(world)
    elif damage != "deleted":
        tell_map(world, view)
    await world.settle()
    after = world.maps.stored[JWKS]
    assert (after.data, after.labels, after.owners) == (before.data, before.labels, before.owners)
    assert world.api.stored[SECRET] == secret
    assert world.ready(key) == ("True", "Ready")
    assert sum(world.maps.writes.values()) == 1
    clear(world)
    assert await passes_when_left_alone(world) == 0
    assert writes(world) == {}


@scenario
async def test_our_labels_taken_off_are_put_back_even_without_an_owner_reference(world):
    key = await issued(world, SPEC | {"deletionPolicy": "Retain"})
    view = edit_map(world, labels={}, annotations={})
    world.engine.wake(world.engine.inventory.drop_config_map(*JWKS, view.uid))  # so the watch tells it
    await world.settle()
    world.engine.wake([key])  # the first pass has learned what is there
    await world.settle()
    assert world.maps.stored[JWKS].labels[ownership.IDENTITY_LABEL] == "order-service"
    assert world.engine.counters.failing == {}


@scenario
async def test_a_deletion_that_no_watch_told_is_found_by_the_next_list(world):
    await issued(world)
    inventory = world.engine.inventory
    listed = list(world.maps.stored.values())
    bodies = [body for key, body in world.api.objects.items() if key.namespace]
    domains = [body for key, body in world.api.objects.items() if not key.namespace]
    arguments = ([], bodies, domains, list(world.api.stored.values()), lambda _: 10**6)
    inventory.resync(*arguments, config_maps=listed)
    assert inventory.jwks.at(JWKS) is not None
    del world.maps.stored[JWKS]
    world.engine.wake(inventory.resync(*arguments, config_maps=[]))
    await world.settle()
    assert public(world) == list(ring(world))


@scenario
async def test_a_foreign_config_map_is_left_alone_and_no_secret_is_written(world):
    foreign = await foreign_map(world)
    clear(world)
    key = world.apply(SPEC)
    await world.settle()
    assert condition(world, key) == ("False", "Conflict")
    assert "ConfigMap order-service-jwks belongs to someone else" in str(world.status(key))
    assert SECRET not in world.api.stored
    assert world.maps.stored[JWKS] == foreign
    assert writes(world) == {"status": 1}
    assert await passes_when_left_alone(world) == 0
    del world.maps.stored[JWKS]
    await world.settle(HOUR)
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_foreign_secret_publishes_nothing(world):
    content = ownership.SecretContent.of("Opaque", {"key": b"theirs"}, {})
    await world.api.create(*SECRET, content, ownership.Metadata({}, {}, ()))
    clear(world)
    key = world.apply(SPEC)
    await world.settle()
    assert condition(world, key) == ("False", "Conflict")
    assert JWKS not in world.maps.stored


@scenario
async def test_two_identities_that_want_one_config_map_do_not_take_turns(world):
    await issued(world)
    before = world.maps.stored[JWKS]
    other = world.apply({"jwt": {"jwksConfigMapName": JWKS[1]}}, name="payment-service", uid="uid-2")
    await world.settle()
    assert condition(world, other) == ("False", "Conflict")
    assert world.maps.stored[JWKS] == before
    assert ("shop", "payment-service-jwt") not in world.api.stored


@scenario
async def test_a_config_map_taken_over_by_somebody_holds_up_the_next_key(world):
    key = await issued(world)
    drop_map(world)
    foreign = await foreign_map(world)
    await world.settle()
    assert condition(world, key) == ("False", "Conflict")
    first = active(world)
    await world.settle(60 * DAY)
    assert ring(world) == {first: "Active"}
    assert world.maps.stored[JWKS] == foreign


@pytest.mark.parametrize(("policy", "stays"), [("Delete", False), ("Retain", True)])
@scenario
async def test_what_is_not_asked_for_any_more_is_removed_unless_retained(world, policy, stays):
    await issued(world, SPEC | NO_JWT | {"deletionPolicy": policy})
    world.apply(NO_JWT | {"deletionPolicy": policy}, generation=2)
    await world.settle()
    assert (JWKS in world.maps.stored, SECRET in world.api.stored) == (stays, stays)
    clear(world)
    assert await passes_when_left_alone(world) == 0
    assert writes(await restarted(world)) == {}


@scenario
async def test_other_names_get_the_same_keys(world):
    await issued(world)
    before = ring(world)
    world.apply({"jwt": {"secretName": "signing", "jwksConfigMapName": "public"}}, generation=2)
    await world.settle()
    assert ring(world, ("shop", "signing")) == before
    assert public(world, ("shop", "public")) == list(before)
    assert not {SECRET, JWKS} & {*world.api.stored, *world.maps.stored}
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_another_name_that_is_taken_leaves_the_old_ones_until_it_is_free(world):
    key = await issued(world)
    await foreign_map(world, ("shop", "public"))
    world.apply({"jwt": {"jwksConfigMapName": "public"}}, generation=2)
    await world.settle()
    assert condition(world, key) == ("False", "Conflict")
    assert public(world) == list(ring(world))


@scenario
async def test_the_owner_reference_follows_the_deletion_policy(world):
    await issued(world)
    assert world.maps.stored[JWKS].owners
    world.apply(SPEC | {"deletionPolicy": "Retain"}, generation=2)
    await world.settle()
    assert not world.maps.stored[JWKS].owners
    assert world.maps.writes == {"replace": 1}


# A Secret that can't be written after its ConfigMap was: whichever step it was, and whether or not the operator lives on.


class LostAnswers(FakeApi):
    """Writes of Secrets happen, but their answers are lost."""

    lost = 0

    async def create(self, *what):
        return self.answer(await super().create(*what))

    async def replace(self, *what):
        return self.answer(await super().replace(*what))

    def answer(self, view):
        if self.lost:
            self.lost -= 1
            raise RetryableError("no answer")
        return view


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("step", ["first", "prepare", "revoke"])
@scenario
async def test_a_crash_between_config_map_and_secret_ends_right(world, step, stored, restart):
    if step == "first":
        key = world.apply(SPEC)
    else:
        key = await issued(world)
    if step == "prepare":
        world.now += 30 * DAY - LEAD
        world.engine.queue.wake_due()
    if step == "revoke":
        world.apply(SPEC, annotations={ownership.REVOKE_JWT_ANNOTATION: "1"})
    if stored:
        world.api.__class__, world.api.lost = LostAnswers, 1
    else:
        world.api.failures = [RetryableError("gone")]
    await world.settle()
    assert world.engine.counters.failing
    if restart:
        world = await restarted(world)
    else:
        world.engine.wake([key])
        await world.settle()
        world.engine.wake([key])
        await world.settle()
    for view in list(world.api.stored.values()):
        tell(world, view)
    await world.settle()
    assert sorted(public(world)) == sorted(ring(world))
    assert world.ready(key) == ("True", "Ready")
    if step == "prepare":
        at = active(world)
        await world.settle(LEAD)
        assert active(world) != at


@scenario
async def test_a_quota_that_refuses_the_secret_is_tried_again_later(world):
    world.api.failures = [RejectedError("quota")]
    key = world.apply(SPEC)
    await world.settle()
    assert condition(world, key) == ("False", "Rejected")
    assert JWKS in world.maps.stored
    await world.settle(HOUR)
    assert sorted(public(world)) == sorted(ring(world))


@scenario
async def test_a_config_map_that_is_refused_leaves_no_secret(world):
    world.maps.failures = [RejectedError("quota")]
    key = world.apply(SPEC)
    await world.settle()
    assert condition(world, key) == ("False", "Rejected")
    assert SECRET not in world.api.stored


@scenario
async def test_a_revocation_replaces_all_keys_at_once_and_only_once(world):
    key = await issued(world)
    first, second = await until_prepared(world)
    clear(world)
    world.apply(SPEC, annotations={ownership.REVOKE_JWT_ANNOTATION: "1"})
    await world.settle()
    assert list(ring(world).values()) == ["Active"]
    assert public(world) == list(ring(world))
    assert not {first, second} & ring(world).keys()
    assert world.api.stored[SECRET].annotations[ownership.REVOKED_JWT_ANNOTATION] == "1"
    assert writes(world) == {"replace": 1, "status": 1, "map replace": 1}
    third = active(world)
    clear(world)
    assert await passes_when_left_alone(world) == 0
    assert writes(await restarted(world)) == {}
    await until_prepared(world)  # an ordinary rotation keeps the record
    await world.settle(LEAD)
    assert ring(world)[third] == "Retiring"
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_revocation_does_not_wait_for_a_backoff(world):
    key = await issued(world)
    world.api.failures = [RejectedError("quota")]
    await world.settle(30 * DAY - LEAD)
    assert condition(world, key) == ("False", "Rejected")
    first = active(world)
    world.apply(SPEC, annotations={ownership.REVOKE_JWT_ANNOTATION: "1"})
    await world.settle()
    assert first not in ring(world)


@scenario
async def test_revoked_keys_leave_the_jwks_even_where_no_new_key_is_allowed(world):
    key = await issued(world)
    rule = {"name": "never", "expression": "false", "message": "nothing for nobody"}
    domain(world, policy={"rules": [rule]})
    await world.settle()
    assert public(world) == list(ring(world))
    world.apply(SPEC, annotations={ownership.REVOKE_JWT_ANNOTATION: "1"})
    await world.settle()
    assert public(world) == []
    assert condition(world, key)[0] == "False"
    clear(world)
    assert await passes_when_left_alone(world) == 0
    domain(world)
    await world.settle()
    assert public(world) == list(ring(world))
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_suspended_identity_says_that_its_revocation_waits(world):
    key = await issued(world)
    before = ring(world)
    world.apply(SPEC | {"suspend": True}, annotations={ownership.REVOKE_JWT_ANNOTATION: "1"}, generation=2)
    await world.settle()
    assert ring(world) == before
    assert condition(world, key) == ("False", "Revoked")


@scenario
async def test_a_suspended_identity_says_that_its_keys_are_not_published(world):
    key = await issued(world)
    world.apply(SPEC | {"suspend": True}, generation=2)
    await world.settle()
    assert condition(world, key) == ("True", "Issued")
    drop_map(world)
    await world.settle()
    assert condition(world, key) == ("False", "Drifted")
    assert JWKS not in world.maps.stored
    world.apply(SPEC, generation=3)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_retained_config_map_is_adopted_with_its_times(world):
    key = await issued(world, SPEC | {"deletionPolicy": "Retain"})
    _, second = await until_prepared(world)
    at = since(world)[second]
    world.api.objects.pop(key)
    world.engine.wake(world.engine.inventory.drop_identity("shop", "order-service"))
    world.now += LEAD / 2
    await world.settle()
    world.apply(SPEC | {"deletionPolicy": "Retain"}, uid="uid-2")
    await world.settle()
    assert world.maps.stored[JWKS].labels[ownership.OWNER_UID_LABEL] == "uid-2"
    assert since(world)[second] == at
    await world.settle(LEAD / 2)
    assert active(world) == second


@scenario
async def test_a_rotation_that_is_asked_for_is_graceful(world):
    await issued(world)
    first = active(world)
    world.apply(SPEC, annotations={ownership.ROTATE_ANNOTATION: "1"})
    await world.settle()
    (second,) = ring(world).keys() - {first}
    assert ring(world) == {first: "Active", second: "Prepared"}
    await world.settle(LEAD)
    assert ring(world) == {first: "Retiring", second: "Active"}
    await world.settle(TAIL)
    assert ring(world) == {second: "Active"}
    clear(world)
    assert writes(await restarted(world)) == {}


@scenario
async def test_a_rotation_asked_for_during_one_comes_after_it(world):
    await issued(world)
    _, second = await until_prepared(world)
    world.apply(SPEC, annotations={ownership.ROTATE_ANNOTATION: "1"})
    await world.settle()
    assert len(ring(world)) == 2
    await world.settle(LEAD)
    assert sorted(ring(world).values()) == ["Active", "Prepared", "Retiring"]
    await world.settle(LEAD)
    assert ring(world)[second] == "Retiring"
    assert "Prepared" not in ring(world).values()


@pytest.mark.parametrize("algorithm", ["EdDSA", "PS256"])
@scenario
async def test_another_algorithm_is_rotated_to_once(world, algorithm):
    await issued(world)
    first = active(world)
    world.apply({"jwt": {"algorithm": algorithm}}, generation=2)
    await world.settle()
    assert text(world.api.stored[SECRET], "algorithm") == b"ES256"
    await world.settle(LEAD)
    assert text(world.api.stored[SECRET], "algorithm").decode() == algorithm
    assert ring(world)[first] == "Retiring"
    assert "Prepared" not in ring(world).values()
    await world.settle(TAIL)
    assert len(ring(world)) == 1


@scenario
async def test_an_algorithm_changed_back_in_time_ends_with_the_one_asked_for(world):
    await issued(world)
    world.apply({"jwt": {"algorithm": "EdDSA"}}, generation=2)
    await world.settle()
    world.apply(SPEC, generation=3)
    for _ in range(4):
        await world.settle(LEAD)
    assert text(world.api.stored[SECRET], "algorithm") == b"ES256"


@scenario
async def test_rsa_keys_are_made_in_a_thread(world, monkeypatch):
    seen = []
    to_thread = identities.asyncio.to_thread

    async def counted(function, *arguments):
        seen.append(function.__name__)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(identities.asyncio, "to_thread", counted)
    await issued(world)
    assert seen == []
    world.apply({"jwt": {"algorithm": "RS256"}}, generation=2)
    await world.settle()
    assert "render" in seen


@pytest.mark.parametrize(
    ("damage", "same_key"),
    [
        ({"keys.json": b64encode(b"{}").decode()}, False),
        ({"keys.json": None}, False),
        ({"key.pem": b64encode(b"x").decode()}, True),
        ({"key-id": None}, True),
        ({"more": ""}, True),
    ],
)
@scenario
async def test_damage_done_while_no_operator_ran_is_repaired_with_a_new_key_only_where_it_must(world, damage, same_key):
    key = await issued(world)
    first = active(world)
    edit(world, SECRET, damage)
    again = await restarted(world)
    assert (active(again) == first) is same_key
    assert public(again) == list(ring(again))
    assert again.ready(key) == ("True", "Ready")


@scenario
async def test_damage_seen_is_undone_with_the_same_key(world):
    await issued(world)
    before = world.api.stored[SECRET]
    tell(world, edit(world, SECRET, {"keys.json": None}))
    await world.settle()
    assert world.api.stored[SECRET].data == before.data
    assert sum(world.maps.writes.values()) == 0


@scenario
async def test_a_secret_deleted_with_its_config_map_comes_back_after_it(world):
    await issued(world)
    before = ring(world)
    drop_map(world)
    del world.api.stored[SECRET]
    world.engine.wake(world.engine.inventory.drop_secret(*SECRET))
    world.maps.failures = [RejectedError("quota")]
    await world.settle()
    assert SECRET not in world.api.stored, "a key is not usable again before it is public again"
    await world.settle(HOUR)
    assert ring(world).keys() >= before.keys()
    assert sorted(public(world)) == sorted(ring(world))


@pytest.mark.parametrize("year", [2100, 9999])
@scenario
async def test_a_clock_that_was_ahead_does_not_keep_the_next_key_waiting(world, year):
    await issued(world)
    _, second = await until_prepared(world)
    record = json.dumps(dict.fromkeys(ring(world), f"{year}-12-31T23:59:59Z"))
    tell_map(
        world,
        edit_map(world, annotations={**world.maps.stored[JWKS].annotations, "serviceidentity.dev/published": record}),
    )
    await world.settle()
    await world.settle(LEAD)
    assert active(world) == second


@scenario
async def test_a_key_prepared_by_a_clock_that_was_ahead_signs_after_its_lead(world):
    await issued(world)
    first, year = active(world), 365 * DAY
    await world.settle(year)
    (second,) = ring(world).keys() - {first}
    world.now -= year
    again = await restarted(world)
    await again.settle(LEAD / 2)
    assert active(again) == first
    await again.settle(LEAD / 2 + timedelta(seconds=1))
    assert ring(again)[second] == "Active"
    await again.settle(LEAD)
    assert ring(again).keys() == {first, second}


@scenario
async def test_without_a_key_of_its_own_nothing_is_published(world):
    world.apply({"jwt": {"signingKey": "None", "tokens": [{"name": "a", "audiences": ["b"]}]}})
    await world.settle()
    assert JWKS not in world.maps.stored and SECRET not in world.api.stored


@scenario
async def test_no_time_at_all_is_one_second(world):
    short = {"rotateEvery": "20s", "maxTokenTTL": "10s", "cacheTime": "0s", "propagation": "0s"}
    await issued(world, {"jwt": short})
    first = active(world)
    for _ in range(22):
        await world.settle(timedelta(seconds=1))
    assert ring(world)[first] == "Retiring"
    assert world.now == T0 + timedelta(seconds=22)
