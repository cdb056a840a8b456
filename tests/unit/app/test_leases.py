"""Credentials with a lease: issued once, renewed in time, replaced before they end, and given back."""

import asyncio
import inspect
import json
from dataclasses import replace
from datetime import timedelta
from functools import wraps

import pytest

from serviceidentity.app.vault import lease_collector
from serviceidentity.domain.model import vault_lease_key
from serviceidentity.domain.ownership import VAULT_LEASE_ANNOTATION, VAULT_REPLACED_ANNOTATION
from serviceidentity.domain.schedule import parse_time
from serviceidentity.domain.vault import strays
from serviceidentity.errors import ForbiddenError, RejectedError, RetryableError, UnansweredError
from tests.unit.app.fake_leases import LeaseWorld, database
from tests.unit.domain.builders import T0

DB = ("shop", "order-service-db")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
BOND = '{"record":"RECORD","id":"x","issued":"%s","duration":"%s","renewable":true}'


def lease_test(test):
    """Run a test with a world that has Vault; parameters are handed on by name."""

    async def inside(**given):
        world = LeaseWorld()
        world.trust_domain()
        await world.settle()
        world.api.writes.clear()
        await test(world, **given)

    @wraps(test)
    def run(**given):
        asyncio.run(inside(**given))

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(
        parameters=[one for name, one in signature.parameters.items() if name != "world"]
    )
    return run


def password(world):
    return world.api.stored[DB].value("password")


@lease_test
async def test_credentials_are_issued_with_a_record_a_secret_and_a_status(world):
    key = world.apply(database())
    await world.settle()
    assert world.ready(key) == ("True", "Ready")
    assert world.api.writes == {"create": 2, "status": 1}
    assert len(world.vault.living()) == len(world.records) == 1
    assert world.lease(key)["expireTime"] == "2026-01-01T13:00:00Z"
    assert parse_time(world.lease(key)["renewalTime"]) <= T0 + timedelta(minutes=45)
    stored = world.api.stored[DB]
    assert json.loads(stored.annotations[VAULT_LEASE_ANNOTATION])["record"] == world.records[0]
    assert (stored.value("username"), stored.value("password")) == (b"v-2", b"pw-2")


@lease_test
async def test_it_is_renewed_before_three_quarters_and_nothing_else_changes(world):
    key = world.apply(database())
    await world.settle()
    before = world.api.stored[DB]
    world.api.writes.clear()
    await world.run_for(hours=6)
    (made,) = world.vault.living()
    grants = [made.issued, *made.renewals]
    assert len(made.renewals) >= 7
    assert all(
        0.70 * HOUR < later - earlier < 0.75 * HOUR for earlier, later in zip(grants, made.renewals, strict=False)
    )
    assert world.api.stored[DB] == before
    assert world.api.writes == {"status": len(made.renewals)}
    assert world.ready(key) == ("True", "Ready")


@lease_test
async def test_a_restart_with_nothing_due_asks_once_and_writes_nothing(world):
    world.apply(database())
    await world.run_for(minutes=50)
    world.api.writes.clear()
    world.vault.calls.clear()
    again = LeaseWorld(world)
    await again.settle()
    assert again.api.writes == {}
    assert again.vault.calls == {"lookup": 1}
    (made,) = again.vault.living()
    before = len(made.renewals)
    await again.run_for(minutes=60)
    assert len(made.renewals) > before
    assert again.vault.living() == [made]


@lease_test
async def test_the_token_always_outlives_the_lease(world):
    world.apply(database())
    for _ in range(30):
        await world.run_for(minutes=20)
        (made,) = world.vault.living()
        assert made.token.ends >= made.ends
    assert len(world.vault.lease_tokens()) == 1


@lease_test
async def test_near_max_ttl_there_are_others_and_the_old_ones_live_for_the_overlap(world):
    world.vault.max_ttl = timedelta(hours=2)
    key = world.apply(database())
    await world.settle()
    first = world.vault.made[0]
    while len(world.vault.made) == 1:
        world.now = world.engine.queue.next_deadline()
        await world.settle()
    second = world.vault.made[1]
    assert second.issued < first.ends
    assert len(world.vault.living()) == len(world.records) == 2
    assert password(world) == b"pw-4"
    assert world.ready(key) == ("True", "Ready")
    await world.run_until(min(second.issued + 10 * MINUTE, first.ends))
    assert world.vault.living() == [second]
    assert len(world.records) == 1


@pytest.mark.parametrize("minutes", [1, 10, 45])
@lease_test
async def test_a_rotation_asked_for_gives_others_and_the_old_ones_live_for_the_overlap(world, minutes):
    key = world.apply(database(overlap="20m"))
    await world.run_for(minutes=minutes)
    world.apply(database(overlap="20m"), annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    asked = world.now
    assert len(world.vault.living()) == 2
    await world.run_until(asked + 20 * MINUTE - timedelta(seconds=1))
    assert len(world.vault.living()) == 2
    await world.run_until(asked + 20 * MINUTE)
    assert [made.issued for made in world.vault.living()] == [asked]
    assert len(world.records) == 1
    assert world.ready(key)[0] == "True"


@lease_test
async def test_a_replaced_lease_is_renewed_for_an_overlap_that_is_longer_than_it(world):
    world.apply(database(overlap="3h"))
    await world.settle()
    world.apply(database(overlap="3h"), annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    again = LeaseWorld(world)
    await again.run_until(T0 + 3 * HOUR - MINUTE)
    assert len(again.vault.living()) == 2
    await again.run_until(T0 + 3 * HOUR)
    assert len(again.vault.living()) == 1
    assert len(again.records) == 1


@lease_test
async def test_an_overlap_of_nothing_ends_the_old_ones_at_once(world):
    world.apply(database(overlap="0s"))
    await world.run_for(minutes=1)
    world.apply(database(overlap="0s"), annotations={"serviceidentity.dev/rotate": "1"})
    await world.settle()
    assert len(world.vault.living()) == len(world.records) == 1
    assert VAULT_REPLACED_ANNOTATION not in world.api.stored[DB].annotations


@lease_test
async def test_what_is_not_renewable_is_replaced_at_three_quarters(world):
    world.vault.renewable = False
    world.apply(database())
    await world.run_for(hours=5)
    ends = [made.ends for made in world.vault.made]
    assert all(later.issued < end - 14 * MINUTE for end, later in zip(ends, world.vault.made[1:], strict=False))
    assert len(world.vault.made) >= 6
    assert len(world.vault.living()) <= 2


@lease_test
async def test_a_token_that_can_not_be_renewed_ends_no_lease_unnoticed(world):
    world.vault.token_renewable = False  # it lives for five minutes, its lease for an hour
    world.apply(database(overlap="30s"))
    await world.settle()
    for _ in range(60):
        await world.run_for(seconds=40)
        current = json.loads(world.api.stored[DB].annotations[VAULT_LEASE_ANNOTATION])["id"]
        assert world.vault.find(current) is not None
    assert len(world.vault.living()) <= 2


@pytest.mark.parametrize("how", ["revoked", "token"])
@lease_test
async def test_what_is_revoked_behind_its_back_is_noticed_and_replaced(world, how):
    key = world.apply(database(refreshEvery="2m"))
    await world.run_for(minutes=5)
    (made,) = world.vault.living()
    if how == "revoked":
        made.revoked = True
    else:
        made.token.revoked = True
    await world.run_for(minutes=2)
    (other,) = world.vault.living()
    assert other is not made
    await world.run_for(seconds=40)
    assert len(world.records) == 1
    assert len(world.vault.lease_tokens()) == 1
    assert world.ready(key)[0] == "True"


@lease_test
async def test_what_was_revoked_while_nobody_ran_is_noticed_at_the_start(world):
    world.apply(database())
    await world.settle()
    world.vault.made[0].revoked = True
    again = LeaseWorld(world)
    await again.settle()
    assert len(again.vault.living()) == 1
    await again.run_for(seconds=40)
    assert len(again.records) == 1


@pytest.mark.parametrize("error", [RetryableError("500"), RejectedError("refused")], ids=["5xx", "4xx"])
@lease_test
async def test_a_renewal_that_fails_is_tried_again_and_says_so(world, error):
    key = world.apply(database())
    await world.run_for(minutes=40)
    before, stored = world.ready(key), world.api.stored[DB]
    world.vault.refuse["renew"] = error
    world.vault.calls.clear()
    await world.run_for(minutes=8)
    assert before == ("True", "Ready")
    assert world.ready(key)[0] == "False"
    assert world.api.stored[DB] == stored
    assert 3 <= world.vault.calls["renew"] <= 20
    assert world.lease(key)["expireTime"] == "2026-01-01T13:00:00Z"
    del world.vault.refuse["renew"]
    await world.run_for(minutes=2)
    assert world.ready(key) == ("True", "Ready")
    assert len(world.vault.made) == 1


@lease_test
async def test_what_can_not_be_renewed_in_time_is_replaced_before_it_ends(world):
    world.apply(database())
    await world.settle()
    world.vault.refuse["renew"] = RetryableError("the engine can't renew")
    await world.run_for(minutes=57)
    assert len(world.vault.made) == 2
    assert len(world.vault.living()) == 2


@lease_test
async def test_while_vault_is_away_a_living_lease_is_no_trouble_until_it_was_to_be_renewed(world):
    key = world.apply(database())
    await world.settle()
    world.vault.away = True
    world.api.writes.clear()
    await world.run_for(minutes=40)
    assert world.ready(key) == ("True", "Ready")
    assert world.api.writes == {}
    await world.run_for(minutes=6)
    assert world.ready(key) == ("False", "VaultUnavailable")
    assert world.api.writes == {"status": 1}
    again = LeaseWorld(world)
    await again.settle()
    assert world.api.writes == {"status": 1}
    await again.run_for(minutes=2)
    again.vault.away = False
    await again.run_for(minutes=2)
    assert again.ready(key) == ("True", "Ready")
    assert len(again.vault.made) == 1


@lease_test
async def test_after_an_outage_that_was_longer_than_the_lease_there_are_others(world):
    key = world.apply(database())
    await world.settle()
    world.vault.away = True
    await world.run_for(hours=3)
    assert world.ready(key) == ("False", "VaultUnavailable")
    world.vault.away = False
    await world.run_for(minutes=3)
    assert world.ready(key) == ("True", "Ready")
    assert len(world.vault.living()) == 1
    await world.run_for(minutes=3)
    assert len(world.records) == 1


@lease_test
async def test_a_secret_deleted_by_hand_is_put_back_as_it_was(world):
    world.apply(database())
    await world.settle()
    view = world.api.stored.pop(DB)
    world.engine.wake(world.engine.inventory.drop_secret(*DB, view.uid))
    await world.settle()
    assert world.api.stored[DB].data == view.data
    assert len(world.vault.made) == len(world.records) == 1


@lease_test
async def test_a_secret_deleted_while_nobody_ran_is_issued_anew_and_the_old_lease_revoked(world):
    world.apply(database())
    await world.settle()
    del world.api.stored[DB]
    again = LeaseWorld(world)
    await again.run_for(seconds=40)
    assert len(again.vault.made) == 2
    assert len(again.vault.living()) == len(again.records) == 1


@lease_test
async def test_deleting_the_identity_revokes_its_lease_at_once(world):
    key = world.apply(database())
    await world.settle()
    world.drop(key)
    await world.settle()
    assert not world.engine._identities._vault._leases._looked_after
    assert (world.vault.living(), world.vault.lease_tokens(), world.records) == ([], [], [])


@lease_test
async def test_deleting_it_while_nobody_runs_revokes_its_lease_at_the_next_start(world):
    key = world.apply(database())
    await world.settle()
    del world.api.objects[key]
    world.collect_garbage()
    again = LeaseWorld(world)
    await again.settle()
    assert (again.vault.living(), again.records) == ([], [])


@lease_test
async def test_deleting_it_with_vault_away_says_so_and_revokes_later(world):
    key = world.apply(database())
    await world.settle()
    world.vault.away = True
    world.api.events.clear()
    world.drop(key)
    await world.settle()
    assert [reason for reason, _ in world.api.events] == ["LeaseRevocationPending"]
    await world.run_for(minutes=20)
    assert len(world.records) == 1
    again = LeaseWorld(world)
    await again.run_for(minutes=5)
    assert [reason for reason, _ in again.api.events] == ["LeaseRevocationPending"]
    again.vault.away = False
    await again.run_for(minutes=5)
    assert [reason for reason, _ in again.api.events][1:] == ["LeaseRevoked"]
    assert (again.vault.living(), again.records) == ([], [])


@lease_test
async def test_with_the_connection_gone_for_good_the_record_goes_when_nothing_can_be_left(world, monkeypatch):
    monkeypatch.setattr(lease_collector, "LONGEST_LIFE", 3 * HOUR)
    key = world.apply(database())
    await world.settle()
    world.connections.gone = True
    world.api.events.clear()
    world.drop(key)
    again = LeaseWorld(world)
    await again.run_for(hours=2)
    assert len(again.records) == 1
    await again.run_for(minutes=66)
    assert again.records == []
    assert [reason for reason, _ in again.api.events] == ["LeaseRevocationPending", "LeaseLeftToExpire"]


@lease_test
async def test_with_vault_away_the_record_goes_at_the_end_that_is_known(world):
    key = world.apply(database())
    await world.settle()
    world.vault.away = True
    world.drop(key)
    await world.settle()
    again = LeaseWorld(world)
    await again.run_until(T0 + HOUR)
    assert len(again.records) == 1
    await again.run_until(T0 + HOUR + 7 * MINUTE)
    assert again.records == []


@lease_test
async def test_an_entry_that_is_no_longer_asked_for_is_revoked(world):
    world.apply(database() | {"hmac": {}})
    await world.settle()
    world.apply({"hmac": {}}, generation=2)
    await world.settle()
    assert (world.vault.living(), world.records) == ([], [])
    assert DB not in world.api.stored


@lease_test
async def test_another_secret_name_keeps_the_old_credentials_for_the_overlap(world):
    world.apply(database())
    await world.settle()
    world.apply(database(secretName="other"), generation=2)
    await world.settle()
    assert DB not in world.api.stored
    assert len(world.vault.living()) == 2
    await world.run_for(minutes=11)
    assert len(world.vault.living()) == len(world.records) == 1


@lease_test
async def test_another_role_gives_others_and_the_old_ones_live_for_the_overlap(world):
    world.apply(database())
    await world.settle()
    world.apply(database(database={"role": "readers"}), generation=2)
    await world.settle()
    assert [made.lease_id.rpartition("/")[0] for made in world.vault.living()] == [
        "database/creds/orders",
        "database/creds/readers",
    ]
    await world.run_for(minutes=11)
    assert len(world.vault.living()) == len(world.records) == 1


@lease_test
async def test_retained_credentials_run_out_and_the_record_goes_with_them(world):
    key = world.apply(database() | {"deletionPolicy": "Retain"})
    await world.run_for(minutes=50)
    world.drop(key)
    renewals = len(world.vault.made[0].renewals)
    await world.run_until(world.vault.made[0].ends - timedelta(seconds=1))
    assert len(world.vault.living()) == len(world.records) == 1
    await world.run_for(minutes=2)
    assert len(world.vault.made[0].renewals) == renewals
    assert (world.vault.living(), world.vault.lease_tokens(), world.records) == ([], [], [])
    assert DB in world.api.stored


@lease_test
async def test_retained_credentials_are_taken_over_by_a_namesake(world):
    key = world.apply(database() | {"deletionPolicy": "Retain"})
    await world.settle()
    world.drop(key)
    await world.run_for(minutes=5)
    world.apply(database(), uid="uid-2")
    await world.run_for(hours=2)
    assert len(world.vault.made) == len(world.vault.living()) == 1


@lease_test
async def test_leases_of_a_suspended_identity_are_renewed_and_nothing_is_issued(world):
    key = world.apply(database())
    await world.settle()
    world.apply(database() | {"suspend": True}, generation=2)
    await world.run_for(hours=3)
    assert world.ready(key) == ("True", "Suspended")
    (made,) = world.vault.living()
    made.revoked = True
    await world.run_for(minutes=10)
    assert world.ready(key) == ("False", "LeaseLost")
    assert len(world.vault.made) == 1


@lease_test
async def test_leases_of_what_is_no_longer_understood_are_renewed(world):
    world.apply(database())
    await world.settle()
    key = world.apply({"vault": {"secrets": [{"name": "db"}]}}, generation=2)
    await world.run_for(hours=3)
    assert world.ready(key) == ("False", "InvalidSpec")
    assert len(world.vault.living()) == 1


@lease_test
async def test_an_answer_without_lease_is_refused(world):
    world.vault.no_lease = True
    key = world.apply(database())
    await world.settle()
    assert world.ready(key) == ("False", "IssueFailed")
    assert (world.records, world.vault.lease_tokens()) == ([], [])


@pytest.mark.parametrize("refused", ["issue", "renew_token"])
@lease_test
async def test_what_was_not_issued_leaves_nothing_behind(world, refused):
    world.vault.refuse[refused] = ForbiddenError("403")
    key = world.apply(database())
    await world.settle()
    assert world.ready(key) == ("False", "IssueFailed")
    assert (world.records, world.vault.lease_tokens(), world.vault.living()) == ([], [], [])


@lease_test
async def test_a_token_is_not_revoked_while_a_read_may_be_under_way(world):
    world.vault.refuse["issue"] = UnansweredError("not in time")
    world.apply(database())
    await world.settle()
    assert len(world.vault.lease_tokens()) == len(world.records) == 1
    del world.vault.refuse["issue"]
    await world.run_for(minutes=5)
    assert len(world.vault.lease_tokens()) == len(world.records) == len(world.vault.living()) == 1


@lease_test
async def test_what_could_not_be_stored_is_revoked(world):
    key = world.apply(database(templates={"url": "{{ nothing }}"}))
    await world.settle()
    assert world.ready(key)[0] == "False"
    assert (world.records, world.vault.living()) == ([], [])


@lease_test
async def test_what_was_stored_though_the_answer_was_lost_is_not_revoked(world):
    create = world.api.create

    async def answer_lost(namespace, name, *rest):
        view = await create(namespace, name, *rest)
        if (namespace, name) == DB:
            world.api.create = create
            world.engine.wake(world.engine.inventory.put_secret(view))
            raise RetryableError("no answer")
        return view

    world.api.create = answer_lost
    key = world.apply(database())
    await world.settle()
    world.engine.wake([key])
    await world.run_for(minutes=5)
    assert world.ready(key) == ("True", "Ready")
    named = json.loads(world.api.stored[DB].annotations[VAULT_LEASE_ANNOTATION])
    assert [made.lease_id for made in world.vault.living()] == [named["id"]]
    assert len(world.vault.made) == 1


@lease_test
async def test_what_was_not_stored_though_nobody_can_tell_is_revoked_in_the_end(world):
    create = world.api.create

    async def no_answer(namespace, name, *rest):
        if (namespace, name) == DB:
            world.api.create = create
            raise RetryableError("no answer")
        return await create(namespace, name, *rest)

    world.api.create = no_answer
    key = world.apply(database())
    await world.settle()
    world.engine.wake([key])
    await world.run_for(minutes=5)
    assert world.ready(key) == ("True", "Ready")
    assert (len(world.vault.made), len(world.vault.living()), len(world.records)) == (2, 1, 1)


@lease_test
async def test_without_a_record_nothing_is_read(world):
    world.api.failures.append(RejectedError("quota"))
    key = world.apply(database())
    await world.settle()
    assert world.ready(key) == ("False", "Rejected")
    assert world.vault.calls["issue"] == 0
    assert world.vault.lease_tokens() == []


@lease_test
async def test_the_shared_login_is_never_revoked(world):
    world.vault.shared = True
    key = world.apply(database())
    await world.run_for(hours=5)
    assert len(world.vault.living()) == len(world.records) == 1
    (record,) = (world.api.stored["system", name] for name in world.records)
    assert set(record.data) == {"lease_id"}
    again = LeaseWorld(world)
    await again.run_for(hours=5)
    assert len(again.vault.made) == 1
    again.drop(key)
    await again.settle()
    assert (again.vault.living(), again.records) == ([], [])
    assert again.vault.lives(again.vault.login_token)


@lease_test
async def test_a_shared_login_that_ends_has_its_leases_replaced_before(world):
    world.vault.shared = True
    world.vault.login_token.ends, world.vault.login_token.renewable = T0 + 30 * MINUTE, False
    world.apply(database(overlap="1s"))
    await world.run_for(minutes=24)
    assert len(world.vault.made) >= 2


@lease_test
async def test_a_secret_can_not_get_at_the_lease_of_another_identity(world):
    world.apply(database())
    await world.settle()
    other = world.apply(database(), name="thief", uid="uid-9")
    await world.settle()
    stolen = json.loads(world.api.stored[DB].annotations[VAULT_LEASE_ANNOTATION])
    at = ("shop", "thief-db")
    view = world.api.stored[at]
    view.annotations[VAULT_LEASE_ANNOTATION] = json.dumps(stolen)
    again = LeaseWorld(world)
    await again.run_for(seconds=40)
    assert json.loads(again.api.stored[at].annotations[VAULT_LEASE_ANNOTATION])["record"] != stolen["record"]
    assert len(again.vault.living()) == len(again.records) == 2
    assert again.ready(other)[0] == "True"


@lease_test
async def test_a_lease_of_seconds_is_kept(world):
    world.vault.ttl = timedelta(seconds=4)
    key = world.apply(database(refreshEvery="5s"))
    await world.run_for(minutes=3)
    assert len(world.vault.made) == 1
    assert world.ready(key)[0] == "True"


@lease_test
async def test_what_another_instance_has_stored_is_not_revoked(world):
    """Its Secret is there, and the watch has not told of it yet."""
    world.apply(database())
    await world.settle()
    other = LeaseWorld(world)
    other.engine.inventory.drop_secret(*DB)
    key = vault_lease_key(world.records[0])
    await other.engine._leases.reconcile(key)
    other.now += strays.GRACE
    await other.engine._leases.reconcile(key)
    assert len(world.vault.living()) == len(world.records) == 1
    assert DB in other.engine.inventory.secrets


@lease_test
async def test_a_login_whose_children_may_not_read_logs_in_once_more(world):
    world.vault.entity_rights = True
    key = world.apply(database())
    await world.settle()
    assert world.ready(key)[0] == "True"
    assert len(world.vault.lease_tokens()) == len(world.records) == 1
    world.vault.calls.clear()
    world.apply(database(), name="second", uid="uid-2")
    await world.settle()
    assert world.vault.calls["issue"] == 1  # it is known by now


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (VAULT_LEASE_ANNOTATION, BOND % ("9999-12-31T23:59:59Z", "1h")),
        (VAULT_LEASE_ANNOTATION, BOND % ("2026-01-01T12:00:00Z", "876000h")),
        (VAULT_LEASE_ANNOTATION, "[[" * 4000),
        (VAULT_REPLACED_ANNOTATION, '[{"record":"RECORD","id":"x","until":"9999-12-31T23:59:59Z"}]'),
        (VAULT_REPLACED_ANNOTATION, '{"record":1}'),
    ],
)
@lease_test
async def test_whatever_somebody_writes_on_its_secret_there_is_a_lease_and_nothing_fails(world, annotation, text):
    key = world.apply(database())
    await world.settle()
    stored = world.api.stored[DB]
    notes = dict(stored.annotations) | {annotation: text.replace("RECORD", world.records[0])}
    if annotation == VAULT_REPLACED_ANNOTATION:
        del notes[VAULT_LEASE_ANNOTATION]
    world.api.version += 1
    world.api.stored[DB] = replace(stored, annotations=notes, resource_version=world.api.version)
    again = LeaseWorld(world)
    await again.run_for(minutes=20)
    assert not again.engine.counters.failing
    assert again.ready(key) == ("True", "Ready")
    assert len(again.vault.living()) >= 1
