"""The documented role statement, at a real OpenBao that is no superuser: users come, do their work, and are dropped."""

import re
import secrets
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from sdk.python.tests.volumes import Volume
from services.auth.tests.contract.servers import Client, eventually, service
from services.auth.tests.contract.test_rotation import traffic
from tests.controlplane import OpenBao

PAGE = (Path(__file__).parents[4] / "docs" / "auth-service.md").read_text()


@pytest.fixture
def vault(bed, tmp_path):
    """OpenBao with the role of docs/auth-service.md, logged in as a user that may make users and no more."""
    vault_user = f"vault_{secrets.token_hex(4)}"
    (written,) = re.findall(r'creation_statements="(.*)"\n', PAGE)
    with bed.postgres.connect() as connection:
        connection.execute(
            sql.SQL(
                "CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'test'; GRANT auth_service TO {} WITH ADMIN OPTION"
            ).format(*[sql.Identifier(vault_user)] * 2)
        )
    (tmp_path / "bao").mkdir()
    bao = OpenBao(tmp_path / "bao")
    bao.start()
    try:
        bao.request("POST", "sys/mounts/database", {"type": "database"})
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{bed.postgres.port}/{bed.name}?sslmode=disable"
        login = {"username": vault_user, "password": "test", "connection_url": url, "allowed_roles": "*"}
        bao.request("POST", "database/config/auth", {"plugin_name": "postgresql-database-plugin"} | login)
        role = {"db_name": "auth", "default_ttl": "1h", "max_ttl": "24h"}
        role["creation_statements"] = [written.replace('\\"', '"')]
        bao.request("POST", "database/roles/auth-service", role)
        yield bao
    finally:
        bao.stop()


def leased(vault):
    found = vault.request("GET", "database/creds/auth-service")
    return found["lease_id"], {name: found["data"][name].encode() for name in ("username", "password")}


def valid_until(bed, files):
    with bed.postgres.connect() as connection:
        statement = "SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s"
        row = connection.execute(statement, (files["username"].decode(),)).fetchone()
    return row and row[0]


def test_users_of_the_documented_role_serve_are_renewed_and_dropped(bed, vault, signing, redis_server, tmp_path):
    lease, user = leased(vault)
    login = Volume(tmp_path / "database", user)
    with service(bed, signing, login, redis_server) as url:
        eventually(lambda: Client(url).get("/readyz").status_code == 200)
        with traffic(url) as running:
            for _ in range(3):
                running.more(4)
                before = valid_until(bed, user)
                vault.request("POST", "sys/leases/renew", {"lease_id": lease, "increment": "2h"})
                assert valid_until(bed, user) > before
                (old, gone), (lease, user) = (lease, user), leased(vault)
                login.swap(user)
                eventually(lambda: bed.sessions_of(gone) == 0 and bed.sessions_of(user) > 0)  # noqa: B023
                vault.request("POST", "sys/leases/revoke", {"lease_id": old, "sync": True})
                assert valid_until(bed, gone) is None
            running.more(4)
    vault.request("POST", "sys/leases/revoke", {"lease_id": lease, "sync": True})
    assert valid_until(bed, user) is None


def test_a_leased_user_has_the_rights_of_the_role_and_no_more(bed, vault):
    _, user = leased(vault)
    arguments = {"user": user["username"].decode(), "password": user["password"].decode(), "autocommit": True}
    with psycopg.connect(bed.conninfo, **arguments) as connection:
        connection.execute("SELECT name FROM auth.users")
        for statement in (
            "UPDATE auth.users SET disabled = false",
            "DELETE FROM auth.user_roles",
            "CREATE TABLE auth.x ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
