"""Migrations: numbered files of SQL, each run once, by the owner of the database. Leased users own nothing."""

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

try:
    import psycopg
    from psycopg import sql
except ImportError as missing:
    raise ImportError("migrations need: pip install 'serviceidentity-sdk[postgres]'") from missing

from serviceidentity_sdk.postgres.errors import MigrationError, UnavailableError
from serviceidentity_sdk.postgres.login import Login

_TIMEOUT: Final = 10  # seconds for a connection
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    ran_at timestamptz NOT NULL DEFAULT now()
)
"""


def migrations_in(package: str) -> dict[str, str]:
    """Return the SQL of each file `*.sql` beside a package's modules by its name, in the order of the names."""
    found = (one for one in files(package).iterdir() if one.name.endswith(".sql"))
    return {one.name: one.read_text(encoding="utf-8") for one in sorted(found, key=lambda one: one.name)}


def migrate(conninfo: str, owner: Login, *, schema: str, migrations: Mapping[str, str]) -> list[str]:
    """Run what has not run yet, all of it or nothing; return its names. Who starts at the same time waits.

    They run in `schema`, which is made, and are remembered in its table `schema_migrations`. `conninfo` is without user
    and password. Raises MigrationError when the same again won't help; UnavailableError.
    """
    lock = int.from_bytes(hashlib.sha256(f"migrations of {schema}".encode()).digest()[:8], signed=True)
    login: dict[str, Any] = {"user": owner.user, "password": owner.password.reveal().decode()}
    name = sql.Identifier(schema)
    try:
        with psycopg.connect(conninfo, connect_timeout=_TIMEOUT, **login) as connection:  # one transaction
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(name))
            connection.execute(_TABLE)
            return list(_run(connection, migrations))
    except psycopg.errors.UndefinedObject:
        raise MigrationError("a role that rights are given to is not there: CREATE ROLE ... NOLOGIN") from None
    except psycopg.errors.InsufficientPrivilege:
        raise MigrationError("this user may not migrate: run it as the owner of the database") from None
    except psycopg.Error as error:
        raise UnavailableError(f"the migration failed: {type(error).__name__}") from None


def _run(connection: "psycopg.Connection[tuple[Any, ...]]", known: Mapping[str, str]) -> Iterator[str]:
    ran = dict(connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall())
    if unknown := sorted(ran.keys() - known.keys()):
        raise MigrationError(f"the database is newer than this version: {', '.join(unknown)}")
    for name, text in known.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in ran:
            connection.execute(text.encode())  # of the service's own files
            connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (name, digest))
            yield name
        elif ran[name] != digest:
            raise MigrationError(f"{name} has run, and is another file now")
