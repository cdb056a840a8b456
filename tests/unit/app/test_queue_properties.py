"""The work queue against a model of it: nothing is lost, nothing runs twice at once, the last deadline counts."""

import asyncio
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serviceidentity.app.queue import LOOK_AT_CLOCK_EVERY, WorkQueue
from serviceidentity.domain.model import identity_key
from tests.unit.app.virtual_time import run
from tests.unit.domain.builders import DAY, HOUR, T0

KEYS = [identity_key("shop", name) for name in "abc"]
keys = st.sampled_from(KEYS)


class QueueAgainstModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = T0
        self.queue = WorkQueue(lambda: self.now)
        self.owed, self.running, self.deadlines = set(), set(), {}

    @rule(key=keys)
    def wake(self, key):
        self.queue.wake(key)
        self.owed.add(key)

    @rule(key=keys, minutes=st.none() | st.integers(-60, 600))
    def schedule(self, key, minutes):
        at = None if minutes is None else self.now + timedelta(minutes=minutes)
        self.queue.schedule(key, at)
        self.deadlines.pop(key, None)
        if at is not None:
            self.deadlines[key] = at

    @rule(key=keys)
    def forget(self, key):
        self.queue.forget(key)
        self.deadlines.pop(key, None)

    @rule(minutes=st.integers(-600, 600))
    def the_clock_moves(self, minutes):
        self.now += timedelta(minutes=minutes)
        if minutes < 0:
            self.owed |= self.deadlines.keys()  # everyone looks again, and keeps the deadline
        self.queue.wake_due()
        due = {key for key, at in self.deadlines.items() if at <= self.now}
        self.owed |= due
        for key in due:
            del self.deadlines[key]

    @precondition(lambda self: self.owed - self.running)
    @rule()
    def get(self):
        key = asyncio.run(self.queue.get())
        assert key not in self.running, "one worker at a time"
        assert key in self.owed
        self.owed.discard(key)
        self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data):
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(key)
        self.queue.done(key)

    @invariant()
    def counts_and_deadlines_agree(self):
        assert len(self.queue) == len(self.owed - self.running) + len(self.running)
        assert self.queue.next_deadline() == min(self.deadlines.values(), default=None)


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_clock_that_jumps_is_noticed_within_seconds_without_anything_else_happening():
    async def scenario():
        loop, jump = asyncio.get_running_loop(), [timedelta(0)]
        queue = WorkQueue(lambda: T0 + timedelta(seconds=int(loop.time())) + jump[0])
        queue.schedule(KEYS[0], T0 + 30 * DAY)
        watcher = asyncio.create_task(queue.watch_deadlines())
        await asyncio.sleep(HOUR.total_seconds())
        assert len(queue) == 0
        jump[0], jumped = 40 * DAY, loop.time()
        assert await queue.get() == KEYS[0]
        assert loop.time() - jumped <= LOOK_AT_CLOCK_EVERY.total_seconds()
        watcher.cancel()

    run(scenario())


def test_each_key_runs_within_a_second_of_its_deadline():
    async def scenario():
        loop = asyncio.get_running_loop()
        queue = WorkQueue(lambda: T0 + timedelta(seconds=int(loop.time())))
        for number, key in enumerate(KEYS):
            queue.schedule(key, T0 + timedelta(seconds=1 + 17 * number))
        watcher = asyncio.create_task(queue.watch_deadlines())
        for number, key in enumerate(KEYS):
            assert await queue.get() == key
            assert 0 <= loop.time() - (1 + 17 * number) < 1
            queue.done(key)
        watcher.cancel()

    run(scenario())
