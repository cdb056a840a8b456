"""Tokens at work: one write a refresh, nothing in the status, nothing lost by a restart, and nobody else's name."""

import logging
from dataclasses import replace
from datetime import timedelta

from serviceidentity.domain.credentials.base import NO_ISSUER
from serviceidentity.domain.schedule import parse_time
from serviceidentity.errors import ConflictError, RejectedError
from tests.unit.app.fake_api import World
from tests.unit.app.scenarios import edit, passes_when_left_alone, scenario, tell
from tests.unit.app.test_policy import domain
from tests.unit.jwt.issuers import RING, SECRET, asking, claims_of, ring, text_of, token_issuer

MINUTE = timedelta(minutes=1)
AT = ("shop", SECRET)
STOCK = {"name": "stock", "audiences": ["stock-service"]}


def signed_by(world, issuer=None):
    """Give the world's identities this issuer, or why there is none."""
    reconciler, found = world.engine._identities, issuer or token_issuer()
    observe = type(reconciler).observe
    reconciler.observe = lambda *args: replace(observe(reconciler, *args), token_issuer=found)


async def restarted(world, issuer=None):
    """Return a world with a new operator that knows from the start who signs, at rest."""
    again = World(world.api, world.maps)
    again.now = world.now
    signed_by(again, issuer)
    await again.settle()
    return again


async def at_rest(world):
    """Let everyone look once more, the trust domain too, and count writes from there."""
    world.engine.wake([*world.engine.inventory.domains, *world.engine.inventory.identities])
    await world.settle()
    world.api.writes.clear()


async def to_next(world, key):
    """Move to the next deadline of the identity."""
    world.now = world.engine.queue._deadlines[key]
    await world.settle()


def conditions(world, key):
    return {c["type"]: (c["status"], c["reason"]) for c in world.status(key)["conditions"]}


@scenario
async def test_a_refresh_is_one_write_and_no_word_of_it(world, caplog):
    caplog.set_level(logging.INFO)
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    before, seen = world.status(key), {text_of(world.api.stored[AT])}
    assert [reason for reason, _ in world.api.events][-1:] == ["Issued"]
    world.echo()
    await world.settle()
    world.api.writes.clear()
    world.api.events.clear()
    caplog.clear()
    for number in range(1, 21):
        await to_next(world, key)
        world.echo()
        await world.settle()
        assert world.api.writes == {"replace": number}
        seen.add(text_of(world.api.stored[AT]))
    assert len(seen) == 21
    assert world.status(key) == before
    assert world.api.events == []
    assert [record.message for record in caplog.records if "order-service" in record.message] == []
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_a_restarted_operator_signs_nothing_and_knows_when_to_go_on(world):
    signed_by(world)
    key = world.apply(asking({}, STOCK))
    await world.settle()
    due = world.engine.queue._deadlines[key]
    await at_rest(world)
    world.now += 5 * MINUTE
    again = await restarted(world)
    assert again.api.writes == {}
    assert again.engine.queue._deadlines[key] == due
    await to_next(again, key)
    assert sum(again.api.writes.values()) == 1, "each of the two at its own time"


@scenario
async def test_a_restart_before_the_keys_are_there_writes_nothing(world):
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    await at_rest(world)
    again = await restarted(world, NO_ISSUER)
    assert again.api.writes == {}
    assert again.ready(key) == ("True", "Ready")


@scenario
async def test_a_token_beside_other_credentials_leaves_their_time_in_the_status(world):
    signed_by(world)
    key = world.apply(asking(certificate={}, hmac={}))
    await world.settle()
    planned = world.status(key)["nextActionTime"]
    assert parse_time(planned) - world.now > timedelta(hours=1)
    assert world.engine.queue._deadlines[key] - world.now <= 10 * MINUTE
    world.api.writes.clear()
    await to_next(world, key)
    assert world.api.writes == {"replace": 1}
    assert world.status(key)["nextActionTime"] == planned


@scenario
async def test_a_refresh_that_is_refused_is_told_and_tried_before_the_token_ends(world):
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    expires = claims_of(world.api.stored[AT])["exp"]
    world.api.failures = [RejectedError("quota")]
    await to_next(world, key)
    assert conditions(world, key)["TokenReady.payments"] == ("False", "Rejected")
    await to_next(world, key)
    assert world.now.timestamp() < expires
    assert world.ready(key) == ("True", "Ready")
    assert claims_of(world.api.stored[AT])["exp"] > expires


@scenario
async def test_a_secret_of_another_owner_is_left_alone(world):
    signed_by(world)
    world.apply(asking(), name="other", uid="uid-2")
    await world.settle()
    theirs = world.api.stored["shop", "other-payments-token"]
    spec = asking({"secretName": "other-payments-token"}, serviceAccountName="orders")
    key = world.apply(spec)
    await world.settle()
    assert conditions(world, key)["TokenReady.payments"] == ("False", "Conflict")
    assert world.api.stored["shop", "other-payments-token"] == theirs


@scenario
async def test_an_edit_is_undone_with_the_same_token(world):
    signed_by(world)
    world.apply(asking())
    await world.settle()
    before = world.api.stored[AT].data
    tell(world, edit(world, AT, {"token": "YWJj"}))
    await world.settle()
    assert world.api.stored[AT].data == before


@scenario
async def test_an_entry_that_goes_takes_its_secret_along(world):
    signed_by(world)
    key = world.apply(asking({}, STOCK))
    await world.settle()
    world.apply(asking(STOCK), generation=2)
    await world.settle()
    assert AT not in world.api.stored
    assert [token["name"] for token in world.status(key)["tokens"]] == ["stock"]


@scenario
async def test_a_thousand_tokens_of_a_withdrawn_key_are_replaced_at_once(world):
    """They are refused already, so they wait for nothing: certificates have a pace, tokens have none."""
    domain(world, reissuesPerSecond=1)
    signed_by(world)
    keys = [world.apply(asking(), name=f"service-{n}", uid=f"uid-{n}") for n in range(50)]
    await world.settle()
    world.api.writes.clear()
    signed_by(world, token_issuer(ring()))
    world.engine.wake(keys)
    await world.settle()
    assert world.api.writes["replace"] == 50


@scenario
async def test_when_nobody_signs_a_token_is_used_up_and_then_it_is_said(world):
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    signed_by(world, NO_ISSUER)
    world.api.writes.clear()
    await to_next(world, key)
    assert conditions(world, key)["TokenReady.payments"] == ("False", "TokenIssuerNotReady")
    await to_next(world, key)
    assert conditions(world, key)["TokenReady.payments"] == ("False", "Expired")
    assert world.api.writes == {"status": 2}
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_a_clock_that_is_put_back_leaves_no_token_of_the_future(world):
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    world.now -= timedelta(hours=3)
    await world.settle()
    assert claims_of(world.api.stored[AT])["iat"] == world.now.timestamp()
    assert world.engine.queue._deadlines[key] - world.now <= 10 * MINUTE


@scenario
async def test_rights_are_denied_until_the_platform_allows_them(world):
    signed_by(world)
    key = world.apply(asking({"permissions": ["orders:read"]}, STOCK, certificate={}))
    await world.settle()
    found = conditions(world, key)
    assert found["TokenReady.payments"] == ("False", "PolicyDenied")
    assert found["TokenReady.stock"][0] == found["CertificateReady"][0] == "True"
    message = world.status(key)["conditions"][0]["message"]
    assert message == (
        'spec.jwt.tokens[0].permissions[0]: "orders:read" is not allowed by TrustDomain default: '
        "spec.policy.tokens.permissions (allowed: none)"
    )
    domain(world, policy={"tokens": {"permissions": ["orders:*"]}})
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert claims_of(world.api.stored[AT])["permissions"] == ["orders:read"]


@scenario
async def test_a_right_that_is_taken_back_is_kept_until_the_token_ends_and_not_renewed(world):
    domain(world, policy={"tokens": {"roles": ["clerk"]}})
    signed_by(world)
    key = world.apply(asking({"roles": ["clerk"]}))
    await world.settle()
    token = text_of(world.api.stored[AT])
    domain(world)
    await world.settle()
    assert world.ready(key) == ("False", "PolicyDenied")
    assert "kept until it ends at 2026-01-01T12:15:00Z" in world.status(key)["conditions"][0]["message"]
    await to_next(world, key)
    await to_next(world, key)
    assert text_of(world.api.stored[AT]) == token
    assert "and is not: the token expired" in world.status(key)["conditions"][0]["message"]
    assert await passes_when_left_alone(world) == 0


@scenario
async def test_no_second_identity_gets_a_token_in_the_name_of_another(world):
    signed_by(world)
    first = world.apply(asking({}, STOCK), creationTimestamp="2026-01-01T00:00:00Z")
    await world.settle()
    second = world.apply(
        asking(certificate={}, serviceAccountName="order-service"), name="other", uid="uid-2",
        creationTimestamp="2020-01-01T00:00:00Z",
    )  # fmt: skip
    await world.settle()
    assert world.ready(first) == ("True", "Ready")
    assert conditions(world, second) == dict.fromkeys(
        ("Ready", "CertificateReady", "TokenReady.payments"), ("False", "SPIFFEIDInUse")
    )
    assert "spiffeID" not in world.status(second)
    world.engine.wake(world.engine.inventory.drop_identity("shop", "order-service"))
    await world.settle()
    assert world.ready(second) == ("True", "Ready")


@scenario
async def test_who_has_the_certificate_keeps_the_name_for_tokens_too(world):
    signed_by(world)
    first = world.apply({"certificate": {}})
    await world.settle()
    second = world.apply(asking(serviceAccountName="order-service"), name="other", uid="uid-2")
    await world.settle()
    assert world.ready(first) == ("True", "Ready")
    assert world.ready(second) == ("False", "SPIFFEIDInUse")


@scenario
async def test_a_token_that_ends_while_another_writes_it_is_looked_at_again(world):
    signed_by(world)
    key = world.apply(asking())
    await world.settle()
    world.api.failures = [ConflictError("changed")]
    await to_next(world, key)
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert RING.active.key_id == world.status(key)["tokens"][0]["keyID"]
