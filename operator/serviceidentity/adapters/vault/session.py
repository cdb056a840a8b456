"""One login, shared by all who talk to a server: made when it is first needed, renewed before it ends.

A token is renewed for as long as the server grants that, because what it was given hangs on it (leases end with their
token). Only then, or when the server refuses it, is there a new login.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serviceidentity.adapters.vault.connection import Connection, ForbiddenError, Json
from serviceidentity.adapters.vault.settings import KubernetesAuth, TokenAuth, VaultSettings
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import PortError, RejectedError, SettingsError

logger = logging.getLogger(__name__)

RENEW_AT: Final = 2 / 3  # of what was granted
RETRY_PAUSE: Final = 5.0
SHORTEST_PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Login:
    """A token, and what the server granted with it. Times are those of the event loop; `ends` None means never."""

    token: KeyMaterial
    renewable: bool
    granted: float
    ends: float | None

    def is_over(self, now: float) -> bool:
        """Say whether the server has forgotten the token by now."""
        return self.ends is not None and now >= self.ends


class VaultSession:
    """Requests as whom the settings say."""

    def __init__(self, settings: VaultSettings, connection: Connection) -> None:
        self._auth = settings.auth
        self._connection = connection
        self._login: Login | None = None
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Send one request, logged in. A token that the server refuses is replaced, once. Raises as `send` does."""
        token = await self._token()
        try:
            return await self._connection.send(method, path, body, token)
        except ForbiddenError:
            if await self._is_accepted(token):
                raise  # it is the policy
            await self._give_up(token)
        return await self._connection.send(method, path, body, await self._token(refused=token))

    async def keep(self) -> None:
        """Renew the login in time; runs until cancelled."""
        while True:
            login = self._login
            self._changed.clear()
            pause = None if login is None or login.ends is None else self._until_renewal(login)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                if login is not None and login is self._login:
                    await self._renew_or_log_in(login)

    async def close(self) -> None:
        """Close all connections. The token stays: leases may hang on it, and it ends by itself."""
        await self._connection.close()

    def _until_renewal(self, login: Login) -> float:
        left = (login.ends or 0) - _now()
        return max(left - login.granted * (1 - RENEW_AT), SHORTEST_PAUSE)

    async def _renew_or_log_in(self, login: Login) -> None:
        try:
            renewed = await self._renewed(login)
            if renewed is not None:
                self._set(renewed)
            else:
                await self._give_up(login.token)
                await self._token()
        except PortError as error:
            logger.warning("the login at Vault could not be renewed: %s", error)
            await asyncio.sleep(RETRY_PAUSE if not login.is_over(_now()) else RETRY_PAUSE * 2)

    async def _renewed(self, login: Login) -> Login | None:
        """Return the login with a new end; None when there is nothing more to gain. Raises PortError."""
        if not login.renewable or login.is_over(_now()):
            return None
        try:
            answer = await self._connection.send("post", "auth/token/renew-self", {}, login.token)
        except RejectedError:
            return None
        renewed = _login(answer, login.token)
        # What was asked for is the same as before; less means that the longest life of the token cuts it.
        return renewed if renewed.granted > login.granted / 2 else None

    async def _token(self, refused: KeyMaterial | None = None) -> KeyMaterial:
        async with self._lock:
            if self._login is None or self._login.is_over(_now()):
                self._set(await self._log_in(refused))
            return self._login.token if self._login else KeyMaterial(b"")

    def _set(self, login: Login | None) -> None:
        self._login = login
        self._changed.set()

    async def _give_up(self, token: KeyMaterial) -> None:
        async with self._lock:
            if self._login is not None and self._login.token == token:
                self._set(None)

    async def _is_accepted(self, token: KeyMaterial) -> bool:
        try:
            await self._connection.send("get", "auth/token/lookup-self", None, token)
        except ForbiddenError:
            return False
        return True

    async def _log_in(self, refused: KeyMaterial | None) -> Login:
        if isinstance(self._auth, KubernetesAuth):
            return await self._log_in_with_service_account(self._auth)
        token = self._auth.token or await _from_file(self._auth)
        if token == refused:
            raise RejectedError("Vault refuses the token that was given")
        try:
            answer = await self._connection.send("get", "auth/token/lookup-self", None, token)
        except ForbiddenError as error:
            raise RejectedError("Vault refuses the token that was given") from error
        found = answer.get("data") or {}
        # Whole seconds: the last one of a token that ends shows as 0, as does one that never ends.
        left = found.get("ttl") or (1 if found.get("expire_time") else 0)
        granted = {"lease_duration": left, "renewable": found.get("renewable")}
        return _login({"auth": granted}, token)

    async def _log_in_with_service_account(self, auth: KubernetesAuth) -> Login:
        jwt = await asyncio.to_thread(_read, auth.token_file, "the service account's token")
        body = {"role": auth.role, "jwt": jwt}
        try:
            answer = await self._connection.send("post", f"auth/{auth.mount}/login", body)
        except RejectedError as error:
            raise RejectedError(f"Vault refuses to log in role {auth.role} with the service account's token") from error
        token = (answer.get("auth") or {}).get("client_token")
        if not isinstance(token, str) or not token:
            raise RejectedError("Vault gave no token")
        return _login(answer, KeyMaterial(token.encode()))


def _login(answer: Json, token: KeyMaterial) -> Login:
    """Read what was granted; a lease of 0 seconds is one without end, as that of a root token."""
    auth = answer.get("auth") or {}
    granted = float(auth.get("lease_duration") or 0)
    return Login(token, bool(auth.get("renewable")), granted, _now() + granted if granted else None)


async def _from_file(auth: TokenAuth) -> KeyMaterial:
    if auth.file is None:
        raise SettingsError("there is no token for Vault")
    return KeyMaterial((await asyncio.to_thread(_read, auth.file, "the token for Vault")).encode())


def _read(file: Path, what: str) -> str:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{what} can't be read from its file") from None
    if not text.isascii() or not text.isprintable() or not text:
        raise SettingsError(f"the file of {what} holds no token")
    return text


def _now() -> float:
    return asyncio.get_running_loop().time()
