"""examples/shop/vault.sh at a real OpenBao and PostgreSQL: what the shop's manifests ask for is there."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql

from tests.controlplane import OpenBao, Postgres
from tests.controlplane.binaries import beside_python

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
DATABASES = {"auth": "auth", "orders": "order", "payments": "payment", "inventory": "inventory"}


def test_the_script_makes_what_the_manifests_ask_for(postgres: Postgres, tmp_path: Path) -> None:
    with postgres.connect() as admin:
        there = {name for (name,) in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
        for database, service in DATABASES.items():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            if f"{service}_service" not in there:
                admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(f"{service}_service")))
    bao = OpenBao(tmp_path)
    bao.start()
    try:
        bao.request("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
        told = {"VAULT": str(beside_python("bao")), "VAULT_ADDR": bao.address, "VAULT_TOKEN": bao.root_token}
        told |= {"POSTGRES": postgres.address, "POSTGRES_USER": postgres.superuser, "POSTGRES_TLS": "disable"}
        told |= {"POSTGRES_PASSWORD": postgres.password, "PROVIDER_KEY": "key-of-the-provider"}
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | told
        script = ["sh", "examples/shop/vault.sh"]
        done = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert postgres.password not in done.stdout and "key-of-the-provider" not in done.stdout

        for service in DATABASES.values():
            name = f"{service}-service"
            asked = _vault_entries(name)
            token = bao.request("POST", "auth/token/create", {"policies": [name]})["auth"]["client_token"]
            found = bao.request("GET", f"database/creds/{asked['database']['role']}", token=token)["data"]
            database = next(key for key, value in DATABASES.items() if value == service)
            conninfo = f"host=127.0.0.1 port={postgres.port} dbname={database}"
            with psycopg.connect(conninfo, user=found["username"], password=found["password"]) as connection:
                is_member = connection.execute("SELECT pg_has_role(%s, 'member')", (f"{service}_service",)).fetchone()
                assert is_member == (True,)
            if "kv" in asked:
                kept = bao.request("GET", f"secret/data/{asked['kv']['path']}", token=token)
                assert kept["data"]["data"] == {"api-key": "key-of-the-provider"}
            role = bao.request("GET", f"auth/kubernetes/role/{name}")["data"]
            assert role["bound_service_account_names"] == [name] and name in role["token_policies"]
    finally:
        bao.process.stop()
        with postgres.connect() as admin:
            for database in DATABASES:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


def _vault_entries(name: str) -> dict[str, dict[str, str]]:
    """Return what a service's manifest asks of Vault, by source."""
    folder = (
        ROOT / "services" / "auth" / "deploy" if name == "auth-service" else ROOT / "examples" / "shop" / "manifests"
    )
    file = folder / ("service-identity.yaml" if name == "auth-service" else f"{name}.yaml")
    (identity,) = (one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == "ServiceIdentity")
    entries = identity["spec"]["vault"]["secrets"]
    return {source: entry[source] for entry in entries for source in ("database", "kv") if source in entry}
