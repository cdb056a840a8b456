"""Targets of an identity through the whole engine: what is read, what is written, and what is told."""

import json
from datetime import timedelta

import pytest

from serviceidentity.domain.model import Target, WorkloadKind
from serviceidentity.domain.rollout import CONDITION, annotation_of
from serviceidentity.errors import ConflictError, ForbiddenError, RejectedError, RetryableError
from tests.unit.app.fake_workloads import PLACE, FakeWorkload
from tests.unit.app.scenarios import TLS, edit, passes_when_left_alone, restarted, scenario, tell

ROLLOUT = {"targets": [{"kind": "Deployment", "name": "order-service"}]}
SPEC = {"certificate": {}, "rollout": ROLLOUT}
BOTH = {**SPEC, "hmac": {"publishBefore": "5s"}}
SETTLE, INTERVAL = timedelta(seconds=10), timedelta(minutes=10)
ROTATE = "serviceidentity.dev/rotate"


def condition(world, key):
    found = [one for one in world.status(key)["conditions"] if one["type"] == CONDITION]
    return (found[0]["status"], found[0]["reason"]) if found else None


def entry(world, key, index=0):
    return world.status(key)["rollout"][index]


async def issued(world, spec=SPEC, **meta):
    """An identity with a target, at rest."""
    workload = world.api.workloads.stored[PLACE] = FakeWorkload()
    key = world.apply(spec, **meta)
    await world.settle()
    await world.settle()
    return key, workload


async def rotate(world, request="1", spec=SPEC):
    world.apply(spec, annotations={ROTATE: request})
    await world.settle()
    world.echo()
    await world.settle()


@scenario
async def test_an_identity_without_targets_costs_what_it_did(world):
    key = world.apply({"certificate": {}, "hmac": {}})
    await world.settle()
    assert world.api.writes == {"create": 2, "status": 1}
    assert world.api.workloads.calls == {}
    assert condition(world, key) is None
    assert "rollout" not in world.status(key)


@scenario
async def test_first_content_restarts_nothing(world):
    key, workload = await issued(world, BOTH)
    assert world.api.writes == {"create": 2, "status": 1}
    assert world.api.workloads.calls == {"read": 1}, "a name that is wrong is found out at once"
    assert condition(world, key) == ("True", "UpToDate")
    await world.settle(timedelta(hours=1))
    assert workload.generation == 1


@scenario
async def test_new_content_restarts_the_target_once_after_it_has_settled(world):
    key, workload = await issued(world)
    await rotate(world)
    assert condition(world, key) == ("True", "RestartPending")
    assert world.status(key)["nextActionTime"] == entry(world, key)["restartTime"] == "2026-01-01T12:00:10Z"
    assert workload.generation == 1
    world.api.writes.clear()
    world.api.workloads.calls.clear()
    await world.settle(SETTLE)
    assert workload.generation == 2
    assert world.api.workloads.calls == {"read": 1, "annotate": 1}
    assert world.api.writes == {"status": 1}
    assert json.loads(workload.annotations[annotation_of("order-service")])["for"] == entry(world, key)["contentIDs"]
    await world.settle(timedelta(hours=1))
    assert workload.generation == 2
    restarted_events = [message for reason, message in world.api.events if reason == "Restarted"]
    assert restarted_events == ["Deployment order-service restarted: new content in order-service-tls"]


@scenario
async def test_a_rotation_of_both_credentials_is_one_restart(world):
    key, workload = await issued(world, BOTH)
    await rotate(world, spec=BOTH)
    for _ in range(40):
        await world.settle(timedelta(seconds=1))
    assert workload.generation == 2
    assert {one["state"] for one in world.status(key)["hmac"]["keys"]} == {"Active", "Retiring"}
    named = json.loads(workload.annotations[annotation_of("order-service")])["for"]
    assert set(named) == {"order-service-tls", "order-service-hmac"}


@scenario
async def test_a_second_change_waits_for_the_interval(world):
    key, workload = await issued(world)
    await rotate(world, "1")
    await world.settle(SETTLE)
    await rotate(world, "2")
    await world.settle(SETTLE)
    assert workload.generation == 2
    assert entry(world, key)["restartTime"] == "2026-01-01T12:10:10Z"
    await world.settle(INTERVAL)
    assert workload.generation == 3


@pytest.mark.parametrize("lost", [False, True], ids=["", "status lost"])
@scenario
async def test_a_restarted_operator_restarts_nothing_and_forgets_nothing(world, lost):
    key, workload = await issued(world)
    await rotate(world)
    world = await restarted(world)
    await world.settle(SETTLE)
    assert workload.generation == 2
    if lost:
        world.api.objects[key].pop("status")
    world.api.writes.clear()
    for _ in range(3):
        world = await restarted(world)
        await world.settle(timedelta(minutes=20))
    assert workload.generation == 2
    assert world.api.writes == ({"status": 1} if lost else {})


@scenario
async def test_killed_between_secret_and_restart_it_is_made_up_for(world):
    key, workload = await issued(world)
    status = json.loads(json.dumps(world.api.objects[key]["status"]))
    await rotate(world)
    world.api.objects[key]["status"] = status
    world = await restarted(world)
    await world.settle(SETTLE)
    assert workload.generation == 2


@scenario
async def test_killed_between_restart_and_status_it_is_not_done_again(world):
    key, workload = await issued(world)
    await rotate(world)
    status = json.loads(json.dumps(world.api.objects[key]["status"]))
    await world.settle(SETTLE)
    world.api.objects[key]["status"] = status
    world = await restarted(world)
    await world.settle(timedelta(hours=1))
    assert workload.generation == 2
    assert condition(world, key) == ("True", "UpToDate")


@pytest.mark.parametrize("how", ["deleted", "edited", "relabelled"])
@scenario
async def test_a_secret_that_is_put_back_restarts_nothing(world, how):
    key, workload = await issued(world)
    if how == "deleted":
        view = world.api.stored.pop(TLS)
        world.engine.wake(world.engine.inventory.drop_secret(*TLS, view.uid))
    elif how == "edited":
        tell(world, edit(world, TLS, {"tls.crt": "anVuaw=="}))
    else:
        tell(world, edit(world, TLS, labels={}))
    await world.settle()
    await world.settle(timedelta(hours=1))
    assert TLS in world.api.stored
    assert workload.generation == 1
    assert condition(world, key) == ("True", "UpToDate")


@scenario
async def test_a_changed_rollout_restarts_nothing(world):
    _, workload = await issued(world, BOTH)
    other = world.api.workloads.stored["shop", Target(WorkloadKind.DAEMON_SET, "agent")] = FakeWorkload()
    targets = [*ROLLOUT["targets"], {"kind": "DaemonSet", "name": "agent"}]
    for generation, block in enumerate([{"targets": targets}, {"targets": targets, "credentials": ["HMAC"]}, None], 2):
        world.apply({**BOTH, "rollout": block}, generation=generation)
        await world.settle()
        await world.settle(timedelta(minutes=30))
    assert (workload.generation, other.generation) == (1, 1)


@scenario
async def test_a_status_without_targets_has_no_trace_of_them(world):
    key, _ = await issued(world)
    world.apply({"certificate": {}}, generation=2)
    await world.settle()
    assert "rollout" not in world.status(key)
    assert condition(world, key) is None


@scenario
async def test_an_annotation_that_is_taken_off_again_and_again_is_no_loop(world):
    key, workload = await issued(world)
    await rotate(world)
    await world.settle(SETTLE)
    for _ in range(5):
        workload.change({})
        await world.settle(timedelta(minutes=20))
        world = await restarted(world)
    assert workload.generation == 3, "ours, and theirs"
    assert condition(world, key) == ("True", "UpToDate")


@scenario
async def test_a_missing_target_is_a_condition_and_no_more(world):
    key = world.apply(SPEC)
    await world.settle()
    assert condition(world, key) == ("False", "TargetNotFound")
    assert world.ready(key) == ("True", "Ready")
    assert world.api.writes == {"create": 1, "status": 1}
    assert await passes_when_left_alone(world) == 0
    for _ in range(60):
        await world.settle(timedelta(minutes=1))
    assert world.api.writes == {"create": 1, "status": 1}
    assert 5 < world.api.workloads.calls["read"] < 20, "looked for, rarer and rarer"
    workload = world.api.workloads.stored[PLACE] = FakeWorkload()
    await world.settle(timedelta(minutes=10))
    assert condition(world, key) == ("True", "UpToDate")
    assert workload.generation == 1


@scenario
async def test_without_the_right_it_says_so_and_makes_up_for_it_later(world):
    world.api.workloads.failures["read"] = ForbiddenError("no")
    key, workload = await issued(world)
    assert condition(world, key) == ("False", "TargetForbidden")
    assert world.ready(key) == ("True", "Ready")
    await rotate(world)
    for _ in range(60):
        await world.settle(timedelta(minutes=1))
    assert 5 < world.api.workloads.calls["read"] < 20
    del world.api.workloads.failures["read"]
    await world.settle(timedelta(minutes=10))
    assert workload.generation == 2
    assert condition(world, key) == ("True", "UpToDate")


@scenario
async def test_a_refused_restart_is_told_once_and_tried_again(world):
    world.api.workloads.failures["annotate"] = RejectedError("no")
    key, workload = await issued(world)
    await rotate(world)
    for _ in range(30):
        await world.settle(timedelta(minutes=1))
    assert condition(world, key) == ("False", "RestartRejected")
    assert [reason for reason, _ in world.api.events].count("RestartRejected") == 1
    assert 2 < world.api.workloads.calls["annotate"] < 15
    world.api.workloads.failures.clear()
    await world.settle(timedelta(minutes=10))
    assert workload.generation == 2


@pytest.mark.parametrize("error", [ConflictError("changed"), RetryableError("away")])
@pytest.mark.parametrize("call", ["read", "annotate"])
@scenario
async def test_what_fails_in_passing_is_tried_again_at_once(world, call, error):
    key, workload = await issued(world)
    await rotate(world)
    world.api.workloads.failures[call] = error
    await world.settle(SETTLE)
    assert workload.generation == 1
    assert key in world.engine.counters.failing
    world.api.workloads.failures.clear()
    world.engine.wake([key])
    await world.settle()
    assert workload.generation == 2


@scenario
async def test_credentials_do_not_wait_for_targets_that_cant_be_read(world):
    world.api.workloads.failures["read"] = RetryableError("away")
    key, _ = await issued(world)
    assert world.ready(key) == ("True", "Ready")


@scenario
async def test_a_paused_target_restarts_when_it_is_resumed(world):
    _, workload = await issued(world)
    workload.paused = True
    await rotate(world)
    await world.settle(SETTLE)
    assert annotation_of("order-service") in workload.annotations
    assert any("is paused and restarts when it is resumed" in message for _, message in world.api.events)


@scenario
async def test_a_suspended_identity_restarts_nothing_and_goes_on_when_it_is_resumed(world):
    key, workload = await issued(world)
    await rotate(world)
    before = entry(world, key)
    for generation, suspend in ((2, True), (3, False)):
        world.apply({**SPEC, "suspend": suspend}, annotations={ROTATE: "1"}, generation=generation)
        await world.settle()
        if suspend:
            await world.settle(timedelta(minutes=20))
            assert condition(world, key) == ("True", "Suspended")
            assert entry(world, key)["pendingSince"] == before["pendingSince"]
            assert workload.generation == 1
    assert workload.generation == 2


@scenario
async def test_a_target_of_two_identities_has_a_record_of_each(world):
    _, workload = await issued(world)
    await issued_again(world)
    other = world.apply(SPEC, name="other", uid="uid-2", annotations={ROTATE: "1"})
    await rotate(world)
    await world.settle(SETTLE)
    assert workload.generation == 2, "one of them first; the other collides with it and looks again"
    world.engine.wake([other])
    await world.settle()
    assert entry(world, other)["restartTime"] == "2026-01-01T12:10:10Z"
    await world.settle(INTERVAL)
    assert workload.generation == 3
    assert set(workload.annotations) == {annotation_of("order-service"), annotation_of("other")}
    assert condition(world, other) == ("True", "UpToDate")


async def issued_again(world):
    world.apply(SPEC, name="other", uid="uid-2")
    await world.settle()


@scenario
async def test_a_deleted_identity_touches_nothing(world):
    key, workload = await issued(world)
    await rotate(world)
    world.engine.wake(world.engine.inventory.drop_identity(key.namespace, key.name))
    del world.api.objects[key]
    await world.settle(timedelta(minutes=20))
    assert workload.generation == 1


@scenario
async def test_two_operators_restart_a_target_once(world):
    _, workload = await issued(world)
    other = type(world)(world.api)
    await other.settle()
    await rotate(world)
    other.echo()
    world.now += SETTLE
    other.now = world.now
    for one in (world, other):
        one.engine.queue.wake_due()
        one.engine.wake(one.engine.inventory.identities)
        one.engine.start()
    await passes_when_left_alone(world, 0.05)
    for one in (world, other):
        await one.settle()
        await one.settle(timedelta(hours=1))
    assert workload.generation == 2
