"""Vault as one identity may use it, through the breaker of its connection."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from serviceidentity.app.vault.breaker import Breaker
from serviceidentity.app.vault.ports import (
    DataKey,
    Grant,
    KvSecret,
    Leased,
    LeaseToken,
    Login,
    Signed,
    VaultClient,
)
from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.domain.model import Key


class GuardedClient:
    """The port VaultClient; `key` is called back if it is turned away."""

    def __init__(self, client: VaultClient, breaker: Breaker, login: Login, key: Key) -> None:
        self._login = login
        self._client = client
        self._breaker = breaker
        self._key = key

    @property
    def login(self) -> Login:
        return self._login

    async def read_kv(self, mount: str, path: str, version: int | None) -> KvSecret:
        return await self._breaker.call(self._key, lambda: self._client.read_kv(mount, path, version))

    async def read(self, path: str) -> Mapping[str, Any]:
        return await self._breaker.call(self._key, lambda: self._client.read(path))

    async def lease_token(self, ttl: timedelta, name: str, *, own_login: bool = False) -> LeaseToken:
        return await self._breaker.call(self._key, lambda: self._client.lease_token(ttl, name, own_login=own_login))

    async def issue(self, path: str, method: str, parameters: Mapping[str, str], token: LeaseToken) -> Leased:
        return await self._breaker.call(self._key, lambda: self._client.issue(path, method, parameters, token))

    async def renew(self, lease_id: str, increment: timedelta, token: LeaseToken) -> Grant:
        return await self._breaker.call(self._key, lambda: self._client.renew(lease_id, increment, token))

    async def lookup(self, lease_id: str, token: LeaseToken) -> Grant:
        return await self._breaker.call(self._key, lambda: self._client.lookup(lease_id, token))

    async def renew_token(self, token: LeaseToken, increment: timedelta) -> Grant:
        return await self._breaker.call(self._key, lambda: self._client.renew_token(token, increment))

    async def revoke(self, token: LeaseToken, lease_id: str) -> None:
        await self._breaker.call(self._key, lambda: self._client.revoke(token, lease_id))

    async def sign(self, mount: str, role: str, request: LeafRequest) -> Signed:
        return await self._breaker.call(self._key, lambda: self._client.sign(mount, role, request))

    async def data_key(self, mount: str, key: str, bits: int) -> DataKey:
        return await self._breaker.call(self._key, lambda: self._client.data_key(mount, key, bits))
