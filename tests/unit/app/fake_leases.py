"""A Vault in memory that keeps leases: they hang on tokens, end in time and with their token, and are counted.

The rules are those measured against OpenBao: a lease may be granted for longer than its token lives, and ends with it;
renewing sets the end anew, up to max_ttl; what is gone is refused.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from serviceidentity.app.vault.ports import Grant, Leased, LeaseToken, Login
from serviceidentity.domain.material import Held, KeyMaterial
from serviceidentity.domain.model import Identity, Key
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, RetryableError
from tests.unit.app.fake_api import FakeApi, FakeConfigMaps, World
from tests.unit.domain.builders import T0

AWAY = RetryableError("Vault does not answer")
LONGEST = timedelta(hours=768)


class KilledError(BaseException):
    """The process has ended: nothing that it would do afterwards has any effect."""


class Fuse:
    """Kills the process at its n-th step, which is before or after something happens outside of it."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.steps = 0
        self.dead = False

    def step(self) -> None:
        if self.dead:
            raise KilledError
        self.steps += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.dead = True
                raise KilledError

    def reset(self, left: int | None = None) -> None:
        self.left, self.dead, self.steps = left, False, 0


@dataclass
class Token:
    name: str
    made: datetime
    ends: datetime | None
    longest: datetime | None
    renewable: bool
    revoked: bool = False


@dataclass
class MadeLease:
    lease_id: str
    token: Token
    issued: datetime
    ends: datetime
    longest: datetime
    renewable: bool
    renewals: list[datetime] = field(default_factory=list)
    revoked: bool = False


class FakeVault:
    """One server with one role for credentials; a test sets how it grants, and what it refuses."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.ttl, self.max_ttl = timedelta(hours=1), timedelta(hours=24)
        self.renewable = True
        self.token_longest = LONGEST
        self.token_renewable = True
        self.shared = False
        self.no_lease = False
        self.entity_rights = False
        self.away = False
        self.refuse: dict[str, PortError] = {}
        self.calls: Counter[str] = Counter()
        self.tokens: dict[bytes, Token] = {}
        self.made: list[MadeLease] = []
        self.fuse = Fuse()
        self.slow: timedelta | None = None
        self._numbers = itertools.count(1)
        self.login_token = Token("login", T0, None, None, renewable=True)
        self.tokens[b"login"] = self.login_token

    def lives(self, token: Token) -> bool:
        return not token.revoked and (token.ends is None or token.ends > self.clock())

    def alive(self, made: MadeLease) -> bool:
        return not made.revoked and made.ends > self.clock() and self.lives(made.token)

    def living(self) -> list[MadeLease]:
        """The leases that are alive: each is a user of the database."""
        return [made for made in self.made if self.alive(made)]

    def lease_tokens(self) -> list[Token]:
        return [token for token in self.tokens.values() if token is not self.login_token and self.lives(token)]

    def find(self, lease_id: str) -> MadeLease | None:
        return next((made for made in self.made if made.lease_id == lease_id and self.alive(made)), None)

    def grant_token(self, token: Token, ttl: timedelta) -> None:
        now = self.clock()
        token.ends = now + ttl if token.longest is None else min(now + ttl, token.longest)


class FakeClient:
    """Implements the port VaultClient, as far as leases go."""

    def __init__(self, vault: FakeVault, login: Login) -> None:
        self.vault = vault
        self.login = login

    async def lease_token(self, ttl: timedelta, name: str, *, own_login: bool = False) -> LeaseToken:
        async with Request(self.vault, "lease_token"):
            vault, now = self.vault, self.vault.clock()
            if vault.shared:
                ends = vault.login_token.ends
                grant = None if ends is None else Grant(ends - now, vault.login_token.renewable)
                return LeaseToken(KeyMaterial(b"login"), "accessor-login", shared=True, grant=grant)
            token = Token(
                f"own login {name}" if own_login else name, now, None, now + vault.token_longest, vault.token_renewable
            )
            vault.grant_token(token, ttl)
            material = f"token-{next(vault._numbers)}".encode()
            vault.tokens[material] = token
            return LeaseToken(
                KeyMaterial(material), "accessor", shared=False, grant=Grant(token.ends - now, token.renewable)
            )

    async def issue(self, path: str, method: str, parameters: Mapping[str, str], token: LeaseToken) -> Leased:
        async with Request(self.vault, "issue"):
            vault, now = self.vault, self.vault.clock()
            holder = self._token(token)
            if vault.entity_rights and not holder.name.startswith("own login"):
                raise ForbiddenError("403")
            number = next(vault._numbers)
            values = {"username": f"v-{number}", "password": f"pw-{number}"}
            if vault.no_lease:
                return Leased(values)
            longest = now + vault.max_ttl
            made = MadeLease(f"{path}/{number}", holder, now, min(now + vault.ttl, longest), longest, vault.renewable)
            vault.made.append(made)
            return Leased(values, made.lease_id, Grant(made.ends - now, made.renewable))

    async def renew(self, lease_id: str, increment: timedelta, token: LeaseToken) -> Grant:
        async with Request(self.vault, "renew"):
            self._token(token)
            made, now = self._lease(lease_id), self.vault.clock()
            if not made.renewable:
                raise RejectedError("the lease can't be renewed")
            made.ends = min(now + increment, made.longest)
            made.renewals.append(now)
            return Grant(made.ends - now, renewable=True)

    async def lookup(self, lease_id: str, token: LeaseToken) -> Grant:
        async with Request(self.vault, "lookup"):
            self._token(token)
            made = self._lease(lease_id)
            return Grant(made.ends - self.vault.clock(), made.renewable)

    async def renew_token(self, token: LeaseToken, increment: timedelta) -> Grant:
        async with Request(self.vault, "renew_token"):
            holder = self._token(token)
            if not holder.renewable:
                raise RejectedError("the token can't be renewed")
            self.vault.grant_token(holder, increment)
            return Grant(holder.ends - self.vault.clock(), holder.renewable)

    async def revoke(self, token: LeaseToken, lease_id: str) -> None:
        async with Request(self.vault, "revoke"):
            if token.shared:
                for made in self.vault.made:
                    made.revoked |= made.lease_id == lease_id
            elif token.token.reveal() in self.vault.tokens:
                self.vault.tokens[token.token.reveal()].revoked = True

    def _token(self, token: LeaseToken) -> Token:
        found = self.vault.tokens.get(token.token.reveal())
        if found is None or not self.vault.lives(found):
            raise MissingError("the token of the lease is no more")
        return found

    def _lease(self, lease_id: str) -> MadeLease:
        made = self.vault.find(lease_id)
        if made is None:
            raise MissingError("there is no such lease any more")
        return made


class Request:
    """One request: what it does happens on leaving, so that a process may die before it, and not hear of it after."""

    def __init__(self, vault: FakeVault, name: str) -> None:
        self.vault, self.name = vault, name

    async def __aenter__(self) -> None:
        self.vault.fuse.step()
        await asyncio.sleep(0)
        self.vault.calls[self.name] += 1
        if self.vault.away:
            raise AWAY
        if (error := self.vault.refuse.get(self.name)) is not None:
            raise error

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.vault.fuse.step()


class FakeConnections:
    """Implements Connections: one connection, which may be missing or refused."""

    def __init__(self, vault: FakeVault) -> None:
        self.vault = vault
        self.held: Held | None = None
        self.gone = False

    async def client(self, identity: Identity) -> FakeClient | Held:
        return self.held or self._client(Login("default", "app"))

    async def client_of(self, login: Login, key: Key) -> FakeClient | Held:
        return self._client(login)

    def _client(self, login: Login) -> FakeClient | Held:
        if self.gone:
            return Held("VaultConnectionNotFound", "VaultConnection default does not exist")
        return FakeClient(self.vault, login)


class FusedApi(FakeApi):
    """An API server whose client may die before and after each request."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def _write(self, verb: str) -> int:
        self.fuse.step()
        return super()._write(verb)

    async def create(self, *args: Any) -> Any:
        return self._after(await super().create(*args))

    async def replace(self, *args: Any) -> Any:
        return self._after(await super().replace(*args))

    async def delete(self, *args: Any) -> Any:
        return self._after(await super().delete(*args))

    async def patch(self, *args: Any) -> Any:
        return self._after(await super().patch(*args))

    def _after(self, answer: Any) -> Any:
        self.fuse.step()
        return answer


class LeaseWorld(World):
    """A world with a Vault. `restart` makes a new operator on what there is."""

    def __init__(self, before: "LeaseWorld | None" = None) -> None:
        self.now = before.now if before else T0
        now = self.now
        self.vault = before.vault if before else FakeVault(lambda: self.now)
        self.vault.clock = lambda: self.now
        self.connections = FakeConnections(self.vault)
        if before:
            self.connections.held, self.connections.gone = before.connections.held, before.connections.gone
        api = before.api if before else FusedApi(self.vault.fuse)
        super().__init__(api, before.maps if before else FakeConfigMaps())
        parts = (self.engine._identities._vault, self.engine._leases)
        for part in parts:
            part._connections = self.connections  # type: ignore[assignment]
        self.now = now

    @property
    def records(self) -> list[str]:
        """The names of the records that there are."""
        return sorted(name for namespace, name in self.api.stored if name.startswith("vault-lease-"))

    def lease(self, key: Key, index: int = 0) -> dict[str, Any]:
        return dict(self.status(key)["vault"][index]["lease"])

    def drop(self, key: Key) -> None:
        """Delete the identity: the garbage collector takes what it owns."""
        body = self.api.objects.pop(key)
        self.engine.wake(self.engine.inventory.drop_identity(key.namespace, key.name, body["metadata"]["uid"]))
        self.collect_garbage()

    def collect_garbage(self) -> None:
        uids = {body["metadata"]["uid"] for body in self.api.objects.values()}
        for at, view in list(self.api.stored.items()):
            owners = [owner["uid"] for owner in view.owners]
            if owners and not uids.intersection(owners):
                del self.api.stored[at]
                self.engine.wake(self.engine.inventory.drop_secret(*at, view.uid))

    async def run_until(self, end: datetime) -> None:
        """Let time pass, from one deadline to the next."""
        await self.settle()
        while (due := self.engine.queue.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            await self.settle()
        self.now = end
        await self.settle()

    async def run_for(self, **span: float) -> None:
        await self.run_until(self.now + timedelta(**span))

    async def settle(self, advance: timedelta | None = None) -> int:
        """As the world's, but for a process that may die: then whatever it was doing is over."""
        if advance:
            self.now += advance
        before = self.engine.counters.passes
        self.engine.queue.wake_due()
        self.engine.start()
        while len(self.engine.queue) and not self.vault.fuse.dead:
            await asyncio.sleep(0)
        await self.engine.stop()
        for timer in self.engine._retries.values():
            timer.cancel()  # what failed in passing is woken by hand: real time does not pass here
        retried, self.engine._retries = list(self.engine._retries), {}
        self.retried = retried
        return self.engine.counters.passes - before


def database(**entry: Any) -> dict[str, Any]:
    """A spec with one set of credentials."""
    return {"vault": {"secrets": [{"name": "db", "database": {"role": "orders"}} | entry]}}
