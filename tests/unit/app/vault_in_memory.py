"""Vault in memory: KV of both versions, static roles, a PKI role and a transit key. It counts what it is asked."""

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from serviceidentity.app.vault.ports import DataKey, KvSecret, Login, Signed
from serviceidentity.domain.material import Held, KeyMaterial
from serviceidentity.domain.model import Identity
from serviceidentity.errors import MissingError, RejectedError
from tests.unit.app.fake_api import FakeApi, World
from tests.unit.domain.test_remote_leaf import engine_signs
from tests.unit.pki.companies import Company, company, pem

ROOT = company("Vault root")
ISSUING = company("Vault issuing", ROOT)


@dataclass
class StaticRole:
    """A user whose password changes every `period`; as late as the server's own clock is coarse."""

    period: timedelta
    rotated: datetime
    late: timedelta = timedelta(seconds=4)
    number: int = 1

    def read(self, now: datetime) -> dict[str, Any]:
        while now >= self.rotated + self.period + self.late:
            self.rotated += self.period + self.late
            self.number += 1
        left = max(self.rotated + self.period - now, timedelta(0))
        return {
            "username": "reports",
            "password": f"password-{self.number}",
            "ttl": int(left.total_seconds()),
            "rotation_period": int(self.period.total_seconds()),
            "last_vault_rotation": self.rotated.isoformat(),
        }


@dataclass
class FakeVault:
    """`fails` is raised by whatever is asked, `refuses` by PKI and transit; `asked` counts by path."""

    now: datetime
    kv: dict[str, list[Mapping[str, Any] | None]] = field(default_factory=lambda: defaultdict(list))
    kv1: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    roles: dict[str, StaticRole] = field(default_factory=dict)
    signer: Company = ISSUING
    role_ttl: timedelta = timedelta(hours=24)
    key_version: int = 1
    changes: dict[str, Any] = field(default_factory=dict)
    fails: Exception | None = None
    refuses: Exception | None = None
    held: Held | None = None
    hangs: asyncio.Event | None = None
    asked: Counter[str] = field(default_factory=Counter)
    signed: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def client_for(self, login: Login) -> "FakeClient":
        return FakeClient(self, login)

    async def ask(self, what: str) -> None:
        self.asked[what] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.hangs is not None:
                await self.hangs.wait()
        finally:
            self.at_once -= 1
        if self.fails is not None:
            raise self.fails


@dataclass
class FakeClient:
    """The port VaultClient, as far as no lease is involved."""

    vault: FakeVault
    login: Login

    async def read_kv(self, mount: str, path: str, version: int | None) -> KvSecret:
        at = f"{mount}/{path}"
        await self.vault.ask(at)
        if at in self.vault.kv1:
            if version is not None:
                raise RejectedError("the engine has no versions")
            return KvSecret(dict(self.vault.kv1[at]))
        versions = self.vault.kv[at]
        number = version or len(versions)
        if not 1 <= number <= len(versions):
            raise MissingError("there is none")
        if (values := versions[number - 1]) is None:
            raise MissingError("it was deleted")
        return KvSecret(dict(values), number)

    async def read(self, path: str) -> Mapping[str, Any]:
        await self.vault.ask(path)
        if path not in self.vault.roles:
            raise RejectedError("there is no such role")
        return self.vault.roles[path].read(self.vault.now)

    async def sign(self, mount: str, role: str, request: Any) -> Signed:
        await self.vault.ask(f"{mount}/sign/{role}")
        if self.vault.refuses is not None:
            raise self.vault.refuses
        ends = self.vault.now + (request.lifetime or self.vault.role_ttl)
        made = engine_signs(request, self.vault.now, self.vault.signer, **({"ends": ends} | self.vault.changes))
        self.vault.signed.append(made)
        chain = [pem(one).decode() for one in self.vault.signer.path]
        return Signed(made, tuple(chain[:-1]), chain[-1])

    async def data_key(self, mount: str, key: str, bits: int) -> DataKey:
        await self.vault.ask(f"{mount}/datakey/{key}")
        if self.vault.refuses is not None:
            raise self.vault.refuses
        wrapped = f"vault:v{self.vault.key_version}:{secrets.token_hex(8)}"
        return DataKey(KeyMaterial(secrets.token_bytes(bits // 8)), wrapped)


@dataclass
class FakeConnections:
    """Everyone may use Vault: as the operator, or each as itself."""

    vault: FakeVault
    each_as_itself: bool = False
    away_for: set[str] = field(default_factory=set)

    def turned_away(self, identity: Identity) -> None:
        self.away_for.add(identity.meta.name)

    async def client(self, identity: Identity) -> Any:
        if self.vault.held is not None:
            return self.vault.held
        role = identity.vault.role if identity.vault else None
        if self.each_as_itself:
            return self.vault.client_for(Login("default", role, identity.meta.namespace, identity.service_account))
        return self.vault.client_for(Login("default", role))


class VaultWorld(World):
    """A world with a Vault whose clock is the same."""

    def __init__(self, api: FakeApi | None = None, vault: FakeVault | None = None, now: datetime | None = None) -> None:
        self._now = now
        super().__init__(api)
        self.vault = vault or FakeVault(self.now)
        if now is not None:
            self.now = now
        self.vault.now = self.now
        self.connections = FakeConnections(self.vault)
        self.sources = self.engine._identities._vault
        self.sources._connections = self.connections  # type: ignore[assignment]

    async def settle(self, advance: timedelta | None = None) -> int:
        self.vault.now = self.now + (advance or timedelta(0))
        return await super().settle(advance)

    async def until(self, seconds: int) -> None:
        """Let time pass second by second."""
        for _ in range(seconds):
            await self.settle(timedelta(seconds=1))

    async def restarted(self) -> "VaultWorld":
        """Return a new operator on the same API and Vault, at rest."""
        again = VaultWorld(self.api, self.vault, self.now)
        await again.settle()
        return again
