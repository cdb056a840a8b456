"""PostgreSQL by leased users: a pool that follows the mounted Secret through every change of the user."""

from serviceidentity_sdk.postgres.errors import PostgresError, RefusedError, UnavailableError
from serviceidentity_sdk.postgres.login import Login, read_login, watch_login
from serviceidentity_sdk.postgres.pool import Connection, PostgresPool

__all__ = [
    "Connection",
    "Login",
    "PostgresError",
    "PostgresPool",
    "RefusedError",
    "UnavailableError",
    "read_login",
    "watch_login",
]
