"""Two operators and one Lease, with the real durations: at no time do both think that they lead."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.app.leadership import DURATION, GIVE_UP_AFTER, LeaseLeadership, LeaseRecord
from serviceidentity.errors import ConflictError, MissingError, RejectedError, RetryableError
from tests.unit.app.virtual_time import run


class Lease:
    """A store that enforces versions; `trouble` is how long each of the first operator's calls takes to fail."""

    def __init__(self) -> None:
        self.record = None
        self.version = 0
        self.trouble = iter(())
        self.log = []

    async def _reach(self, caller):
        delay = next(self.trouble, None) if caller == "first" else None
        if delay is not None:
            await asyncio.sleep(delay)
            raise RetryableError("no answer")

    async def read(self, caller=""):
        await self._reach(caller)
        return self.record

    async def write(self, holder, seen, duration, caller=""):
        await self._reach(caller or holder)
        if (seen.version if seen else None) != (self.record.version if self.record else None):
            raise ConflictError("someone was faster")
        self.version += 1
        self.record = LeaseRecord(holder, str(self.version), 0, duration)
        self.log.append((asyncio.get_running_loop().time(), holder))
        return self.record


def operator(lease, name):
    return LeaseLeadership(lease, name, asyncio.get_running_loop().time)


async def terms(delays):
    """When the first operator stopped leading, and when the second began, after the last renewal."""
    lease, loop = Lease(), asyncio.get_running_loop()
    first, second = operator(lease, "first"), operator(lease, "second")
    await first.acquire()
    began = loop.time()
    lease.trouble = iter([*delays, *[0.0] * 50])
    holding, waiting = asyncio.create_task(first.hold()), asyncio.create_task(second.acquire())
    ended = {}
    for name, task in (("stopped", holding), ("started", waiting)):
        task.add_done_callback(lambda _, name=name: ended.setdefault(name, loop.time() - began))
    await asyncio.gather(holding, waiting)
    return ended["stopped"], ended["started"]


@pytest.mark.parametrize("delays", [[], [2.9] * 9, [2.0] * 9, [1.0] * 9, [2.0, 2.0, 2.9], [2.5, 1.5, 2.9]], ids=str)
def test_a_leader_that_gets_no_answers_stops_before_another_begins(delays):
    stopped, started = run(terms(delays))
    assert stopped < DURATION < started


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 2.99), max_size=6))
def test_however_slowly_a_leaders_attempts_fail_it_stops_before_another_begins(delays):
    stopped, started = run(terms(delays))
    assert GIVE_UP_AFTER <= stopped < started


def test_a_leader_that_renews_is_never_followed():
    async def scenario():
        lease = Lease()
        first, second = operator(lease, "first"), operator(lease, "second")
        await first.acquire()
        tasks = [asyncio.create_task(first.hold()), asyncio.create_task(second.acquire())]
        await asyncio.sleep(24 * 3600)
        assert {holder for _, holder in lease.log} == {"first"}
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(scenario())


def test_a_short_outage_is_survived():
    async def scenario():
        lease = Lease()
        leader = operator(lease, "first")
        await leader.acquire()
        lease.trouble = iter([0.1, 0.1])
        holding = asyncio.create_task(leader.hold())
        await asyncio.sleep(600)
        assert not holding.done()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    run(scenario())


def test_ten_operators_and_one_lease_have_one_leader_each_time():
    async def scenario():
        lease = Lease()
        waiting = {asyncio.create_task(operator(lease, f"operator-{n}").acquire()) for n in range(10)}
        for led in range(1, 11):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1, "the next begins when nobody renewed"
            assert len({holder for _, holder in lease.log}) == led
        times = [at for at, _ in lease.log]
        assert all(later - earlier > DURATION for earlier, later in zip(times, times[1:], strict=False))

    run(scenario())


def test_an_operator_that_lets_go_is_followed_within_seconds():
    async def scenario():
        lease, loop = Lease(), asyncio.get_running_loop()
        first = operator(lease, "first")
        await first.acquire()
        waiting = asyncio.create_task(operator(lease, "second").acquire())
        await asyncio.sleep(5)
        await first.release()
        released = loop.time()
        await waiting
        assert loop.time() - released < 3

    run(scenario())


def test_who_does_not_hold_the_lease_does_not_release_it():
    async def scenario():
        lease = Lease()
        await operator(lease, "first").acquire()
        await operator(lease, "second").release()
        assert lease.record.holder == "first"

    run(scenario())


def test_an_operator_that_comes_back_under_its_name_leads_at_once():
    async def scenario():
        lease, loop = Lease(), asyncio.get_running_loop()
        await operator(lease, "first").acquire()
        again = loop.time()
        await operator(lease, "first").acquire()
        assert loop.time() == again

    run(scenario())


@pytest.mark.parametrize("error", [RetryableError("down"), RejectedError("forbidden"), MissingError("no namespace")])
def test_whatever_the_server_says_an_operator_goes_on_asking(error):
    async def scenario():
        lease = Lease()
        answers = iter([error] * 20)
        read = lease.read

        async def failing():
            for answer in answers:
                raise answer
            return await read()

        lease.read = failing
        await operator(lease, "first").acquire()
        assert lease.record.holder == "first"

    run(scenario())
