"""A pool of connections to PostgreSQL, by the newest user that was made for this service."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
except ImportError as missing:
    raise ImportError("PostgreSQL by leased users needs: pip install 'serviceidentity-sdk[postgres]'") from missing

from serviceidentity_sdk.credentials import Watch
from serviceidentity_sdk.postgres.errors import RefusedError, UnavailableError
from serviceidentity_sdk.postgres.faults import Fault, fault
from serviceidentity_sdk.postgres.login import Login

_LOG: Final = logging.getLogger("serviceidentity_sdk.postgres")
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # its warnings quote the server
_ATTEMPTS: Final = 3
_MAX_WAITING: Final = 200  # requests; more are told at once
_OURS: Final = frozenset({"user", "password", "passfile", "service", "options"})
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_$]{0,62}")
T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class PostgresPool:
    """A pool of connections. `async with pool:` opens it; the watch has to be started as well.

    `conninfo` is libpq's, without user and password. New connections log in as the watch's newest user. When that
    changes, the old user's connections are closed as they come back, and work that was cut off, or whose user had lost
    its rights, is done again. `name` is what PostgreSQL calls the connections (`application_name`).

    In seconds: `timeout` is how long work waits for a connection; `statement_timeout` is PostgreSQL's, and half of its
    `idle_in_transaction_session_timeout`; `max_age` is how long a connection is kept. An old user lives as long as the
    identity's `overlap`: keep `max_age` below.
    """

    def __init__(
        self,
        conninfo: str,
        login: Watch[Login],
        *,
        name: str,
        search_path: Sequence[str] = (),
        size: int = 10,
        timeout: float = 3.0,
        statement_timeout: float = 5.0,
        max_age: float = 300.0,
    ) -> None:
        """Raise ValueError, which quotes nothing, for what can't be right."""
        _check(conninfo)
        self._login = login
        self._name = name
        self._connect_timeout = max(2, round(timeout))  # libpq: less than 2 is 2
        self._options = _options(search_path, statement_timeout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained = 0
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            kwargs=self._parameters,
            min_size=1,
            max_size=size,
            max_waiting=_MAX_WAITING,
            timeout=timeout,
            max_lifetime=max_age,
            reconnect_timeout=timeout,  # then the next request begins anew, without the long pauses in between
            reconnect_failed=_unreachable,
            name=name,
            open=False,
        )

    @property
    def login(self) -> str:
        """The user that new connections log in as. The one of certain work is its `connection.info.user`."""
        return self._login.current.user

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do some work in one transaction; again, when its connection turned out to be lost.

        Work therefore has to bear being done twice: the answer to a commit may be what was lost. What it raises itself
        rolls back and goes through. Raises UnavailableError, RefusedError.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            drained = self._drained
            try:
                async with self._connection() as connection, connection.transaction():
                    return await work(connection)
            except (PoolTimeout, TooManyRequests, PoolClosed):
                raise UnavailableError("no connection to the database") from None
            except psycopg.Error as error:
                found = _judged(error)
                _LOG.info("attempt %d at the database failed: %s", attempt, type(error).__name__)  # its text has values
                if found is Fault.REFUSED or (found is Fault.RIGHTS and attempt == _ATTEMPTS):
                    raise RefusedError(error.sqlstate) from None
                if found is Fault.BUSY or attempt == _ATTEMPTS:
                    raise UnavailableError("the database does not answer as it should") from None
            if found is not Fault.COLLIDED:
                await asyncio.to_thread(self._login.check)
                if drained == self._drained:  # else another's failure, or a new user, has seen to that
                    await self._drain()
        raise AssertionError  # pragma: no cover

    async def ready(self, statement: str = "SELECT 1", *, timeout: float = 1.0) -> bool:
        """Say whether a connection answers this in time. A statement that reads a table also tells missing rights."""
        try:
            async with asyncio.timeout(timeout), self._connection() as connection:
                await connection.execute(statement.encode())
        except (psycopg.Error, TimeoutError):
            return False
        return True

    async def __aenter__(self) -> Self:
        await self._pool.open()
        loop = asyncio.get_running_loop()

        def changed(_new: Login) -> None:
            loop.call_soon_threadsafe(self._changed)

        self._unsubscribe = self._login.subscribe(changed)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._unsubscribe()
        await self._pool.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend a connection of the newest user.

        The pool closes the old user's when the user changes, but not one that was logging in at that moment. It would
        be lent until the old user is dropped, and then fail.
        """
        for _ in range(self._pool.max_size):
            async with self._pool.connection() as connection:
                if connection.info.user == self.login:
                    yield connection
                    return
                await connection.close()  # the pool opens another
        async with self._pool.connection() as connection:
            yield connection

    async def _parameters(self) -> dict[str, Any]:
        login = self._login.current
        return {
            "user": login.user,
            "password": login.password.reveal().decode(),
            "connect_timeout": self._connect_timeout,
            "application_name": self._name,
            "options": self._options,
        }

    def _changed(self) -> None:
        _LOG.info("the database has a new user for us: connections of the one before are closed as they come back")
        task = asyncio.get_running_loop().create_task(self._drain())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        self._drained += 1
        await self._pool.drain()


def _judged(error: psycopg.Error) -> Fault:
    operational = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return fault(error.sqlstate, operational=operational)


def _check(conninfo: str) -> None:
    try:
        found = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise ValueError("this is no connection string of libpq") from None
    if wrong := sorted(found.keys() & _OURS):
        raise ValueError(f"not in a connection string here: {', '.join(wrong)}")


def _options(search_path: Sequence[str], statement_timeout: float) -> str:
    if isinstance(search_path, str) or not all(_SCHEMA.fullmatch(name) for name in search_path):
        raise ValueError("search_path is a list of names of schemas")
    bound = round(statement_timeout * 1000)
    if bound <= 0:
        raise ValueError("a statement needs some time")
    found = [f"-c statement_timeout={bound}", f"-c idle_in_transaction_session_timeout={2 * bound}"]
    if search_path:
        found.append(f"-c search_path={','.join(search_path)}")
    return " ".join(found)


def _unreachable(_pool: "AsyncConnectionPool[Connection]") -> None:
    _LOG.warning("the database lets nobody in, or is not there")
