"""Migrations: numbered files of SQL beside each service, each run once, by the owner of the service's database."""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from examples.shop.services.errors import SettingsError, UnavailableError
from serviceidentity_sdk.config import read_secret

SCHEMAS: Final = {"order": "orders", "payment": "payments", "inventory": "inventory"}
_LOCK: Final = 0x73686F70  # of these migrations among the advisory locks of a database
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    ran_at timestamptz NOT NULL DEFAULT now()
)
"""


def migrate(service: str, conninfo: str, owner: str) -> list[str]:
    """Run what has not run yet, all of it or nothing; return its names. Who starts at the same time waits.

    `owner` is a directory with `username` and `password`. Raises SettingsError, UnavailableError.
    """
    login = read_secret(owner)
    schema = sql.Identifier(SCHEMAS[service])
    try:
        parameters: dict[str, Any] = {"user": login["username"].decode(), "password": login["password"].decode()}
        with psycopg.connect(conninfo, connect_timeout=10, **parameters) as connection:  # one transaction
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(schema))
            connection.execute(_TABLE)
            return list(_run(service, connection))
    except (KeyError, UnicodeDecodeError):
        raise SettingsError("SHOP_DATABASE_OWNER has no username and password") from None
    except psycopg.errors.UndefinedObject:
        raise SettingsError(f"a role is not there: CREATE ROLE {service}_service NOLOGIN") from None
    except psycopg.Error as error:
        raise UnavailableError(f"the migration failed: {type(error).__name__}") from None


def _run(service: str, connection: "psycopg.Connection[tuple[Any, ...]]") -> Iterator[str]:
    folder = files(f"examples.shop.services.{service}") / "migrations"
    known = {one.name: one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".sql")}
    ran = dict(connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall())
    if unknown := sorted(ran.keys() - known.keys()):
        raise SettingsError(f"the database is newer than this version: {', '.join(unknown)}")
    for name, text in sorted(known.items()):
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in ran:
            connection.execute(text.encode())
            connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (name, digest))
            yield name
        elif ran[name] != digest:
            raise SettingsError(f"{name} has run, and is another file now")
