"""One running operator: fills the inventory, keeps it complete, runs the engine."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

from serviceidentity.app.engine import Engine
from serviceidentity.app.ports import Clock
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.schedule import format_time
from serviceidentity.errors import PortError

logger = logging.getLogger(__name__)

STUCK_AFTER: Final = timedelta(minutes=5)
STANDING_BY_AFTER: Final = 1.0  # seconds
RETRY_EVERY: Final = 1.0


class StuckError(RuntimeError):
    """Work is waiting and none has been done for minutes."""


@dataclass(frozen=True, slots=True)
class Lists:
    """Complete lists of everything the operator works on, each with its resource version."""

    namespaces: tuple[list[dict[str, Any]], int]
    identities: tuple[list[dict[str, Any]], int]
    domains: tuple[list[dict[str, Any]], int]
    secrets: tuple[list[SecretView], int]
    config_maps: tuple[list[SecretView], int]
    connections: tuple[list[dict[str, Any]], int]
    policies: tuple[list[dict[str, Any]], int]

    def version_of(self, name: str) -> int:
        """Return the resource version of the list of that name."""
        versions: Mapping[str, int] = {
            "namespaces": self.namespaces[1],
            "identities": self.identities[1],
            "domains": self.domains[1],
            "secrets": self.secrets[1],
            "config_maps": self.config_maps[1],
            "connections": self.connections[1],
            "policies": self.policies[1],
        }
        return versions[name]


class Lister(Protocol):
    """Reads the complete lists."""

    async def __call__(self) -> Lists:
        """Return them as they are now. Raises PortError."""
        ...


class Leadership(Protocol):
    """Who may work when several operators run."""

    async def acquire(self) -> None:
        """Wait until this process may work."""
        ...

    async def hold(self) -> None:
        """Return when this process must stop working."""
        ...

    async def release(self) -> None:
        """Let another process work at once."""
        ...


class Operator:
    """Start, health and stop around an Engine."""

    def __init__(
        self,
        engine: Engine,
        lister: Lister,
        clock: Clock,
        *,
        resync: timedelta,
        background: Callable[[], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
        leadership: Leadership | None = None,
        end: Callable[[], None] = lambda: None,
        serve: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`background` runs while this process works, `serve` from the start on, while another one works too."""
        self.engine = engine
        self._lister = lister
        self._clock = clock
        self._resync = resync
        self._background = background
        self._close = close
        self._leadership = leadership
        self._end = end
        self._serve = serve
        self._comparing = asyncio.Lock()
        self._working = False
        self.complete = False  # whether the inventory has been filled
        self._tasks: list[asyncio.Task[None]] = []

    def __copy__(self) -> "Operator":
        """Kopf copies its memo for every object; there is only one operator."""
        return self

    def start(self) -> None:
        """Begin in the background: lead, read everything, work. Health is answered meanwhile, by a standby too."""
        self._tasks.append(asyncio.create_task(self._begin(), name="begin"))
        if self._serve is not None:
            self._tasks.append(asyncio.create_task(_forever(self._serve), name="serve"))
            self._tasks.append(asyncio.create_task(self._stand_by(), name="stand-by"))

    async def _begin(self) -> None:
        if self._leadership is not None:
            await self._leadership.acquire()
            self._tasks.append(asyncio.create_task(self._lead(self._leadership), name="leadership"))
        while True:
            try:
                await self.compare()
                break
            except PortError as error:
                logger.warning("can't start yet: %s", error)
                await asyncio.sleep(RETRY_EVERY)
        self._working = True
        await self.engine.open_keys()
        self.engine.start()
        self._tasks.append(asyncio.create_task(self._keep_comparing(), name="resync"))
        self._tasks.append(asyncio.create_task(_forever(self._background), name="events"))
        inventory = self.engine.inventory
        logger.info("started with %d identities, %d trust domains", len(inventory.identities), len(inventory.domains))

    async def stop(self) -> None:
        """Stop the workers and give up the connections and the leadership; `end` ends the framework."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.stop()
        if self._leadership is not None:
            await self._leadership.release()
        await self._close()
        self._end()

    async def compare(self) -> None:
        """Compare the inventory with the complete lists, and wake whatever differs. Raises PortError."""
        async with self._comparing:
            self.engine.inventory.expect_lists()
            lists = await self._lister()
            woken = self.engine.inventory.resync(
                lists.namespaces[0],
                lists.identities[0],
                lists.domains[0],
                lists.secrets[0],
                lists.version_of,
                lists.config_maps[0],
                lists.connections[0],
                lists.policies[0],
            )
            self.engine.wake(woken)
            self.complete = True

    def health(self) -> dict[str, Any]:
        """Return figures for the probe. Raises StuckError when work waits and nothing has moved for minutes."""
        counters, queue = self.engine.counters, self.engine.queue
        now = self._clock()
        if len(queue) and counters.last_pass is not None and now - counters.last_pass > STUCK_AFTER:
            raise StuckError("work is waiting and nothing has been done for minutes")
        return {
            "waiting": len(queue),
            "passes": counters.passes,
            "failing": len(counters.failing),
            "lastPass": format_time(counters.last_pass) if counters.last_pass else None,
        }

    async def _stand_by(self) -> None:
        """Fill the inventory while another process works, and compare it as that one does: it is what is served."""
        await asyncio.sleep(STANDING_BY_AFTER)  # who leads at once reads the lists anyway
        while not self._working:
            try:
                await self.compare()
            except PortError as error:
                logger.warning("can't read what to serve yet: %s", error)
            await asyncio.sleep(self._resync.total_seconds() if self.complete else RETRY_EVERY)

    async def _keep_comparing(self) -> None:
        while True:
            await asyncio.sleep(self._resync.total_seconds())
            with contextlib.suppress(PortError):
                await self.compare()

    async def _lead(self, leadership: Leadership) -> None:
        try:
            await leadership.hold()
            logger.error("leadership is lost; stopping at once")
        finally:
            self._end()  # whatever happened: who does not renew must not go on working


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    await run()
