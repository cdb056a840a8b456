"""Words for the contract tests of the PKI engine: work with the rights of a policy, at this time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from serviceidentity.adapters.vault.connection import VaultConnection
from serviceidentity.adapters.vault.pki import VaultPki
from serviceidentity.adapters.vault.session import VaultSession
from serviceidentity.adapters.vault.settings import TokenAuth, VaultSettings
from serviceidentity.domain.material import KeyMaterial
from tests.controlplane import OpenBao

T = TypeVar("T")


def during(bao: OpenBao, work: Callable[[VaultPki], Awaitable[T]], policy: str = "operator") -> T:
    """Run some work with the operator's rights, or with those of another policy."""
    token = bao.request("POST", "auth/token/create", {"policies": [policy]})["auth"]["client_token"]
    settings = VaultSettings(bao.address, TokenAuth(token=KeyMaterial(token.encode())))

    async def run() -> T:
        session = VaultSession(settings, VaultConnection(settings))
        try:
            return await work(VaultPki(session))
        finally:
            await session.close()

    return asyncio.run(run())


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
