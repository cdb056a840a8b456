import asyncio
from datetime import timedelta

from serviceidentity.app import leadership
from serviceidentity.app.leadership import LeaseLeadership, LeaseRecord
from serviceidentity.app.queue import WorkQueue
from serviceidentity.domain.model import identity_key
from serviceidentity.errors import ConflictError, RetryableError
from tests.unit.domain.builders import DAY, HOUR, T0

A, B, C = (identity_key("shop", name) for name in "abc")


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self):
        return self.now


def test_a_key_woken_often_runs_once():
    async def test():
        queue = WorkQueue(Clock())
        for _ in range(3):
            queue.wake(A)
        assert await queue.get() == A
        assert len(queue) == 1
        queue.done(A)
        assert len(queue) == 0

    asyncio.run(test())


def test_a_key_woken_while_it_runs_runs_once_more():
    async def test():
        queue = WorkQueue(Clock())
        queue.wake(A)
        await queue.get()
        queue.wake(A)
        queue.wake(A)
        queue.done(A)
        assert await queue.get() == A
        queue.done(A)
        assert len(queue) == 0

    asyncio.run(test())


def test_who_can_wait_runs_once_when_the_others_have_run():
    async def test():
        queue = WorkQueue(Clock())
        queue.wake(B)
        queue.wake(C)
        for _ in range(2):
            other = await queue.get()
            queue.wake_later(A)
            assert len(queue) == 3 - (other == C), "what waits counts as work"
            queue.done(other)
        assert await queue.get() == A
        queue.wake_later(A)
        queue.done(A)
        assert await queue.get() == A, "what was new while it ran is looked at as well"
        queue.done(A)
        assert len(queue) == 0

    asyncio.run(test())


def test_who_can_wait_does_so_for_a_second_at_most():
    async def test():
        clock = Clock()
        queue = WorkQueue(clock)
        queue.wake(B)
        await queue.get()
        queue.wake_later(A)
        queue.wake_due()
        clock.now += timedelta(seconds=1)
        queue.wake_due()
        assert await queue.get() == A

    asyncio.run(test())


def test_everyone_looks_again_when_the_clock_was_put_back():
    clock = Clock()
    clock.now = T0 + DAY
    queue = WorkQueue(clock)
    queue.schedule(A, T0 + DAY + HOUR)
    queue.schedule(B, T0 + 2 * DAY)
    clock.now -= timedelta(seconds=2)
    queue.wake_due()
    assert len(queue) == 0, "a second or two is the ordinary work of time servers"
    clock.now = T0
    queue.wake_due()
    assert len(queue) == 2
    queue.wake_due()
    assert queue.next_deadline() == T0 + DAY + HOUR


def test_only_the_last_deadline_counts():
    clock = Clock()
    queue = WorkQueue(clock)
    queue.schedule(A, T0 + HOUR)
    queue.schedule(A, T0 + DAY)
    queue.schedule(B, T0 + 2 * HOUR)
    queue.schedule(B, None)
    clock.now = T0 + 3 * HOUR
    queue.wake_due()
    assert len(queue) == 0
    assert queue.next_deadline() == T0 + DAY
    clock.now = T0 + 30 * DAY
    queue.wake_due()
    assert len(queue) == 1


def test_a_clock_that_jumps_is_noticed_without_waiting_for_the_old_pause():
    async def test():
        clock = Clock()
        queue = WorkQueue(clock)
        queue.schedule(A, T0 + DAY)
        watcher = asyncio.create_task(queue.watch_deadlines())
        await asyncio.sleep(0.01)
        clock.now = T0 + 2 * DAY
        queue.schedule(B, T0 + HOUR)  # anything that makes it look; at the latest it looks after five seconds
        async with asyncio.timeout(1):
            assert {await queue.get(), await queue.get()} == {A, B}
        watcher.cancel()

    asyncio.run(test())


class FakeLease:
    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.version = 0
        self.down = False

    async def read(self):
        if self.down:
            raise RetryableError("down")
        return self.record

    async def write(self, holder, seen, duration):
        if self.down:
            raise RetryableError("down")
        if (seen.version if seen else None) != (self.record.version if self.record else None):
            raise ConflictError("changed")
        self.version += 1
        self.record = LeaseRecord(holder, str(self.version), 0, duration)
        return self.record


def quick(monkeypatch):
    monkeypatch.setattr(leadership, "RENEW_EVERY", 0.02)
    monkeypatch.setattr(leadership, "DURATION", 0.2)
    monkeypatch.setattr(leadership, "GIVE_UP_AFTER", 0.1)


def test_one_leads_and_the_other_follows_when_it_lets_go(monkeypatch):
    quick(monkeypatch)

    async def test():
        lease = FakeLease()
        first, second = LeaseLeadership(lease, "first"), LeaseLeadership(lease, "second")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.4)
        assert not waiting.done(), "a Lease that is renewed is not taken"
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await first.release()
        async with asyncio.timeout(1):
            await waiting
        assert lease.record.holder == "second"

    asyncio.run(test())


def test_a_lease_that_is_not_renewed_is_taken_over(monkeypatch):
    quick(monkeypatch)

    async def test():
        lease = FakeLease()
        await LeaseLeadership(lease, "dead").acquire()
        async with asyncio.timeout(2):
            await LeaseLeadership(lease, "alive").acquire()
        assert lease.record.holder == "alive"

    asyncio.run(test())


def test_a_leader_that_can_not_renew_stops_before_another_could_start(monkeypatch):
    quick(monkeypatch)

    async def test():
        lease = FakeLease()
        leader = LeaseLeadership(lease, "first")
        await leader.acquire()
        lease.down = True
        async with asyncio.timeout(1):
            await leader.hold()

    asyncio.run(test())


def test_a_leader_that_was_replaced_stops_at_once(monkeypatch):
    quick(monkeypatch)

    async def test():
        lease = FakeLease()
        leader = LeaseLeadership(lease, "first")
        await leader.acquire()
        lease.record = LeaseRecord("second", "99", 1, timedelta(seconds=15).total_seconds())
        async with asyncio.timeout(1):
            await leader.hold()

    asyncio.run(test())
