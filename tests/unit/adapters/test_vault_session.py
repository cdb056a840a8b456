"""Vault without a server: the settings that are understood, and a login that several requests share."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hvac.exceptions
import pytest

from serviceidentity.adapters.vault.connection import ForbiddenError, Json, translated
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import KubernetesAuth, TokenAuth, VaultSettings, from_environment
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import PortError, RejectedError, RetryableError, SettingsError

ADDRESS = {"VAULT_ADDR": "https://vault.example.org:8200/"}


def test_settings_are_those_of_the_environment(tmp_path: Path):
    ca = tmp_path / "ca.pem"
    ca.touch()
    given = from_environment(ADDRESS | {"VAULT_TOKEN": "t", "VAULT_CACERT": str(ca), "VAULT_NAMESPACE": "team"})
    assert given == VaultSettings("https://vault.example.org:8200", TokenAuth(token=KeyMaterial(b"t")), str(ca), "team")
    assert from_environment(ADDRESS | {"SIO_VAULT_TOKEN_FILE": "/token"}).auth == TokenAuth(file=Path("/token"))
    given = from_environment(ADDRESS | {"SIO_VAULT_ROLE": "operator", "SIO_VAULT_AUTH_MOUNT": "k8s/one"})
    assert isinstance(given.auth, KubernetesAuth)
    assert (given.auth.role, given.auth.mount) == ("operator", "k8s/one")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"VAULT_TOKEN": "t"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "vault:8200", "VAULT_TOKEN": "t"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "ftp://vault", "VAULT_TOKEN": "t"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://u:p@vault", "VAULT_TOKEN": "t"}, "nothing else"),
        (ADDRESS, "exactly one"),
        (ADDRESS | {"VAULT_TOKEN": ""}, "exactly one"),
        (ADDRESS | {"VAULT_TOKEN": "t", "SIO_VAULT_ROLE": "r"}, "exactly one"),
        (ADDRESS | {"VAULT_TOKEN": "t", "VAULT_CACERT": "/nowhere"}, "VAULT_CACERT"),
    ],
)
def test_settings_that_make_no_sense_are_told(environment: Mapping[str, str], told: str):
    with pytest.raises(SettingsError, match=told):
        from_environment(environment)


class Server:
    """Answers as a server would that grants logins of some length."""

    def __init__(self, granted: int = 0) -> None:
        self.granted = granted
        self.good: set[bytes] = set()
        self.asked: Counter[str] = Counter()

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        await asyncio.sleep(0)
        self.asked[path] += 1
        if path == "auth/kubernetes/login":
            made = f"t{self.asked[path]}"
            self.good.add(made.encode())
            return {"auth": {"client_token": made, "lease_duration": self.granted, "renewable": True}}
        if token is None or token.reveal() not in self.good or path == "forbidden":
            raise ForbiddenError("no")
        return {"data": {}}

    async def close(self) -> None: ...


def session_with(server: Server, tmp_path: Path) -> VaultSession:
    (tmp_path / "jwt").write_text("jwt")
    auth = KubernetesAuth("operator", token_file=tmp_path / "jwt")
    return VaultSession(VaultSettings("https://vault", auth), server)


def test_many_requests_share_one_login(tmp_path: Path):
    async def run() -> None:
        server = Server()
        session = session_with(server, tmp_path)
        await asyncio.gather(*(session.request("get", "something") for _ in range(20)))
        assert server.asked == {"auth/kubernetes/login": 1, "something": 20}

    asyncio.run(run())


def test_a_revoked_login_is_made_anew_once_for_all(tmp_path: Path):
    async def run() -> None:
        server = Server()
        session = session_with(server, tmp_path)
        await session.request("get", "something")
        server.good.clear()
        await asyncio.gather(*(session.request("get", "something") for _ in range(20)))
        assert server.asked["auth/kubernetes/login"] == 2

    asyncio.run(run())


def test_what_the_policy_forbids_does_not_log_in_again(tmp_path: Path):
    async def run() -> None:
        server = Server()
        session = session_with(server, tmp_path)
        for _ in range(3):
            with pytest.raises(RejectedError):
                await session.request("get", "forbidden")
        assert server.asked["auth/kubernetes/login"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (hvac.exceptions.Forbidden, ForbiddenError),
        (hvac.exceptions.InvalidRequest, RejectedError),
        (hvac.exceptions.VaultDown, RetryableError),
        (hvac.exceptions.RateLimitExceeded, RetryableError),
        (hvac.exceptions.InternalServerError, RetryableError),
        (hvac.exceptions.BadGateway, RetryableError),
        (hvac.exceptions.UnexpectedError, RetryableError),
    ],
)
def test_every_error_means_something_and_repeats_nothing(error: type[Exception], meaning: type[PortError]):
    found = translated(error("the server's own words"))
    assert type(found) is meaning
    assert "own words" not in str(found)
