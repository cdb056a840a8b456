"""Who may go through which connection, and as whom; and the servers behind the connections."""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Wake
from serviceidentity.app.vault.breaker import AwayError, Breaker, BusyError
from serviceidentity.app.vault.guard import GuardedClient
from serviceidentity.app.vault.ports import Health, Login, VaultServer, VaultServers
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import Identity, Key, vault_connection_key
from serviceidentity.domain.policy.checks import DenialReason
from serviceidentity.domain.vault import connection_status as status
from serviceidentity.domain.vault.connection_status import Found, Problem
from serviceidentity.domain.vault.spec import (
    DEFAULT_CONNECTION,
    AllowedNamespaces,
    Auth,
    CertificateAuth,
    ConnectionSpec,
    JwtAuth,
    KubernetesAuth,
    LoginAs,
)
from serviceidentity.errors import InvalidSpecError, PortError, SettingsError

logger = logging.getLogger(__name__)

TRY_AGAIN: Final = timedelta(seconds=30)  # to open a connection that names what is not there
LAST_ANSWERS: Final = 15.0  # seconds that requests have when their connection is closed


@dataclass(frozen=True, slots=True)
class _Opened:
    """A server that is in use, and what was said of the connection when it was opened."""

    spec: ConnectionSpec
    server: VaultServer
    breaker: Breaker


@dataclass(frozen=True, slots=True)
class _Unusable:
    """What stood in the way of opening a connection."""

    spec: ConnectionSpec
    problem: Problem
    since: datetime


class Connections:
    """The connections that there are. A server is opened when it is first needed, once."""

    def __init__(
        self,
        inventory: Inventory,
        servers: VaultServers | None,
        clock: Clock,
        wake: Wake,
        default: ConnectionSpec | None = None,
    ) -> None:
        """`default` is what the environment says of the connection of that name; an object says it better."""
        self._inventory = inventory
        self._servers = servers
        self._clock = clock
        self._wake = wake
        self._default = default
        self._opened: dict[str, _Opened] = {}
        self._unusable: dict[str, _Unusable] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def spec(self, name: str) -> ConnectionSpec | Held:
        """Return what is said of a connection: by its object, or by the environment if there is none."""
        entry = self._inventory.connections.entries.get(name)
        if entry is not None and not entry.meta.deleting:
            if isinstance(entry.spec, InvalidSpecError):
                return Held(
                    "VaultConnectionInvalid", f"VaultConnection {name} is invalid: its status says what is wrong"
                )
            return entry.spec.spec
        if name == DEFAULT_CONNECTION and self._default is not None:
            return self._default
        more = ", nor was the operator started with VAULT_ADDR" if name == DEFAULT_CONNECTION else ""
        return Held("VaultConnectionNotFound", f"VaultConnection {name} does not exist{more}")

    def is_of_environment(self, name: str) -> bool:
        """Say whether a connection that somebody may use has no object."""
        return self.spec(name) is self._default and self._default is not None and bool(self._default.allowed.names)

    async def client(self, identity: Identity) -> GuardedClient | Held:
        """Return Vault as the identity may use it, or why it can't; then it is woken when that changes."""
        if identity.vault is None:
            raise LookupError("the identity asks nothing of Vault")
        name = identity.vault.connection
        spec = self.spec(name)
        if isinstance(spec, Held):
            return spec
        if (refused := self._refused(name, spec, identity.meta.namespace)) is not None:
            return refused
        login = login_of(name, spec.auth, identity)
        if isinstance(login, Held):
            return login
        return await self._client(login, spec, identity.key)

    async def client_of(self, login: Login, key: Key) -> GuardedClient | Held:
        """Return Vault as a login that was used before, for what has to be given back; `key` is called back.

        It does not ask who is allowed: what was had while it was allowed can always be returned.
        """
        spec = self.spec(login.connection)
        return spec if isinstance(spec, Held) else await self._client(login, spec, key)

    async def examine(self, name: str, spec: ConnectionSpec) -> Found | None:
        """Find out whether a connection is of use; None when that can't be told now."""
        opened = await self._open(name, spec, again=True)
        if isinstance(opened, Problem):
            return Found(opened)
        health = await opened.breaker.look()
        found = Found(problem_of(health), health.version, health.sealed if health.reachable else None)
        if found.problem is None and opened.breaker.is_open:
            return None  # a standby that may be about to be elected: what was told before stays until that is known
        if found.problem is not None or _identities_log_in(spec.auth):
            return found
        login = Login(name, _role_of(spec.auth))
        try:
            left = await opened.breaker.call(None, lambda: opened.server.token_ttl(login))
        except (AwayError, BusyError):
            return None  # its breaker wakes the connection when it is away, and the next look tells it
        except PortError as error:
            return replace(found, problem=_login_problem(error))
        return replace(found, own_login=True, token_ttl=left)

    def call_back_users(self, name: str) -> None:
        """Wake the identities that use a connection, as many at a time as may ask."""
        users, opened = self._inventory.connections.users(name), self._opened.get(name)
        if opened is not None:
            opened.breaker.call_back(sorted(users))
        else:
            self._wake(users)

    def turned_away(self, identity: Identity) -> None:
        """Take note that the identity has to be called back, though somebody else asked for it."""
        opened = self._opened.get(identity.vault.connection) if identity.vault else None
        if opened is not None and opened.breaker.is_open:
            opened.breaker.call_back([identity.key])

    def forget(self, name: str) -> None:
        """The connection is gone: close it when what is under way has ended."""
        self._unusable.pop(name, None)
        if (opened := self._opened.pop(name, None)) is not None:
            self._close_later(opened)

    async def close(self) -> None:
        """Close all connections, and revoke the logins that nothing hangs on."""
        opened, self._opened = list(self._opened.values()), {}
        # Side by side: one that does not answer must not use up the time of the others.
        await asyncio.gather(*(_closed(one) for one in opened), *self._closing, return_exceptions=True)

    def _refused(self, name: str, spec: ConnectionSpec, namespace: str) -> Held | None:
        """Return why identities of a namespace may not use a connection; None when they may."""
        seen = self._inventory.namespaces.get(namespace)
        if seen is None:
            return Held(DenialReason.NAMESPACE_NOT_SEEN, f"Namespace {namespace} has not been seen yet")
        if spec.allowed.admits(namespace, seen.labels):
            return None
        if spec is self._default:
            who = "the connection of VAULT_ADDR: SIO_VAULT_ALLOWED_NAMESPACES says who may"
        else:
            who = f"VaultConnection {name}: its spec.allowedNamespaces says who may"
        return Held("NamespaceNotAllowed", f"namespace {namespace} may not use {who}")

    async def _client(self, login: Login, spec: ConnectionSpec, key: Key) -> GuardedClient | Held:
        opened = await self._open(login.connection, spec)
        if isinstance(opened, Problem):
            return Held(opened.reason, f"VaultConnection {login.connection} can't be used: {opened.message}")
        return GuardedClient(opened.server.client(login), opened.breaker, login, key)

    async def _open(self, name: str, spec: ConnectionSpec, *, again: bool = False) -> _Opened | Problem:
        """Return the server of a connection. `again` tries what could not be opened."""
        async with self._opening.setdefault(name, asyncio.Lock()):
            opened = self._opened.get(name)
            if opened is not None and _same_server(opened.spec, spec):
                if opened.spec.in_flight != spec.in_flight:
                    opened.breaker.resize(spec.in_flight)
                self._opened[name] = replace(opened, spec=spec)
                return self._opened[name]
            known = self._unusable.get(name)
            if known is not None and known.spec == spec and not again and self._clock() < known.since + TRY_AGAIN:
                return known.problem
            found = await self._opened_anew(name, spec)
            if isinstance(found, Problem):
                self._unusable[name] = _Unusable(spec, found, self._clock())
                return found
            self.forget(name)
            self._opened[name] = found
            return found

    async def _opened_anew(self, name: str, spec: ConnectionSpec) -> _Opened | Problem:
        if self._servers is None:
            return Problem(status.NOT_CONFIGURED, "the operator was started without a way to Vault")
        try:
            server = await self._servers.open(name, spec)
        except PortError as error:
            return Problem(status.SETTINGS_UNUSABLE, str(error))
        changed = partial(self._wake, [vault_connection_key(name)])
        return _Opened(spec, server, Breaker(name, server.health, spec.in_flight, self._clock, self._wake, changed))

    def _close_later(self, opened: _Opened) -> None:
        async def close() -> None:
            await opened.breaker.close()
            await opened.breaker.drained(LAST_ANSWERS)
            await opened.server.close(revoke=True)

        task = asyncio.create_task(close(), name=f"close {opened.breaker.name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(opened: _Opened) -> None:
    await opened.breaker.close()
    await opened.server.close(revoke=True)


def login_of(name: str, auth: Auth, identity: Identity) -> Login | Held:
    """Return who logs in for an identity.

    Where it does so itself, Vault knows which roles its service account may take. Where the operator does, for
    everyone, only the connection says in which role: who could name one would choose among the operator's rights.
    """
    wanted = identity.vault.role if identity.vault else None
    if isinstance(auth, KubernetesAuth) and auth.login_as is LoginAs.IDENTITY:
        role = wanted or auth.role or identity.service_account
        return Login(name, role, identity.meta.namespace, identity.service_account)
    role_given = _role_of(auth)
    if wanted is not None and wanted != role_given:
        return Held("VaultRoleNotAllowed", f"spec.vault.role: the operator logs in for VaultConnection {name}, not you")
    return Login(name, role_given)


def problem_of(health: Health) -> Problem | None:
    """Return why a server can't be used, as its health says."""
    if not health.reachable and not health.trusted:
        return Problem(status.UNTRUSTED, "the server's certificate can't be verified with the authorities in spec.tls")
    if not health.reachable:
        return Problem(status.UNREACHABLE, "the server does not answer")
    if not health.initialized:
        return Problem(status.NOT_INITIALIZED, "the server is not initialized")
    if health.sealed:
        return Problem(status.SEALED, "the server is sealed")
    return None


def _login_problem(error: PortError) -> Problem:
    """Return what it means that the operator could not log in, though the server serves."""
    reason = status.SETTINGS_UNUSABLE if isinstance(error, SettingsError) else status.LOGIN_FAILED
    return Problem(reason, f"the operator can't log in: {error}")


def _role_of(auth: Auth) -> str | None:
    return auth.role if isinstance(auth, KubernetesAuth | JwtAuth | CertificateAuth) else None


def _identities_log_in(auth: Auth) -> bool:
    return isinstance(auth, KubernetesAuth) and auth.login_as is LoginAs.IDENTITY


def _same_server(one: ConnectionSpec, other: ConnectionSpec) -> bool:
    """Say whether what differs, if anything, is no reason to connect anew."""
    anyone = AllowedNamespaces()
    return replace(one, allowed=anyone, in_flight=1) == replace(other, allowed=anyone, in_flight=1)
