"""What an administrator does to accounts, as the owner of the database."""

import asyncio
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from redis.asyncio import Redis

from auth_service.adapters.revocations import SharedRevocations
from auth_service.errors import RejectedError
from serviceidentity_sdk.jwt.revocations_redis import RedisRevocations

Owner = psycopg.Connection[tuple[Any, ...]]
_TIMEOUT: Final = 5.0  # seconds


def enable(connection: Owner, name: str) -> None:
    """Let an account log in again. Raises RejectedError when there is none."""
    with connection.transaction():
        _changed(connection, "UPDATE users SET disabled = false WHERE name = %s RETURNING id", name)


def disable(connection: Owner, name: str, now: datetime, since: datetime) -> list[UUID]:
    """Lock an account out and end its sessions. Returns those that ended since `since`. Raises RejectedError."""
    with connection.transaction():
        account = _changed(connection, "UPDATE users SET disabled = true WHERE name = %s RETURNING id", name)
        return _ended(connection, account, now, since)


def set_password(connection: Owner, name: str, password_hash: str, now: datetime, since: datetime) -> list[UUID]:
    """Give an account another password and end its sessions, as `disable` does. Raises RejectedError."""
    statement = "UPDATE users SET password_hash = %s WHERE name = %s RETURNING id"
    with connection.transaction():
        return _ended(connection, _changed(connection, statement, password_hash, name), now, since)


def set_roles(connection: Owner, name: str, roles: list[str]) -> None:
    """Give an account exactly these roles. Raises RejectedError when there is no such account or role."""
    try:
        with connection.transaction(), connection.cursor() as cursor:
            account = _changed(connection, "SELECT id FROM users WHERE name = %s FOR UPDATE", name)
            cursor.execute("DELETE FROM user_roles WHERE user_id = %s", (account,))
            rows = [(account, role) for role in sorted(set(roles))]
            cursor.executemany("INSERT INTO user_roles (user_id, role) VALUES (%s, %s)", rows)
    except psycopg.errors.ForeignKeyViolation:
        raise RejectedError("a role is not known; add it with add-role") from None


def revoke(address: str, sessions: list[UUID], until: datetime) -> None:
    """Put sessions on the list of revoked tokens. Raises UnavailableError."""

    async def put() -> None:
        async with Redis.from_url(address) as redis:
            await SharedRevocations(RedisRevocations(redis, timeout=_TIMEOUT)).revoke(sessions, until)

    asyncio.run(put())


def _changed(connection: Owner, statement: str, *values: str) -> UUID:
    row = connection.execute(statement.encode(), values).fetchone()
    if row is None:
        raise RejectedError("there is no account of this name")
    return UUID(str(row[0]))


def _ended(connection: Owner, account: UUID, now: datetime, since: datetime) -> list[UUID]:
    connection.execute("UPDATE sessions SET ended_at = %s WHERE user_id = %s AND ended_at IS NULL", (now, account))
    rows = connection.execute("SELECT id FROM sessions WHERE user_id = %s AND ended_at >= %s", (account, since))
    return [UUID(str(one)) for (one,) in rows.fetchall()]
