"""Connections to PostgreSQL, by the newest user that was made for this service."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from auth_service.adapters.migrations import SCHEMA
from auth_service.errors import UnavailableError
from serviceidentity_sdk.credentials import Directory, KeyMaterial, Snapshot, Watch

_LOG: Final = logging.getLogger("auth_service.database")
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # its warnings quote the server
_TIMEOUT: Final = 3.0  # seconds that a request waits for a connection
_LONGEST: Final = 300.0  # seconds that a connection is kept at most, so that no old user stays in use
_ATTEMPTS: Final = 3
_BOUNDS: Final = "-c statement_timeout=5000 -c idle_in_transaction_session_timeout=10000"  # milliseconds
# What a connection says that was cut off, or whose user is gone: its rights are, and with them the sight of any table.
_LOST: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
)
T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Login:
    """A user of PostgreSQL."""

    user: str
    password: KeyMaterial


def _unreachable(_pool: "AsyncConnectionPool[Connection]") -> None:
    _LOG.warning("the database lets nobody in, or is not there")


def read_login(snapshot: Snapshot) -> Login:
    """Read `username` and `password` of a mounted Secret. Raises CredentialError."""
    return Login(snapshot.text("username"), snapshot.material("password"))


def watch_login(directory: str, interval: float = 2.0) -> Watch[Login]:
    """Follow a mounted Secret. Raises CredentialError when it is not there at the start."""
    return Watch([Directory(directory)], read_login, interval=interval)


class Database:
    """A pool of connections. `async with database:` opens it.

    New connections log in as the watch's newest user. When that changes, the old user's connections are closed as they
    come back, and requests that were cut off, or whose user had lost its rights, are made again.
    """

    def __init__(self, conninfo: str, login: Watch[Login], *, size: int = 10) -> None:
        self._login = login
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            kwargs=self._parameters,
            min_size=1,
            max_size=size,
            max_waiting=200,
            timeout=_TIMEOUT,
            max_lifetime=_LONGEST,
            reconnect_timeout=_TIMEOUT,  # then the next request begins anew, without the long pauses in between
            reconnect_failed=_unreachable,
            name="auth-service",
            open=False,
        )

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do some work in one transaction; again, when its connection turned out to be lost. Raises UnavailableError.

        Work therefore has to bear being done twice: the answer to a commit may be what was lost.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._pool.connection() as connection, connection.transaction():
                    return await work(connection)
            except (PoolTimeout, TooManyRequests):
                raise UnavailableError("no connection to the database") from None
            except _LOST as error:
                _LOG.info("attempt %d at the database failed: %s", attempt, type(error).__name__)
                if attempt == _ATTEMPTS:
                    raise UnavailableError("the database does not answer as it should") from None
                await asyncio.to_thread(self._login.check)
                await self._pool.drain()
            except psycopg.Error as error:
                _LOG.error("the database refuses: %s", type(error).__name__)  # its text quotes values
                raise UnavailableError("the database refuses") from None
        raise AssertionError  # pragma: no cover

    async def ready(self) -> bool:
        """Say whether a connection answers within a second."""
        try:
            async with asyncio.timeout(1), self._pool.connection() as connection:
                await connection.execute("SELECT 1 FROM schema_migrations LIMIT 1")
        except (psycopg.Error, TimeoutError, PoolTimeout, TooManyRequests):
            return False
        return True

    async def __aenter__(self) -> Self:
        await self._pool.open()
        loop = asyncio.get_running_loop()

        def changed(_new: Login) -> None:
            loop.call_soon_threadsafe(self._drain)

        self._unsubscribe = self._login.subscribe(changed)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._unsubscribe()
        await self._pool.close()

    async def _parameters(self) -> dict[str, Any]:
        login = self._login.current
        return {
            "user": login.user,
            "password": login.password.reveal().decode(),
            "connect_timeout": 3,
            "application_name": "auth-service",
            "options": f"-c search_path={SCHEMA} {_BOUNDS}",
        }

    def _drain(self) -> None:
        _LOG.info("the database has a new user for us: connections of the one before are closed as they come back")
        task = asyncio.get_running_loop().create_task(self._pool.drain())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
