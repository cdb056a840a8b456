"""The SDK's Vault client, as a Pod's service account, against a real OpenBao, API server and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serviceidentity_sdk.vault import (
    SecretData,
    Vault,
    VaultAwayError,
    VaultForbiddenError,
    VaultMissingError,
    VaultRefusedError,
)
from tests.contract.vault_answers import eventually
from tests.contract.vault_servers import accessors
from tests.controlplane import ControlPlane, OpenBao, Postgres
from tests.controlplane.databases import add_role, enable_database, leases
from tests.controlplane.logins import add_login_role, enable_kubernetes_auth

pytestmark = pytest.mark.contract

NAMESPACE = "sdk-vault"
ROLE = "order-service"
CREDS = f"database/creds/{ROLE}"
POLICY = f"""
path "secret/data/orders/*" {{ capabilities = ["read"] }}
path "{CREDS}" {{ capabilities = ["read"] }}
"""


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane, postgres: Postgres) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"), tls=True)
    server.start()
    try:
        control_plane.kubectl("create", "namespace", NAMESPACE)
        control_plane.kubectl("create", "serviceaccount", ROLE, f"--namespace={NAMESPACE}")
        enable_kubernetes_auth(server, control_plane)
        enable_database(server, postgres)
        server.request("PUT", f"sys/policies/acl/{ROLE}", {"policy": POLICY})
        server.request("POST", "secret/data/orders/stripe", {"data": {"key": "one"}})
        add_login_role(server, ROLE, namespaces=NAMESPACE, service_accounts=ROLE, policies=ROLE)
        yield server
    finally:
        server.stop()
        control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)


@pytest.fixture
def token_file(tmp_path: Path, control_plane: ControlPlane) -> Path:
    file = tmp_path / "token"
    file.write_text(control_plane.kubectl("create", "token", ROLE, f"--namespace={NAMESPACE}").stdout)
    return file


def client(bao: OpenBao, token_file: Path, role: str = ROLE, **options: float) -> Vault:
    return Vault(bao.address, role, token_file=token_file, ca_file=str(bao.ca_file), **options)


def works(postgres: Postgres, data: SecretData) -> bool:
    return postgres.lets_in(data["username"], data["password"])


def test_values_and_what_may_not_be_read(bao: OpenBao, token_file: Path) -> None:
    before = accessors(bao)
    with client(bao, token_file) as vault:
        assert vault.kv("orders/stripe") == {"key": "one"}
        served = bao.served()
        for _ in range(50):
            vault.kv("orders/stripe")
        assert bao.served() == served + 1  # the question itself
        assert vault.kv("orders/stripe", version=1)["key"] == "one"
        assert vault.read("secret/data/orders/stripe")["metadata"]["version"] == 1
        with pytest.raises(VaultMissingError):
            vault.kv("orders/none")
        with pytest.raises(VaultForbiddenError):
            vault.kv("payments/stripe")
        assert len(accessors(bao) - before) == 1  # a refusal is no reason to log in anew
    assert accessors(bao) == before


def test_a_login_that_was_revoked_is_made_anew(bao: OpenBao, token_file: Path) -> None:
    with client(bao, token_file, cache_for=0) as vault:
        before = accessors(bao)
        vault.kv("orders/stripe")
        (accessor,) = accessors(bao) - before
        bao.request("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        assert vault.kv("orders/stripe")["key"] == "one"
        assert accessor not in accessors(bao)


def test_a_login_that_is_refused_says_so(bao: OpenBao, token_file: Path) -> None:
    with client(bao, token_file, role="none") as vault, pytest.raises(VaultRefusedError):
        vault.kv("orders/stripe")
    token_file.write_text("not a token")
    with client(bao, token_file) as vault, pytest.raises(VaultRefusedError) as error:
        vault.kv("orders/stripe")
    assert "not a token" not in str(error.value)


def test_a_sealed_vault_does_not_take_values_away(bao: OpenBao, token_file: Path) -> None:
    with client(bao, token_file, cache_for=0) as vault:
        vault.kv("orders/stripe")
        bao.seal()
        try:
            assert vault.kv("orders/stripe")["key"] == "one"
            with pytest.raises(VaultAwayError):
                vault.kv("orders/other")
        finally:
            bao.unseal()


def test_credentials_of_a_database_work_at_every_moment_through_renewals_and_replacements(
    bao: OpenBao, token_file: Path, postgres: Postgres
) -> None:
    """A lease of 2 s up to 6 s; a login of 4 s up to 8 s, with which its leases end."""
    add_role(bao, ROLE, "2s", "6s")
    add_login_role(
        bao, "short", namespaces=NAMESPACE, service_accounts=ROLE, policies=ROLE, token_ttl="4s", token_max_ttl="8s"
    )
    seen: set[str] = set()
    told: set[str] = set()
    refused: list[str] = []
    vault = client(bao, token_file, role="short")
    lease = vault.lease(CREDS)
    lease.on_change(lambda data: told.add(data["username"]))
    first = lease.current()["username"]

    def replaced_often() -> bool:
        data = lease.current()
        seen.add(data["username"])
        if not works(postgres, data):
            refused.append(data["username"])
        return len(seen) >= 4

    assert eventually(replaced_often, timeout=60)
    assert refused == []
    vault.close()
    assert seen - {first} <= told
    assert eventually(lambda: not leases(bao, CREDS))


def test_a_lease_that_was_revoked_is_replaced(bao: OpenBao, token_file: Path, postgres: Postgres) -> None:
    add_role(bao, ROLE, "2s", "60s")
    with client(bao, token_file) as vault:
        lease = vault.lease(CREDS)
        first = lease.current()["username"]
        for one in leases(bao, CREDS):
            bao.request("PUT", "sys/leases/revoke", {"lease_id": one, "sync": True})
        assert eventually(lambda: lease.current()["username"] != first)
        assert works(postgres, lease.current())
    assert eventually(lambda: not leases(bao, CREDS))
