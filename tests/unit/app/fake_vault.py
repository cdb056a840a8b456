"""Vault in memory: servers that tests take away and bring back, and that count what is asked of them."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from serviceidentity.app.vault.ports import Health, KvSecret, Login
from serviceidentity.domain.vault.spec import ConnectionSpec
from serviceidentity.errors import PortError, RetryableError

SERVING = Health(reachable=True, initialized=True, version="2.7.2")
SEALED = Health(reachable=True, initialized=True, sealed=True, version="2.7.2")
STANDBY = Health(reachable=True, initialized=True, standby=True, version="2.7.2")
NEW = Health(reachable=True, version="2.7.2")
UNTRUSTED = Health(reachable=False, trusted=False)
GONE = Health(reachable=False)


class FakeServer:
    """The port VaultServer. `health_now` is how it is; `broken` are the paths that fail though it serves."""

    def __init__(self, spec: ConnectionSpec) -> None:
        self.spec = spec
        self.health_now = SERVING
        self.broken: set[str] = set()
        self.takes = 0.01
        self.probe_takes = 0.01
        self.login: PortError | timedelta | None = timedelta(hours=1)
        self.requests: Counter[str] = Counter()
        self.times: list[float] = []
        self.probes: list[float] = []
        self.logins: list[Login] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed: bool | None = None

    async def health(self) -> Health:
        self.probes.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.probe_takes)
        return self.health_now

    def client(self, login: Login) -> "FakeClient":
        self.logins.append(login)
        return FakeClient(self, login)

    async def token_ttl(self, login: Login) -> timedelta | None:
        await self.answer("login")
        if isinstance(self.login, PortError):
            raise self.login
        return self.login

    async def close(self, *, revoke: bool) -> None:
        self.closed = revoke

    async def answer(self, path: str) -> None:
        self.requests[path] += 1
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.in_flight -= 1
        if not self.health_now.serves or path in self.broken:
            raise RetryableError("Vault failed")


class FakeClient:
    """As much of the port VaultClient as is asked for here."""

    def __init__(self, server: FakeServer, login: Login) -> None:
        self._server = server
        self.login = login

    async def read_kv(self, mount: str, path: str, version: int | None) -> KvSecret:
        await self._server.answer(path)
        return KvSecret({"path": path}, version)

    async def read(self, path: str) -> Mapping[str, Any]:
        await self._server.answer(path)
        return {"path": path}


class FakeServers:
    """The port VaultServers. `refuses` is raised instead of opening anything."""

    def __init__(self) -> None:
        self.opened: list[FakeServer] = []
        self.tried = 0
        self.refuses: PortError | None = None

    async def open(self, name: str, spec: ConnectionSpec) -> FakeServer:
        self.tried += 1
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        self.opened.append(FakeServer(spec))
        return self.opened[-1]

    @property
    def server(self) -> FakeServer:
        return self.opened[-1]
