"""Servers of Vault or OpenBao, as VaultConnections name them: the ports `VaultServers` and `VaultServer`."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from serviceidentity.adapters.vault.client import HvacClient
from serviceidentity.adapters.vault.connection import Json, Timeouts, TlsError, VaultConnection
from serviceidentity.adapters.vault.kv import KvEngines
from serviceidentity.adapters.vault.logins import LoginMethod, loop_time
from serviceidentity.adapters.vault.methods import Methods
from serviceidentity.adapters.vault.reading import OwnSecrets
from serviceidentity.adapters.vault.sessions import Sessions
from serviceidentity.adapters.vault.settings import TokenAuth, VaultSettings, checked_address
from serviceidentity.adapters.vault.tls import TlsMaterial, context_of
from serviceidentity.app.ports import Secrets, TokenRequests
from serviceidentity.app.vault.ports import Health, Login
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.vault.spec import ConnectionSpec
from serviceidentity.errors import PortError, RetryableError, SettingsError

logger = logging.getLogger(__name__)

PROBE: Final = Timeouts(connect=2.0, read=3.0, total=5.0)
RELOAD_PAUSE: Final = 10.0  # seconds between looks at the Secrets behind TLS
# A code other than 200 for a state would be an error to the client. Sealed or standby, it is an answer.
_HEALTH: Final = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200"
_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")
_HEADER: Final = re.compile(r"[!-~]+")


class HvacServers:
    """Opens connections. Secrets that they name are read in the namespace given here: the operator's own."""

    def __init__(self, secrets: Secrets, namespace: str, tokens: TokenRequests) -> None:
        self._secrets = OwnSecrets(secrets, namespace)
        self._tokens = tokens

    async def open(self, name: str, spec: ConnectionSpec) -> "HvacServer":
        address = checked_address(spec.address, "the address")
        for value, what in ((spec.vault_namespace, "the Vault namespace"), (spec.server_name, "the server name")):
            if value is not None and not _HEADER.fullmatch(value):
                raise SettingsError(f"{what} must be printable, and have no spaces")
        settings = VaultSettings(address, TokenAuth(), namespace=spec.vault_namespace)
        server = HvacServer(spec, settings, self._secrets, self._tokens)
        try:
            await server.load()
        except PortError:
            await server.close(revoke=False)
            raise
        return server


class HvacServer:
    """One server."""

    def __init__(
        self, spec: ConnectionSpec, settings: VaultSettings, secrets: OwnSecrets, tokens: TokenRequests
    ) -> None:
        self._spec = spec
        self._secrets = secrets
        self._tls: TlsMaterial | None = None
        self._loading = asyncio.Lock()
        self._looked = -RELOAD_PAUSE
        server_name, unqualified = spec.server_name, VaultSettings(settings.address, settings.auth)
        self._requests = VaultConnection(settings, threads=max(spec.in_flight, 1), server_name=server_name)
        # A connection of its own, so that requests that hang do not keep anybody from asking how the server is. Without
        # Vault namespace: its state is that of the server.
        self._probes = VaultConnection(unqualified, threads=1, timeouts=PROBE, server_name=server_name)
        self._connection = _Reloading(self._requests, self._reload)
        self._methods = Methods(spec.auth, secrets, tokens)
        self._sessions = Sessions(self._method, self._connection, max(spec.in_flight, 1))
        self._kv = KvEngines()

    async def load(self) -> bool:
        """Read what TLS is made of; say whether it is other than before. Raises SettingsError and RetryableError."""
        async with self._loading:
            self._looked = loop_time()
            found = await self._secrets.tls(self._spec)
            if found == self._tls:
                return False
            context = await asyncio.to_thread(context_of, found)
            self._requests.use(context)
            self._probes.use(context)
            self._tls = found
            return True

    async def health(self) -> Health:
        try:
            answer = await self._probe()
        except RetryableError as error:
            return Health(reachable=False, trusted=not isinstance(error, TlsError))
        except PortError:
            # It answers, though it does not say how it is: those who ask for more are told what is wrong.
            return Health(reachable=True, initialized=True)
        except Exception:
            logger.exception("the health of Vault could not be found out")
            return Health(reachable=False)
        version = str(answer.get("version"))
        return Health(
            reachable=True,
            initialized=answer.get("initialized") is True,
            sealed=answer.get("sealed") is not False,
            standby=answer.get("standby") is True,
            version=version if _VERSION.fullmatch(version) else "",
        )

    def client(self, login: Login) -> HvacClient:
        return HvacClient(self._methods.login(login), self._sessions, self._connection, self._kv)

    async def token_ttl(self, login: Login) -> timedelta | None:
        token = await self._sessions.of(self._methods.login(login)).remaining()
        return None if token.ends is None else timedelta(seconds=max(int(token.ends - loop_time()), 0))

    async def close(self, *, revoke: bool) -> None:
        await self._sessions.close(revoke=revoke)
        await self._requests.close()
        await self._probes.close()

    async def _probe(self) -> Json:
        try:
            return await self._probes.send("get", _HEALTH)
        except RetryableError:
            if not await self._reload():
                raise
        return await self._probes.send("get", _HEALTH)

    async def _reload(self) -> bool:
        """Look at the Secrets behind TLS now and then; say whether they have changed."""
        if self._spec.ca_secret is None and self._tls is not None and self._tls.certificate is None:
            return False
        if loop_time() < self._looked + RELOAD_PAUSE:
            return False
        try:
            return await self.load()
        except PortError as error:
            logger.warning("what TLS to Vault is made of can't be read anew: %s", error)
            return False

    def _method(self, login: Login) -> LoginMethod:
        method = self._methods.method(login)
        return method if self._tls is None or self._tls.certificate is None else _WithCertificate(method, self.load)


class _Reloading:
    """A connection that looks after its authorities when the server can't be verified any more."""

    def __init__(self, connection: VaultConnection, reload: Callable[[], Awaitable[bool]]) -> None:
        self._connection = connection
        self._reload = reload

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        try:
            return await self._connection.send(method, path, body, token)
        except TlsError:
            if not await self._reload():
                raise
        return await self._connection.send(method, path, body, token)

    async def close(self) -> None:
        await self._connection.close()


class _WithCertificate:
    """A login that shows the client certificate as it is now."""

    def __init__(self, method: LoginMethod, load: Callable[[], Awaitable[bool]]) -> None:
        self.given = method.given
        self._method = method
        self._load = load

    async def log_in(self, connection: Any, refused: KeyMaterial | None) -> Any:
        await self._load()
        return await self._method.log_in(connection, refused)
