"""Migrations: numbered files of SQL, each run once, by the owner of the database."""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from auth_service.errors import RejectedError, UnavailableError

SCHEMA: Final = "auth"
_LOCK: Final = 0x61757468  # of this service's migrations among the advisory locks of a database
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    ran_at timestamptz NOT NULL DEFAULT now()
)
"""


def migrations() -> dict[str, str]:
    """Return the SQL of each migration by its name, in their order."""
    found = (one for one in files(__name__).iterdir() if one.name.endswith(".sql"))
    return {one.name: one.read_text(encoding="utf-8") for one in sorted(found, key=lambda one: one.name)}


def migrate(conninfo: str, **parameters: Any) -> list[str]:
    """Run what has not run yet, all of it or nothing; return its names. Who starts at the same time waits.

    Raises RejectedError when a migration that ran has changed since, or is not known here; UnavailableError.
    """
    try:
        with psycopg.connect(conninfo, **parameters) as connection:  # one transaction
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(SCHEMA)))
            connection.execute(_TABLE)
            return list(_run(connection))
    except psycopg.errors.UndefinedObject:
        raise RejectedError("the role auth_service is not there: CREATE ROLE auth_service NOLOGIN") from None
    except psycopg.errors.InsufficientPrivilege:
        raise RejectedError("this user may not migrate: run it as the owner of the database") from None
    except psycopg.Error as error:
        raise UnavailableError(f"the migration failed: {type(error).__name__}") from None


def _run(connection: "psycopg.Connection[tuple[Any, ...]]") -> Iterator[str]:
    known = migrations()
    ran = dict(connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall())
    if unknown := sorted(ran.keys() - known.keys()):
        raise RejectedError(f"the database is newer than this version: {', '.join(unknown)}")
    for name, text in known.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in ran:
            connection.execute(text.encode())
            connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (name, digest))
            yield name
        elif ran[name] != digest:
            raise RejectedError(f"{name} has run, and is another file now")
