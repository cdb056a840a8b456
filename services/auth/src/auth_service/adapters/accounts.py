"""Accounts and sessions in PostgreSQL. Values are parameters, never part of a statement's text."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg

from auth_service.app.ports import Rotation, Session
from auth_service.domain import refresh
from auth_service.domain.accounts import Account
from auth_service.domain.refresh import Seen, Verdict
from auth_service.errors import RejectedError, UnavailableError
from serviceidentity_sdk.postgres import Connection, PostgresError, PostgresPool, RefusedError

_LOG: Final = logging.getLogger("auth_service.database")
T = TypeVar("T")

_ACCOUNT: Final = """
SELECT u.id, u.name, u.password_hash, u.disabled,
       array(SELECT role FROM user_roles WHERE user_id = u.id),
       array(SELECT DISTINCT permission FROM user_roles JOIN role_permissions USING (role) WHERE user_id = u.id)
  FROM users u
"""
_STATE: Final = """
SELECT t.expires_at, t.used_at, t.successor, next.hash IS NOT NULL AND next.used_at IS NULL,
       s.ends_at, s.ended_at IS NOT NULL
  FROM refresh_tokens t
  JOIN sessions s ON s.id = t.session_id
  LEFT JOIN refresh_tokens next ON next.hash = t.successor
 WHERE t.hash = %s
"""


class PostgresAccounts:
    """The port `Accounts`, in PostgreSQL."""

    def __init__(self, database: PostgresPool) -> None:
        self._database = database

    async def find(self, name: str) -> Account | None:
        async def work(connection: Connection) -> Account | None:
            return await _account(connection, _ACCOUNT + "WHERE u.name = %s", name)

        return await self._run(work)

    async def replace_hash(self, account: UUID, old: str, new: str) -> bool:
        async def work(connection: Connection) -> bool:
            made = await connection.execute(
                "UPDATE users SET password_hash = %s WHERE id = %s AND password_hash = %s", (new, account, old)
            )
            return made.rowcount == 1

        return await self._run(work)

    async def open_session(self, session: Session, token: bytes, now: datetime, password_hash: str) -> bool:
        async def work(connection: Connection) -> bool:
            # The account's row is held: whoever disables it meanwhile waits, and then ends this session as well.
            statement = "SELECT 1 FROM users WHERE id = %s AND NOT disabled AND password_hash = %s FOR SHARE"
            if await _one(connection, statement, session.account, password_hash) is None:
                return False
            await connection.execute(
                "INSERT INTO sessions (id, user_id, created_at, ends_at) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (session.id, session.account, now, session.ends_at),
            )
            await _store(connection, token, session, now)
            return True

        return await self._run(work)

    async def rotate(
        self, token: bytes, successor: bytes, now: datetime, judge: Callable[[Seen | None, datetime], Verdict]
    ) -> Rotation:
        async def work(connection: Connection) -> Rotation:
            # The session's row is the lock: whoever uses one of its tokens, or ends it, comes in turn.
            session = await _locked(connection, token)
            if session is None:
                return Rotation(judge(None, now))
            account = await _account(connection, _ACCOUNT + "WHERE u.id = %s", session.account)
            row = await _one(connection, _STATE, token)
            if account is None or row is None:
                return Rotation(judge(None, now))
            expires_at, used_at, before, unused, ends_at, ended = row
            verdict = judge(Seen(expires_at, used_at, unused, ends_at, ended, account.disabled), now)
            if verdict.granted:
                if before is not None:  # the one whose answer was lost is as good as used
                    await connection.execute("UPDATE refresh_tokens SET used_at = %s WHERE hash = %s", (now, before))
                await connection.execute(
                    "UPDATE refresh_tokens SET used_at = coalesce(used_at, %s), successor = %s WHERE hash = %s",
                    (now, successor, token),
                )
                await _store(connection, successor, session, now)
            elif verdict.ends_session:
                await connection.execute(
                    "UPDATE sessions SET ended_at = coalesce(ended_at, %s) WHERE id = %s", (now, session.id)
                )
            return Rotation(verdict, session, account)

        return await self._run(work)

    async def end_sessions(self, account: UUID, session: UUID | None, now: datetime, since: datetime) -> list[UUID]:
        async def work(connection: Connection) -> list[UUID]:
            which = (account, session, session)
            await connection.execute(
                "UPDATE sessions SET ended_at = %s WHERE user_id = %s AND (%s::uuid IS NULL OR id = %s)"
                " AND ended_at IS NULL",
                (now, *which),
            )
            found = await connection.execute(
                "SELECT id FROM sessions WHERE user_id = %s AND (%s::uuid IS NULL OR id = %s) AND ended_at >= %s",
                (*which, since),
            )
            return [UUID(str(one)) for (one,) in await found.fetchall()]

        return await self._run(work)

    async def prune(self, before: datetime) -> int:
        """Forget sessions whose end came before this; return how many. Their tokens go with them."""

        async def work(connection: Connection) -> int:
            return (await connection.execute("DELETE FROM sessions WHERE ends_at < %s", (before,))).rowcount

        return await self._run(work)

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._database.run(work)
        except RefusedError as error:
            _LOG.error("%s", error)  # a fault of this service, or of the rights of its users
            raise UnavailableError("the database refuses") from None
        except PostgresError:
            raise UnavailableError("the database does not answer") from None


def add_user(
    connection: "psycopg.Connection[tuple[Any, ...]]", name: str, password_hash: str, roles: list[str]
) -> UUID:
    """Store an account, as the owner of the database. Raises RejectedError when the name is taken or a role unknown."""
    try:
        with connection.transaction():
            row = connection.execute(
                "INSERT INTO users (name, password_hash) VALUES (%s, %s) RETURNING id", (name, password_hash)
            ).fetchone()
            account = UUID(str(row[0])) if row else None
            with connection.cursor() as cursor:
                rows = [(account, role) for role in roles]
                cursor.executemany("INSERT INTO user_roles (user_id, role) VALUES (%s, %s)", rows)
    except psycopg.errors.UniqueViolation:
        raise RejectedError("there is an account of this name") from None
    except psycopg.errors.ForeignKeyViolation:
        raise RejectedError("a role is not known; add it with add-role") from None
    if account is None:
        raise RejectedError("the account was not stored")
    return account


def add_role(connection: "psycopg.Connection[tuple[Any, ...]]", name: str, permissions: list[str]) -> None:
    """Store a role with exactly these permissions, as the owner of the database."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO roles (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
        cursor.execute("DELETE FROM role_permissions WHERE role = %s", (name,))
        rows = [(name, permission) for permission in sorted(set(permissions))]
        cursor.executemany("INSERT INTO role_permissions (role, permission) VALUES (%s, %s)", rows)


async def _one(connection: Connection, statement: str, *values: Any) -> tuple[Any, ...] | None:
    return await (await connection.execute(statement.encode(), values)).fetchone()


async def _account(connection: Connection, statement: str, value: Any) -> Account | None:
    row = await _one(connection, statement, value)
    if row is None:
        return None
    return Account(row[0], row[1], row[2], row[3], frozenset(row[4]), frozenset(row[5]))


async def _locked(connection: Connection, token: bytes) -> Session | None:
    statement = (
        "SELECT id, user_id, ends_at FROM sessions"
        " WHERE id = (SELECT session_id FROM refresh_tokens WHERE hash = %s) FOR UPDATE"
    )
    row = await _one(connection, statement, token)
    return None if row is None else Session(*row)


async def _store(connection: Connection, token: bytes, session: Session, now: datetime) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (hash, session_id, expires_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (token, session.id, refresh.expiry(now, session.ends_at)),
    )
