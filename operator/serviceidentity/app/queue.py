"""The level-triggered queue: which objects want a look now, and when each wants the next one.

A key is worked on by one worker at a time; waking it meanwhile makes it run once more afterwards. There is one heap of
deadlines for everything. Deadlines are wall-clock instants and the heap is looked at every few seconds at least, so
that a machine that slept, or whose clock jumped, is not late by what it missed.
"""

import asyncio
import heapq
from collections import deque
from datetime import datetime, timedelta

from serviceidentity.app.ports import Clock
from serviceidentity.domain.model import Key

LOOK_AT_CLOCK_EVERY = timedelta(seconds=5)
LATER_AT_MOST = timedelta(seconds=1)


class WorkQueue:
    """Keys that are ready, and keys with a deadline. Used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._later: dict[Key, datetime] = {}
        self._deadlines: dict[Key, datetime] = {}
        self._heap: list[tuple[datetime, Key]] = []
        self._looked = clock()
        self._work = asyncio.Event()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many keys are ready, wait for the others or are being worked on."""
        return len(self._ready) + len(self._later) + len(self._running)

    def wake(self, key: Key) -> None:
        """Make the key run as soon as a worker is free, once, however often it is woken before."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._later.pop(key, None)
            self._queued.add(key)
            self._ready.append(key)
            self._work.set()

    def wake_later(self, key: Key) -> None:
        """Make the key run once when the others have run, or after about a second.

        For a key that thousands of others wake one by one, and that looks at all of them in each pass.
        """
        if key not in self._queued and key not in self._later:
            self._later[key] = self._clock()
            self._changed.set()
            self._let_later_run()

    def schedule(self, key: Key, at: datetime | None) -> None:
        """Replace the key's deadline; None removes it."""
        if at is None:
            self._deadlines.pop(key, None)
        elif self._deadlines.get(key) != at:
            self._deadlines[key] = at
            heapq.heappush(self._heap, (at, key))
            if self._heap[0] == (at, key):
                self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop the key's deadline; its object is gone."""
        self._deadlines.pop(key, None)

    def next_deadline(self) -> datetime | None:
        """Return the first deadline, for metrics and probes."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    async def get(self) -> Key:
        """Wait for a key; `done` must follow."""
        while not self._ready:
            self._work.clear()
            await self._work.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._running.add(key)
        return key

    def done(self, key: Key) -> None:
        """Say that the work on the key has ended."""
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.wake(key)
        self._let_later_run()

    def _let_later_run(self) -> None:
        if not self._ready and not self._running:
            for key in list(self._later):
                self.wake(key)

    async def watch_deadlines(self) -> None:
        """Wake keys as their deadlines pass; runs until cancelled."""
        while True:
            self.wake_due()
            self._changed.clear()
            pause = LOOK_AT_CLOCK_EVERY
            if self._later:
                pause = min(pause, LATER_AT_MOST)
            if self._heap:
                pause = min(pause, max(self._heap[0][0] - self._clock(), timedelta(0)))
            # The clock counts whole seconds, so waiting until the second has come is a matter of milliseconds.
            try:
                async with asyncio.timeout(max(pause.total_seconds(), 0.02)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def wake_due(self) -> None:
        """Wake every key whose deadline is not later than now; all of them when the clock was put back.

        What was to happen seconds later would be as far away as the clock was ahead.
        """
        now = self._clock()
        put_back, self._looked = now < self._looked - LOOK_AT_CLOCK_EVERY, now
        if put_back:
            for key in list(self._deadlines):
                self.wake(key)
        for key in [key for key, since in self._later.items() if not since <= now < since + LATER_AT_MOST]:
            self._later.pop(key)
            self.wake(key)
        self._drop_stale()
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            self._deadlines.pop(key, None)
            self.wake(key)
            self._drop_stale()

    def _drop_stale(self) -> None:
        """A replaced deadline stays in the heap until it comes up; only the last one counts."""
        while self._heap and self._deadlines.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
