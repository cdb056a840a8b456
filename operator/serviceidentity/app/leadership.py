"""Leader election over a Lease: several operators may run, one works.

Correctness does not rest on it. Every write names the version it was decided on, so two operators at work would collide
and look again rather than issue twice; the Lease saves them the trouble. The rules are client-go's: a holder renews
every few seconds and stops when it could not for too long; others wait until the Lease has not been renewed for its
whole duration *by their own clock*, so clocks need not agree.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from serviceidentity.errors import ConflictError, MissingError, PortError

logger = logging.getLogger(__name__)

DURATION: Final = 15.0
RENEW_EVERY: Final = 3.0
GIVE_UP_AFTER: Final = 10.0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as found: who holds it (empty: nobody), and an opaque version for the next write."""

    holder: str
    version: str
    transitions: int
    duration: float


class LeaseStore(Protocol):
    """Reads and writes the one Lease."""

    async def read(self) -> LeaseRecord | None:
        """Return the Lease, or None when it does not exist. Raises PortError."""
        ...

    async def write(self, holder: str, seen: LeaseRecord | None, duration: float) -> LeaseRecord:
        """Create the Lease, or replace exactly the version in `seen`. Raises ConflictError when someone was faster."""
        ...


class LeaseLeadership:
    """Implements the port `Leadership`."""

    def __init__(self, store: LeaseStore, identity: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._identity = identity
        self._monotonic = monotonic
        self._held: LeaseRecord | None = None

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        last_seen: LeaseRecord | None = None
        since = self._monotonic()
        while True:
            try:
                record = await self._store.read()
                if record is None or last_seen is None or record.version != last_seen.version:
                    last_seen, since = record, self._monotonic()
                expired = record is not None and self._monotonic() - since > record.duration
                if record is None or record.holder in ("", self._identity) or expired:
                    self._held = await self._store.write(self._identity, record, DURATION)
                    logger.info("leading as %s", self._identity)
                    return
            except (ConflictError, MissingError):
                pass
            except PortError as error:
                logger.warning("can't take part in leader election: %s", error)
            await asyncio.sleep(RENEW_EVERY / 2 * random.uniform(0.8, 1.2))  # noqa: S311  # not for secrets

    async def hold(self) -> None:
        """Renew until it fails for too long, or someone else holds the Lease; then return.

        The time-out is around everything, waiting included: with an attempt of three seconds at most, the holder has
        stopped 13 seconds after its last renewal reached the server, and nobody else begins before 15.
        """
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(GIVE_UP_AFTER):
                    if not await self._renew():
                        return

    async def _renew(self) -> bool:
        """Return when the Lease has been renewed; False when someone else holds it."""
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                async with asyncio.timeout(RENEW_EVERY):
                    self._held = await self._store.write(self._identity, self._held, DURATION)
            except ConflictError:
                if await self._replaced():
                    return False
            except (PortError, TimeoutError):
                continue
            else:
                return True

    async def _replaced(self) -> bool:
        """Say whether someone else holds the Lease; unknown is no, and the time without renewal goes on counting."""
        try:
            async with asyncio.timeout(RENEW_EVERY):
                self._held = await self._store.read()
        except (PortError, TimeoutError):
            return False
        return self._held is not None and self._held.holder != self._identity

    async def release(self) -> None:
        """Empty the Lease, so that another process need not wait for it to expire."""
        if self._held is None or self._held.holder != self._identity:
            return
        try:
            await self._store.write("", self._held, 1.0)
        except PortError as error:
            logger.info("the Lease was not released: %s", error)
