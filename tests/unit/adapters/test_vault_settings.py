"""The connection of VAULT_ADDR, as users of Vault's own tools know its variables."""

import pytest

from serviceidentity.adapters.vault.settings import default_connection
from serviceidentity.domain.vault.spec import AllowedNamespaces, JwtAuth, TokenAuth
from serviceidentity.errors import SettingsError

ADDRESS = {"VAULT_ADDR": "https://vault.example:8200/"}


def test_a_role_logs_in_with_the_operators_service_account():
    for variable in ("VAULT_ROLE", "SIO_VAULT_ROLE"):
        found = default_connection(ADDRESS | {variable: "operator", "VAULT_NAMESPACE": "team"}, ("shop", "team-*"))
        assert found.auth == JwtAuth("kubernetes", "operator", "/var/run/secrets/kubernetes.io/serviceaccount/token")
        assert found.address == "https://vault.example:8200"
        assert found.allowed == AllowedNamespaces(("shop", "team-*"))
        assert found.vault_namespace == "team"
    elsewhere = {"SIO_VAULT_ROLE": "a", "SIO_VAULT_AUTH_MOUNT": "jwt", "SIO_VAULT_JWT_FILE": "/jwt"}
    assert default_connection(ADDRESS | elsewhere, ()).auth == JwtAuth("jwt", "a", "/jwt")


def test_a_token_is_given_or_in_a_file_and_never_shown():
    found = default_connection(ADDRESS | {"VAULT_TOKEN": "hvs.secret"}, ())
    assert isinstance(found.auth, TokenAuth)
    assert found.auth.given is not None
    assert found.auth.given.reveal() == b"hvs.secret"
    assert "hvs.secret" not in repr(found) + str(found)
    assert default_connection(ADDRESS | {"SIO_VAULT_TOKEN_FILE": "/token"}, ()).auth == TokenAuth(file="/token")


def test_authorities_are_read_from_the_file(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----")
    given = ADDRESS | {"VAULT_TOKEN": "a", "VAULT_CACERT": str(file)}
    assert default_connection(given, ()).ca == "-----BEGIN CERTIFICATE-----"
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError):
        default_connection(given, ())
    with pytest.raises(SettingsError):
        default_connection(given | {"VAULT_CACERT": str(tmp_path)}, ())


@pytest.mark.parametrize(
    "ways", [{}, {"VAULT_TOKEN": "a", "VAULT_ROLE": "b"}, {"VAULT_ROLE": "a", "SIO_VAULT_ROLE": "b"}]
)
def test_there_is_exactly_one_way_to_log_in(ways):
    with pytest.raises(SettingsError):
        default_connection(ADDRESS | ways, ())
