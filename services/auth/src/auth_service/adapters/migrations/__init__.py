"""Migrations: numbered files of SQL, each run once, by the owner of the database."""

from typing import Final

from serviceidentity_sdk.postgres import Login
from serviceidentity_sdk.postgres.migrations import migrate as run
from serviceidentity_sdk.postgres.migrations import migrations_in

SCHEMA: Final = "auth"


def migrate(conninfo: str, owner: Login) -> list[str]:
    """Run what has not run yet; return its names. Raises MigrationError, UnavailableError of the SDK."""
    return run(conninfo, owner, schema=SCHEMA, migrations=migrations_in(__name__))
