"""OpenBao's database engine, set up against PostgreSQL: roles whose credentials are leased, and static ones."""

import urllib.error
from typing import Final

from tests.controlplane.openbao import OpenBao
from tests.controlplane.postgres import DATABASE, Postgres

MOUNT: Final = "database"
CONNECTION: Final = "postgres"
TABLE: Final = "orders"  # what every leased user may read

_CREATE: Final = (
    """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'""",
    f'GRANT SELECT ON {TABLE} TO "{{{{name}}}}"',
)
_RENEW: Final = ("""ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'""",)


def enable_database(bao: OpenBao, postgres: Postgres, mount: str = MOUNT) -> None:
    """Mount the engine and tell it of the server, which gets the table that leased users may read."""
    with postgres.connect() as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (id int)")
    bao.request("POST", f"sys/mounts/{mount}", {"type": "database"})
    bao.request(
        "POST",
        f"{mount}/config/{CONNECTION}",
        {
            "plugin_name": "postgresql-database-plugin",
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.address}/{DATABASE}"
            "?sslmode=disable&connect_timeout=2",
            "username": postgres.superuser,
            "password": postgres.password,
            "allowed_roles": "*",
        },
    )


def add_role(bao: OpenBao, name: str, default_ttl: str, max_ttl: str, *, mount: str = MOUNT) -> None:
    """Make or change a role: `creds/<name>` makes a user for `default_ttl`, who may be renewed up to `max_ttl`.

    A lease that ends takes the user's rights and drops the user: the engine's own statements do, also twice.
    """
    bao.request(
        "POST",
        f"{mount}/roles/{name}",
        {
            "db_name": CONNECTION,
            "creation_statements": list(_CREATE),
            "renew_statements": list(_RENEW),
            "default_ttl": default_ttl,
            "max_ttl": max_ttl,
        },
    )


def add_static_role(bao: OpenBao, postgres: Postgres, name: str, rotation_period: str, *, mount: str = MOUNT) -> None:
    """Make a user `name` and a role by the same name, `static-creds/<name>`, that gives it new passwords in turn."""
    with postgres.connect() as connection:
        connection.execute(f'CREATE ROLE "{name}" WITH LOGIN')
    bao.request(
        "POST",
        f"{mount}/static-roles/{name}",
        {
            "db_name": CONNECTION,
            "username": name,
            "rotation_period": rotation_period,
            "rotation_statements": ["""ALTER ROLE "{{name}}" WITH PASSWORD '{{password}}'"""],
        },
    )


def leases(bao: OpenBao, prefix: str) -> set[str]:
    """Return the IDs of the leases that exist below a prefix, such as `database/creds/<role>`."""
    prefix = prefix.strip("/") + "/"
    try:
        found = bao.request("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return set()
        raise
    names = {prefix + name for name in found}
    folders = {name for name in names if name.endswith("/")}
    return (names - folders).union(*(leases(bao, name) for name in folders))
