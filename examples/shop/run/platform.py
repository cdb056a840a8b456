"""What the platform team sets up once: OpenBao as docs/vault.md says, the databases with their owners and roles."""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import sql

from tests.controlplane import ControlPlane, OpenBao, Postgres
from tests.controlplane.databases import leases
from tests.controlplane.logins import add_login_role, enable_kubernetes_auth

NAMESPACE: Final = "shop"
AUDIENCE: Final = "vault"
MOUNT: Final = "database"
_MAKER: Final = "vault"  # the role of PostgreSQL that OpenBao logs in as: it makes users, and is no superuser
_RENEW: Final = "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'"
_RIGHTS: Final = """
path "database/creds/{service}" {{ capabilities = ["read"] }}
path "auth/token/create-orphan" {{ capabilities = ["update"] }}
path "sys/internal/ui/mounts/*" {{ capabilities = ["read"] }}
"""
_PROVIDER: Final = 'path "secret/data/{path}" {{ capabilities = ["read"] }}\n'


@dataclass(frozen=True)
class Database:
    """A service's database: its owner, whose password is in a Secret, and the role that leased users are members of."""

    service: str
    name: str
    owner_secret: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def role(self) -> str:
        """The role that leased users are members of."""
        return self.service.replace("-", "_")

    @property
    def owner(self) -> str:
        """Who may change its tables."""
        return f"{self.role}_owner"


class Platform:
    """OpenBao and PostgreSQL as the shop needs them."""

    def __init__(self, plane: ControlPlane, bao: OpenBao, postgres: Postgres, databases: tuple[Database, ...]) -> None:
        self._plane, self._bao, self._postgres, self.databases = plane, bao, postgres, databases
        self._maker_password = secrets.token_urlsafe(24)

    def set_up(self, provider: str) -> None:
        """Set up OpenBao, and the Secrets of owners; `provider` is the payment provider's place in the KV store."""
        self._connect_databases()
        self.lease_for("1h", "24h")
        enable_kubernetes_auth(self._bao, self._plane)
        for one in self.databases:
            rights = _RIGHTS.format(service=one.service)
            if one.service == "payment-service":
                rights += _PROVIDER.format(path=provider)
            self._bao.request("PUT", f"sys/policies/acl/{one.service}", {"policy": rights})
            add_login_role(
                self._bao,
                one.service,
                namespaces=NAMESPACE,
                service_accounts=one.service,
                policies=one.service,
                audience=AUDIENCE,
            )
        self._bao.request("POST", f"secret/data/{provider}", {"data": {"api-key": secrets.token_urlsafe(24)}})
        for one in self.databases:
            self._apply_owner(one)

    def lease_for(self, default: str, longest: str) -> None:
        """Say how long new users live, and how long they can be renewed. Those that there are keep what they have."""
        for one in self.databases:
            create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
            role = {
                "db_name": "shop",
                "creation_statements": [f"{create} IN ROLE {one.role}"],
                "renew_statements": [_RENEW],
                "default_ttl": default,
                "max_ttl": longest,
            }
            self._bao.request("POST", f"{MOUNT}/roles/{one.service}", role)

    def leases(self) -> set[str]:
        """Return the IDs of the leases that there are."""
        return leases(self._bao, f"{MOUNT}/creds")

    def users(self) -> set[str]:
        """Return the leased users that can log in to PostgreSQL."""
        return self._postgres.users() - {_MAKER} - {one.owner for one in self.databases}

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """Return what a query finds in a database, as its owner."""
        one = next(found for found in self.databases if found.name == database)
        connection = self._postgres.connect(one.owner, one.password, database=database)
        with connection:
            return connection.execute(query.encode()).fetchall()

    def make_databases(self) -> None:
        """Make databases, owners, and the roles that leased users are members of."""
        with self._postgres.connect() as connection:

            def run(statement: str, *names: str, password: str | None = None) -> None:
                parts = [sql.Identifier(name) for name in names] + ([sql.Literal(password)] if password else [])
                connection.execute(sql.SQL(statement).format(*parts))

            run("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}", _MAKER, password=self._maker_password)
            for one in self.databases:
                run("CREATE ROLE {} NOLOGIN", one.role)
                run("GRANT {} TO {} WITH ADMIN OPTION", one.role, _MAKER)
                run("CREATE ROLE {} LOGIN PASSWORD {}", one.owner, password=one.password)
                run("CREATE DATABASE {} OWNER {}", one.name, one.owner)

    def _connect_databases(self) -> None:
        self._bao.request("POST", f"sys/mounts/{MOUNT}", {"type": "database"})
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@{self._postgres.address}/postgres?sslmode=disable"
        self._bao.request(
            "POST",
            f"{MOUNT}/config/shop",
            {
                "plugin_name": "postgresql-database-plugin",
                "connection_url": url,
                "username": _MAKER,
                "password": self._maker_password,
                "allowed_roles": [one.service for one in self.databases],
            },
        )

    def _apply_owner(self, one: Database) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": one.owner_secret, "namespace": NAMESPACE},
            "stringData": {"username": one.owner, "password": one.password},
        }
        self._plane.kubectl("apply", "--filename=-", input=json.dumps(secret))
