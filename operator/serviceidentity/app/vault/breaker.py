"""How much is asked of one server at once, and that nothing is asked of it while it is away.

A request that fails in passing says little: a database behind Vault may be down, or Vault itself. So the server is
asked for its health, once for all who want to know. If it serves, only that request has failed. If it does not, the
breaker opens: whoever comes is turned away without a request, the health alone is asked for every while, and when the
server serves again all who were turned away are called back, as many at a time as may ask.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Final, TypeVar

from serviceidentity.app.ports import Clock, Wake
from serviceidentity.app.vault.places import Places
from serviceidentity.app.vault.ports import Health
from serviceidentity.domain.model import Key
from serviceidentity.domain.schedule import format_time
from serviceidentity.errors import RetryableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_FOR_PLACE: Final = 2.0
LONGEST_PROBE: Final = 10.0
PAUSE_FIRST: Final = 2.0
PAUSE_LIMIT: Final = 10.0
CALM: Final = 30.0  # who stayed that long does not flap
STANDBY_LOOKS: Final = 2  # a server that was just unsealed is a standby until it has been elected
TICK: Final = 0.05
UNKNOWN: Final = Health(reachable=False)


class AwayError(RetryableError):
    """The server is away. Whoever was told so is called back when it serves."""


class BusyError(RetryableError):
    """As much is asked of the server as may be. Whoever was told so is called back when there is a place."""


class Breaker:
    """The way to one server. Used from one event loop."""

    def __init__(
        self,
        name: str,
        health: Callable[[], Awaitable[Health]],
        in_flight: int,
        clock: Clock,
        wake: Wake,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when the server's health is another one than before."""
        self.name = name
        self.health = UNKNOWN
        self._ask = health
        self._places = Places(in_flight)
        self._clock = clock
        self._wake = wake
        self._changed = changed
        self._away_since = ""
        self._served_since: float | None = None  # after having been away, in seconds of the event loop
        self._flaps = 0
        self._line: dict[Key, None] = {}  # who was turned away, in their order
        self._probing: asyncio.Task[float] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False
        self._answered = 0
        self._is_stuck = False  # all places are taken, and nothing came back for as long as somebody waits for one

    @property
    def is_open(self) -> bool:
        """Say whether everyone is turned away."""
        return bool(self._away_since)

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return self._places.taken

    def resize(self, in_flight: int) -> None:
        """Let another number of requests wait for an answer at the same time."""
        self._places.resize(in_flight)

    async def call(self, key: Key | None, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request for `key`, which is called back if it is turned away.

        Raises what the request raises; AwayError and BusyError, both RetryableError, when it was not made or when it
        failed because the server is away.
        """
        self._check(key)
        if self._is_stuck:
            raise self._busy(key)  # waiting would only take a worker from those who need nothing of Vault
        answered = self._answered
        if not await self._places.take(WAIT_FOR_PLACE):
            self._check(key)
            if self._answered == answered and not self._is_stuck:
                self._is_stuck = True
                self._start("look", self._probe)  # it need not last until the first request has timed out
            raise self._busy(key)
        try:
            self._check(key)  # it may have gone away while this one was waiting
            try:
                return await request()
            except RetryableError:
                if await self._is_away():
                    raise self._away(key) from None
                raise
        finally:
            self._answered += 1
            self._is_stuck = False
            self._places.give_back()
            self._call_back_soon()

    async def look(self) -> Health:
        """Return the server's health: as it is now, or while it is away as it was when it was last asked for."""
        if not self.is_open:
            await self._probe()
        return self.health

    def call_back(self, keys: Iterable[Key]) -> None:
        """Wake these when there are places for them."""
        self._line |= dict.fromkeys(keys)
        self._call_back_soon()

    async def close(self) -> None:
        """End everything that goes on by itself. Requests that are under way come to their end."""
        self._closed = True
        tasks = [*self._tasks.values(), *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drained(self, within: float) -> None:
        """Wait until no request is under way, for so many seconds at most."""
        end = _now() + within
        while self._places.taken and _now() < end:
            await self._places.given_back(max(end - _now(), TICK))

    def _check(self, key: Key | None) -> None:
        if self.is_open:
            raise self._away(key)

    def _away(self, key: Key | None) -> AwayError:
        self._turn_away(key)
        # The same words for as long as it lasts, after a restart too: each identity's status has them. Since when is in
        # the conditions.
        return AwayError(f"VaultConnection {self.name} is away")

    def _busy(self, key: Key | None) -> BusyError:
        self._turn_away(key)
        self._call_back_soon()
        return BusyError(f"too much is asked of VaultConnection {self.name} at once")

    def _turn_away(self, key: Key | None) -> None:
        if key is not None:
            self._line[key] = None

    async def _is_away(self) -> bool:
        """Ask for the health after a request has failed. An answer that was asked for before that tells nothing."""
        failed = _now()
        while not self.is_open and not self._closed:
            if await self._probe() >= failed:
                break
        return self.is_open

    async def _probe(self) -> float:
        """Ask for the health, one for all who want to know at the same time; return when that was."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._ask_for_health(), name=f"health of {self.name}")
        probing = self._probing
        await asyncio.wait([probing])  # unlike awaiting it, this does not cancel who waits when it is cancelled
        return _now() if probing.cancelled() else probing.result()

    async def _ask_for_health(self) -> float:
        begun = _now()
        try:
            async with asyncio.timeout(LONGEST_PROBE):
                health = await self._ask()
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not be the end of asking
            logger.debug("the health of VaultConnection %s: %s", self.name, type(error).__name__)
            health = UNKNOWN
        before, self.health = self.health, health
        if not health.serves and not self.is_open and not self._closed:
            self._open()
        elif health != before:
            self._changed()
        return begun

    def _open(self) -> None:
        now = _now()
        flaps = self._served_since is not None and now - self._served_since < CALM
        self._flaps = self._flaps + 1 if flaps else 0
        self._away_since = format_time(self._clock())
        self._start("watch", self._watch)
        self._changed()

    async def _watch(self) -> None:
        """Ask for the health until the server serves. One that comes and goes is asked more seldom."""
        pause, standby = min(PAUSE_FIRST * 2 ** min(self._flaps, 10), PAUSE_LIMIT), 0
        while self.is_open:
            await asyncio.sleep(pause)
            await self._probe()
            if not self.health.serves:
                standby = 0
            elif self.health.standby and standby < STANDBY_LOOKS:
                standby += 1
            else:
                self._away_since, self._served_since = "", _now()
        self._changed()
        self._call_back_soon()

    def _call_back_soon(self) -> None:
        if self._line and not self.is_open:
            self._start("call back", self._call_back)

    async def _call_back(self) -> None:
        """Wake those who were turned away, as many as there are places. Some of them may not ask any more."""
        while self._line and not self.is_open:
            room = self._places.free
            if room:
                keys = list(islice(self._line, room))
                for key in keys:
                    del self._line[key]
                self._wake(keys)
            await self._places.given_back(TICK if room else None)

    def _start(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        task = self._tasks.get(name)
        if not self._closed and (task is None or task.done()):
            self._tasks[name] = asyncio.create_task(_until_done(run), name=f"{name} of {self.name}")


async def _until_done(run: Callable[[], Awaitable[object]]) -> None:
    await run()


def _now() -> float:
    return asyncio.get_running_loop().time()
