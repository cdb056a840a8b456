"""What the use cases need of Vault or OpenBao. Adapters implement these; tests may fake them.

Every method raises only subclasses of PortError: RetryableError (away, sealed, slow, 429, 5xx), ForbiddenError (403),
MissingError (404), RejectedError (every other refusal). Messages are fixed: neither what the server wrote nor a secret
is ever in them. Durations are those of the server, in whole seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.vault.spec import ConnectionSpec


@dataclass(frozen=True, slots=True)
class Login:
    """Whose login: through which connection, in which role, as which service account.

    `namespace` and `service_account` are empty when the operator itself logs in. There is one login for each of these.
    """

    connection: str
    role: str | None = None
    namespace: str = ""
    service_account: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """How a server says it is. `version` is empty when it does not answer."""

    reachable: bool
    initialized: bool = False
    sealed: bool = False
    standby: bool = False
    version: str = ""
    trusted: bool = True  # False: it is not reachable because its certificate could not be verified

    @property
    def serves(self) -> bool:
        """Say whether requests can be answered: a standby passes them on."""
        return self.reachable and self.initialized and not self.sealed


@dataclass(frozen=True, slots=True)
class Grant:
    """What the server grants a lease or token: so long from now on. `renewable` says whether more can be had later."""

    duration: timedelta
    renewable: bool


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The token that a lease hangs on: when it is revoked, so is the lease.

    `shared` means that it is the login itself, for want of the right to make one: then it must not be revoked.
    `grant` None means that it never ends.
    """

    token: KeyMaterial
    accessor: str
    shared: bool
    grant: Grant | None


@dataclass(frozen=True, slots=True)
class KvSecret:
    """A secret of a KV engine; `version` is None on an engine of version 1."""

    values: Mapping[str, Any] = field(repr=False)
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Leased:
    """Credentials that were made on request, and their lease; without `lease_id` they have none."""

    values: Mapping[str, Any] = field(repr=False)
    lease_id: str = ""
    grant: Grant = field(default_factory=lambda: Grant(timedelta(0), renewable=False))


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate, those above it without the root, and the root or the last that is known; each in PEM."""

    certificate: str
    chain: tuple[str, ...]
    authority: str


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key in plain, and wrapped by the transit engine."""

    plaintext: KeyMaterial
    wrapped: str


class VaultClient(Protocol):
    """One server, as one login may use it. A login that the server refuses is replaced once."""

    @property
    def login(self) -> Login:
        """Whose login it is: what one reads with it is not for others to see."""
        ...

    async def read_kv(self, mount: str, path: str, version: int | None) -> KvSecret:
        """Read a secret; the engine's version is found out once for each mount.

        MissingError: there is none, or this version of it was deleted or destroyed. RejectedError: a version is asked
        for of an engine that has none.
        """
        ...

    async def read(self, path: str) -> Mapping[str, Any]:
        """Read a path without lease; return the data."""
        ...

    async def lease_token(self, ttl: timedelta, name: str, *, own_login: bool = False) -> LeaseToken:
        """Make a token for one lease, alive for `ttl` if the server grants that; `name` is shown in Vault's audit log.

        It does not end with the login. Without the right to `auth/token/create-orphan` it is a login of its own, and
        where there is no way to log in once more it is the login itself, `shared`. With `own_login` it is a login of
        its own from the first; RejectedError where there is no way to log in once more.
        """
        ...

    async def issue(self, path: str, method: str, parameters: Mapping[str, str], token: LeaseToken) -> Leased:
        """Have credentials made, with `token`."""
        ...

    async def renew(self, lease_id: str, increment: timedelta, token: LeaseToken) -> Grant:
        """Ask for `increment` from now on, with `token`. MissingError: there is no such lease (any more)."""
        ...

    async def lookup(self, lease_id: str, token: LeaseToken) -> Grant:
        """Return what is left of a lease. MissingError: there is no such lease (any more)."""
        ...

    async def renew_token(self, token: LeaseToken, increment: timedelta) -> Grant:
        """Ask that `token` lives for `increment` from now on. MissingError: it is no more."""
        ...

    async def revoke(self, token: LeaseToken, lease_id: str) -> None:
        """Revoke the token with everything that hangs on it; of a shared one only the lease.

        One that is gone already is no error. An empty `lease_id` with a shared token does nothing.
        """
        ...

    async def sign(self, mount: str, role: str, request: LeafRequest) -> Signed:
        """Have a certificate signed by the default issuer of a PKI engine, as the role allows."""
        ...

    async def data_key(self, mount: str, key: str, bits: int) -> DataKey:
        """Have a data key made by a transit engine."""
        ...


class VaultServer(Protocol):
    """One server that a connection names."""

    async def health(self) -> Health:
        """Ask how it is; never raises."""
        ...

    def client(self, login: Login) -> VaultClient:
        """Return the server as `login` may use it; nobody logs in before the first request."""
        ...

    async def token_ttl(self, login: Login) -> timedelta | None:
        """Log in if need be and return how long the login's token lives still; None when it never ends."""
        ...

    async def close(self, *, revoke: bool) -> None:
        """Stop renewing logins, revoke those that nothing hangs on if `revoke`, and close all connections."""
        ...


class VaultServers(Protocol):
    """Opens connections."""

    async def open(self, name: str, spec: ConnectionSpec) -> VaultServer:
        """Return the server of a connection; nothing is sent yet. SettingsError: what the spec names can't be used."""
        ...
