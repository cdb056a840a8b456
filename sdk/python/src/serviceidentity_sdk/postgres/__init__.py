"""PostgreSQL by leased users: a pool that follows the mounted Secret through every change of the user.

Migrations, which the owner of the database runs, are in `serviceidentity_sdk.postgres.migrations`.
"""

from serviceidentity_sdk.postgres.errors import MigrationError, PostgresError, RefusedError, UnavailableError
from serviceidentity_sdk.postgres.login import Login, read_login, watch_login
from serviceidentity_sdk.postgres.pool import Connection, PostgresPool

__all__ = [
    "Connection",
    "Login",
    "MigrationError",
    "PostgresError",
    "PostgresPool",
    "RefusedError",
    "UnavailableError",
    "read_login",
    "watch_login",
]
