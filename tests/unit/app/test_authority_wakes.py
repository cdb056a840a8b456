"""Whatever a prepared or tainted authority waits for: when it has happened, its life goes on without a restart."""

import asyncio
from datetime import timedelta

import pytest

from serviceidentity.domain.material import SecretContent
from serviceidentity.domain.model import Kind
from serviceidentity.errors import RejectedError, RetryableError
from tests.unit.app.scenarios import edit, restarted, scenario
from tests.unit.app.test_taint import DEFAULT, change, states, taint
from tests.unit.domain.builders import DAY, HOUR, view_of

SECOND = timedelta(seconds=1)
ROTATE = {"serviceidentity.dev/rotate-root": "1"}


def refuse(world, secret):
    """Let writes of a Secret fail, as those of a quota or a webhook do; return how to end that."""
    real = world.api.replace

    async def refusing(view, content, metadata):
        if view.name == secret:
            raise RejectedError("quota")
        return await real(view, content, metadata)

    world.api.replace = refusing
    return lambda: setattr(world.api, "replace", real)


def delete(world, key):
    body = world.api.objects.pop(key)
    world.engine.wake(world.engine.inventory.drop_identity(key.namespace, key.name, body["metadata"]["uid"]))
    for at in [at for at in world.api.stored if at[0] == key.namespace]:
        del world.api.stored[at]
        world.engine.wake(world.engine.inventory.drop_secret(*at))


@pytest.mark.parametrize("how", ["deleted", "deleting", "suspended", "moved", "no certificate"])
@scenario
async def test_a_root_waits_no_longer_for_an_identity_that_is_out_of_the_way(world, how):
    change(world)
    slow = world.apply({"certificate": {}}, name="slow", uid="u-1")
    await world.settle()
    refuse(world, "slow-tls")
    change(world, annotations=ROTATE)
    await world.settle(HOUR)
    assert states(world)["root-2"] == "Prepared"
    meta = {"name": "slow", "uid": "u-1", "generation": 2}
    match how:
        case "deleted":
            delete(world, slow)
        case "deleting":
            world.apply({"certificate": {}}, **meta, deletionTimestamp="2026-01-01T12:00:00Z")
        case "suspended":
            world.apply({"certificate": {}, "suspend": True}, **meta)
        case "moved":
            world.apply({"certificate": {}, "trustDomainRef": {"name": "other"}}, **meta)
        case "no certificate":
            world.apply({}, **meta)
    await world.settle()
    await world.settle(HOUR)
    assert states(world)["root-2"] == "Active"


@scenario
async def test_a_tainted_root_goes_when_the_last_certificate_that_nobody_can_replace_has_ended(world):
    change(world)
    world.apply({"certificate": {"duration": "24h"}}, name="off", uid="u-1")
    await world.settle()
    world.apply({"certificate": {"duration": "24h"}, "suspend": True}, name="off", uid="u-1", generation=2)
    change(world, annotations=ROTATE)
    await world.settle()
    await world.settle(HOUR)
    taint(world, "default-root-1")
    await world.settle()
    assert states(world)["root-1"] == "Tainted"
    await world.settle(DAY)
    await world.settle(HOUR)
    assert "root-1" not in states(world)


@scenario
async def test_a_tainted_root_goes_when_the_last_identity_under_it_is_deleted(world):
    change(world)
    last = world.apply({"certificate": {}}, name="last", uid="u-1")
    await world.settle()
    change(world, annotations=ROTATE)
    await world.settle()
    await world.settle(HOUR)
    refuse(world, "last-tls")
    taint(world, "default-root-1")
    await world.settle()
    delete(world, last)
    await world.settle()
    await world.settle(HOUR)
    assert "root-1" not in states(world)


@scenario
async def test_identities_get_the_new_bundle_although_the_status_could_not_be_written(world):
    change(world)
    world.apply({"certificate": {}})
    await world.settle()
    real, refused = world.api.patch, []

    async def failing(key, patch):
        if key.kind is Kind.TRUST_DOMAIN and not refused:
            refused.append(key)
            raise RetryableError("the API server does not answer")
        return await real(key, patch)

    world.api.patch = failing
    change(world, annotations=ROTATE)
    await world.settle()
    await asyncio.sleep(0.3)  # until the next attempt
    await world.settle()
    assert refused
    bundle = world.api.stored["shop", "order-service-tls"].value("ca.crt")
    assert world.api.stored["system", "default-root-2"].value("tls.crt") in bundle


@scenario
async def test_a_root_that_vanished_during_a_backoff_is_not_replaced_without_a_word(world):
    world.api.stored["system", "default-root-2"] = view_of(SecretContent("Opaque", {}), "default-root-2", "system")
    change(world, annotations=ROTATE)
    await world.settle()
    assert world.ready(DEFAULT) == ("False", "Conflict")
    del world.api.stored["system", "default-root-1"]
    again = await restarted(world)
    del again.api.stored["system", "default-root-2"]
    await again.settle(2 * DAY)
    assert again.ready(DEFAULT) == ("False", "AuthorityMissing")
    assert ("system", "default-root-1") not in again.api.stored
    assert ("system", "default-root-2") not in again.api.stored


@scenario
async def test_while_nobody_can_sign_the_condition_says_who_is_waited_for(world):
    change(world)
    world.apply({"certificate": {}}, name="slow", uid="u-1")
    await world.settle()
    refuse(world, "slow-tls")
    taint(world, "default-root-1")
    await world.settle()
    await world.settle(SECOND)
    condition = world.status(DEFAULT)["conditions"][0]
    assert condition["reason"] == "IssuerTainted"
    assert "root default-root-2 waits until everyone has it: shop/slow" in condition["message"]


@scenario
async def test_a_refused_root_is_tried_again_soon_when_nobody_can_sign(world):
    change(world)
    await world.settle()
    world.api.stored["system", "default-root-2"] = view_of(SecretContent("Opaque", {}), "default-root-2", "system")
    taint(world, "default-root-1")
    for _ in range(24):
        await world.settle(HOUR)
    assert world.ready(DEFAULT) == ("False", "Conflict")
    del world.api.stored["system", "default-root-2"]
    await world.settle(timedelta(minutes=16))
    assert world.ready(DEFAULT) == ("True", "Ready")


@pytest.mark.parametrize("spec", [{"certificate": {"duration": "?"}}, {"trustDomainRef": {"name": "none"}}])
@scenario
async def test_a_certificate_counts_as_in_use_also_when_its_identity_can_t_be_served(world, spec):
    change(world)
    world.apply({"certificate": {"duration": "24h"}}, name="odd", uid="u-1")
    await world.settle()
    change(world, annotations=ROTATE)
    await world.settle()
    refuse(world, "odd-tls")
    world.apply({"certificate": {"duration": "24h"}} | spec, name="odd", uid="u-1", generation=2)
    await world.settle(HOUR)
    await world.settle(HOUR)
    taint(world, "default-root-1")
    for _ in range(6):
        await world.settle(HOUR)
    assert states(world)["root-1"] == "Tainted"
    for _ in range(24):
        await world.settle(HOUR)
    assert "root-1" not in states(world)


@pytest.mark.parametrize("label", ["serviceidentity.dev/authority-generation", "serviceidentity.dev/authority-role"])
@scenario
async def test_an_authority_whose_labels_do_not_go_with_its_name_is_for_people_to_look_at(world, label):
    at = ("system", "default-root-1")
    labels = world.api.stored[at].labels | {label: {"generation": "7", "role": "Intermediate"}[label.split("-")[-1]]}
    edit(world, at, labels=labels)
    again = await restarted(world)
    assert again.ready(DEFAULT) == ("False", "AuthorityUnreadable")
    assert {name for _, name in again.api.stored} == {"default-root-1", "default-intermediate-1"}


@scenario
async def test_a_root_that_is_asked_for_is_tried_at_once_although_an_attempt_was_refused(world):
    change(world)
    await world.settle()
    world.api.stored["system", "default-root-2"] = view_of(SecretContent("Opaque", {}), "default-root-2", "system")
    change(world, annotations=ROTATE)
    for _ in range(12):
        await world.settle(HOUR)
    del world.api.stored["system", "default-root-2"]
    body = world.api.objects[DEFAULT]
    world.api.version += 1
    body["metadata"]["annotations"] = {"serviceidentity.dev/rotate-root": "2"}  # which is no new generation
    body["metadata"]["resourceVersion"] = str(world.api.version)
    world.engine.wake(world.engine.inventory.put_trust_domain(body))
    await world.settle()
    assert states(world)["root-2"] == "Prepared"


@scenario
async def test_events_tell_each_step_of_an_authority_s_life(world):
    change(world)
    await world.settle()
    world.api.events.clear()
    change(world, annotations=ROTATE)
    await world.settle()
    await world.settle(HOUR)
    told = [(reason, message.split(":")[0]) for reason, message in world.api.events]
    assert told == [
        ("RotationRequested", "default-root-2"),
        ("RootPrepared", "default-intermediate-2"),
        ("Published", "default-root-2"),
        ("Activated", "default-root-2"),
        ("Activated", "default-intermediate-2"),
    ]


@scenario
async def test_only_a_secret_that_somebody_changed_is_a_drift(world):
    change(world)
    await world.settle()
    world.api.events.clear()
    change(world, deletionPolicy="Delete")
    await world.settle()
    assert {reason for reason, _ in world.api.events} == {"MetadataChanged"}
    world.api.events.clear()
    del world.api.stored["system", "default-root-1"]
    world.engine.wake(world.engine.inventory.drop_secret("system", "default-root-1"))
    await world.settle()
    assert world.api.events == [("Drifted", "default-root-1 was put back")]


@pytest.mark.parametrize("tainted", [False, True])
@scenario
async def test_the_status_is_not_written_anew_for_everyone_who_gets_the_bundle(world, tainted):
    change(world)
    for number in range(60):
        world.apply({"certificate": {}}, name=f"s{number}", uid=f"u-{number}")
    await world.settle()
    real, written = world.api.patch, []

    async def counting(key, patch):
        written.append(key)
        return await real(key, patch)

    world.api.patch = counting
    if tainted:
        taint(world, "default-root-1")
    else:
        change(world, annotations=ROTATE)
    await world.settle()
    assert "publishedTime" in world.status(DEFAULT)["authorities"][0]
    assert written.count(DEFAULT) <= 3
