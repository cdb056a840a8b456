"""Migrations of the shop's databases: files of SQL beside each service, run by the owner of its database."""

from typing import Final

from serviceidentity_sdk.credentials import Directory
from serviceidentity_sdk.postgres import migrations, read_login

SCHEMAS: Final = {"order": "orders", "payment": "payments", "inventory": "inventory"}


def migrate(service: str, conninfo: str, owner: str) -> list[str]:
    """Run what has not run yet; return its names. `owner` is a directory with `username` and `password`.

    Raises CredentialError, and MigrationError and UnavailableError of the SDK.
    """
    known = migrations.migrations_in(f"examples.shop.services.{service}.migrations")
    return migrations.migrate(conninfo, read_login(Directory(owner).read()), schema=SCHEMAS[service], migrations=known)
