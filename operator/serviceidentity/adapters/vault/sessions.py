"""The logins at one server, one for each `Login`: made when first needed, renewed in time, dropped when nobody asks.

A login that is not used is revoked: a server with a token for each service account that ever asked would have to keep
them all until they end. One task looks after all of them; it sleeps until the first of them is due.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from serviceidentity.adapters.vault.connection import Connection
from serviceidentity.adapters.vault.logins import LoginMethod, loop_time
from serviceidentity.adapters.vault.session import Session
from serviceidentity.app.vault.ports import Login
from serviceidentity.errors import PortError, RetryableError

logger = logging.getLogger(__name__)

IDLE: Final = 600.0  # seconds without a request, after which a login is dropped
REVOKE_WITHIN: Final = 5.0  # seconds for revoking all logins at the end


class Sessions:
    """The logins at one server."""

    def __init__(self, method: Callable[[Login], LoginMethod], connection: Connection, at_once: int) -> None:
        """Log in with what `method` returns; at most so many are looked after at once."""
        self._method = method
        self._connection = connection
        self._sessions: dict[Login, Session] = {}
        self._heap: list[tuple[float, int, Login]] = []
        self._numbers = itertools.count()
        self._planned: dict[Login, int] = {}
        self._woken = asyncio.Event()
        self._limit = asyncio.Semaphore(at_once)
        self._keeper: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._closed = False

    def of(self, login: Login) -> Session:
        """Return the session of a login. Raises RejectedError when that can't be, RetryableError after the end."""
        if self._closed:
            raise RetryableError("the connection to Vault was closed")
        session = self._sessions.get(login)
        if session is None:
            session = Session(self._method(login), self._connection, lambda: self._plan(login))
            session.last_used = loop_time()
            self._sessions[login] = session
            self._plan(login)
        return session

    async def close(self, *, revoke: bool) -> None:
        """Stop looking after logins, and revoke them if `revoke`: those that can be, in short time."""
        self._closed = True
        tasks = [task for task in (self._keeper, *self._work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sessions, self._sessions = list(self._sessions.values()), {}
        if revoke:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVOKE_WITHIN):
                    await asyncio.gather(*(_end(session) for session in sessions))

    def _plan(self, login: Login) -> None:
        """Note when to look after a login next; what was noted before does not count any more."""
        session = self._sessions.get(login)
        if session is None:
            return
        number = self._planned[login] = next(self._numbers)
        heapq.heappush(self._heap, (self._due(session), number, login))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        if self._heap[0][1] == number:
            self._woken.set()

    def _due(self, session: Session) -> float:
        dues = [session.renewal_due, None if session.pinned else session.last_used + IDLE]
        return min((due for due in dues if due is not None), default=loop_time() + IDLE)

    async def _keep(self) -> None:
        while True:
            self._woken.clear()
            for login in self._take_due():
                task = asyncio.create_task(self._look_after(login))
                self._work.add(task)
                task.add_done_callback(self._work.discard)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._heap[0][0] if self._heap else None):
                    await self._woken.wait()

    def _take_due(self) -> Iterable[Login]:
        now = loop_time()
        while self._heap and self._heap[0][0] <= now:
            _, number, login = heapq.heappop(self._heap)
            if self._planned.get(login) == number:
                yield login

    async def _look_after(self, login: Login) -> None:
        async with self._limit:
            session = self._sessions.get(login)
            if session is None:
                return
            now = loop_time()
            if not session.pinned and session.last_used + IDLE <= now:
                del self._sessions[login], self._planned[login]
                await _end(session)
                return
            if session.renewal_due is not None and session.renewal_due <= now:
                given_up = await session.renew()
                if given_up is not None:
                    with suppress(PortError):
                        await session.revoke(given_up)
            self._plan(login)


async def _end(session: Session) -> None:
    try:
        await session.end()
    except PortError as error:
        logger.info("a login at Vault could not be revoked, and ends by itself: %s", error)
