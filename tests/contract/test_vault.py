"""The Vault adapter's base against a real OpenBao: who we are there, and what its answers mean."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from serviceidentity.adapters.vault.connection import VaultConnection
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import KubernetesAuth, TokenAuth, VaultSettings
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import MissingError, PortError, RejectedError, RetryableError, SettingsError
from tests.controlplane import ControlPlane, OpenBao, start_control_plane
from tests.controlplane.logins import add_login_role, enable_kubernetes_auth

pytestmark = pytest.mark.contract
T = TypeVar("T")

READER = 'path "secret/data/*" { capabilities = ["read"] }'


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    server.start()
    try:
        server.request("POST", "secret/data/kept", {"data": {"answer": "42"}})
        server.request("PUT", "sys/policies/acl/reader", {"policy": READER})
        yield server
    finally:
        server.stop()


def new_token(bao: OpenBao, **options: Any) -> str:
    made = bao.request("POST", "auth/token/create", {"policies": ["reader"], **options})
    return str(made["auth"]["client_token"])


def with_token(bao: OpenBao, token: str | Path) -> VaultSettings:
    auth = TokenAuth(file=token) if isinstance(token, Path) else TokenAuth(token=KeyMaterial(token.encode()))
    return VaultSettings(bao.address, auth)


def during(settings: VaultSettings, work: Callable[[VaultSession], Awaitable[T]]) -> T:
    """Run some work with a session that is kept alive."""

    async def run() -> T:
        session = VaultSession(settings, VaultConnection(settings))
        keeping = asyncio.create_task(session.keep())
        try:
            return await work(session)
        finally:
            keeping.cancel()
            await session.close()

    return asyncio.run(run())


async def reads_for(seconds: float, session: VaultSession) -> None:
    """Read again and again: it must work each time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert await read(session)
        await asyncio.sleep(0.1)


async def read(session: VaultSession, path: str = "secret/data/kept") -> Any:
    return (await session.request("get", path))["data"]["data"]


def test_a_token_reads_what_its_policy_allows_and_no_more(bao: OpenBao):
    settings = with_token(bao, new_token(bao))
    assert during(settings, read) == {"answer": "42"}
    with pytest.raises(RejectedError, match="does not allow this"):
        during(settings, lambda session: session.request("get", "sys/mounts"))
    with pytest.raises(MissingError):
        during(settings, lambda session: read(session, "secret/data/other"))


def test_a_bad_token_is_refused_and_never_told(bao: OpenBao):
    with pytest.raises(RejectedError, match="refuses the token") as refused:
        during(with_token(bao, "s.made-up"), read)
    assert "made-up" not in repr(refused.value)


def test_a_revoked_token_is_replaced_by_what_its_file_holds_now(bao: OpenBao, tmp_path: Path):
    file, first = tmp_path / "token", new_token(bao)
    file.write_text(first + "\n")

    async def work(session: VaultSession) -> None:
        await read(session)
        await asyncio.to_thread(bao.request, "POST", "auth/token/revoke", {"token": first})
        with pytest.raises(RejectedError, match="refuses the token"):
            await read(session)
        file.write_text(new_token(bao))
        assert await read(session) == {"answer": "42"}

    during(with_token(bao, file), work)


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"])
def test_a_file_without_a_token_is_told(bao: OpenBao, tmp_path: Path, content: bytes | None):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError):
        during(with_token(bao, file), read)


def test_a_login_is_renewed_before_it_ends(bao: OpenBao):
    token = new_token(bao, ttl="2s", explicit_max_ttl="1h")
    during(with_token(bao, token), lambda session: reads_for(3, session))


def test_a_login_that_reaches_its_longest_life_is_made_anew(bao: OpenBao, tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(new_token(bao, ttl="2s", explicit_max_ttl="2s"))

    async def work(session: VaultSession) -> None:
        await read(session)
        file.write_text(new_token(bao))
        await reads_for(3, session)

    during(with_token(bao, file), work)


def test_sealed_or_away_is_worth_another_try(bao: OpenBao):
    async def work(session: VaultSession) -> None:
        await read(session)
        await asyncio.to_thread(bao.seal)
        with pytest.raises(RetryableError, match="sealed"):
            await read(session)
        await asyncio.to_thread(bao.stop)
        with pytest.raises(RetryableError, match="does not answer"):
            await read(session)
        await asyncio.to_thread(bao.start)
        assert await read(session) == {"answer": "42"}

    during(with_token(bao, bao.root_token), work)


def test_what_the_server_writes_is_in_no_message(bao: OpenBao):
    async def work(session: VaultSession) -> list[PortError]:
        told: list[PortError] = []
        for method, path, body in [
            ("post", "auth/token/renew", {"token": "s.secret-thing"}),
            ("get", "secret-thing/x", None),
            ("delete", "sys/health", None),
        ]:
            try:
                await session.request(method, path, body)
            except PortError as error:
                told.append(error)
        return told

    told = during(with_token(bao, bao.root_token), work)
    assert len(told) == 3
    assert not [error for error in told if "secret-thing" in str(error) or "http" in str(error)]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with start_control_plane(openbao=True) as plane:
        yield plane


def test_a_service_account_logs_in(plane: ControlPlane, tmp_path: Path):
    assert plane.openbao is not None
    bao = plane.openbao
    bao.request("POST", "secret/data/kept", {"data": {"answer": "43"}})
    bao.request("PUT", "sys/policies/acl/reader", {"policy": READER})
    for name in ("another", "service"):
        plane.kubectl("create", "serviceaccount", name, "--namespace=default")
    enable_kubernetes_auth(bao, plane)
    life = {"token_ttl": "1s", "token_max_ttl": "2s"}
    add_login_role(bao, "operator", namespaces="default", service_accounts="service", policies="reader", **life)
    file = tmp_path / "jwt"
    file.write_text(plane.kubectl("create", "token", "service", "--namespace=default").stdout)

    async def work(session: VaultSession) -> None:
        assert await read(session) == {"answer": "43"}
        await reads_for(4, session)  # longer than any one login lives

    during(VaultSettings(bao.address, KubernetesAuth("operator", token_file=file)), work)
    file.write_text(plane.kubectl("create", "token", "another", "--namespace=default").stdout)
    with pytest.raises(RejectedError, match="refuses to log in role operator"):
        during(VaultSettings(bao.address, KubernetesAuth("operator", token_file=file)), read)


def test_a_server_whose_certificate_is_unknown_is_not_talked_to(plane: ControlPlane):
    settings = VaultSettings(plane.url, TokenAuth(token=KeyMaterial(b"t")))
    with pytest.raises(RetryableError, match="can't be verified"):
        during(settings, read)
