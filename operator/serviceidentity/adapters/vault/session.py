"""One login, shared by all who talk to a server: made when it is first needed, renewed before it ends.

A token is renewed for as long as the server grants that, because what it was given hangs on it (leases end with their
token). Only then, or when the server refuses it, is there a new login.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from serviceidentity.adapters.vault.connection import Connection, Json
from serviceidentity.adapters.vault.logins import (
    GivenToken,
    LoginMethod,
    MethodLogin,
    Token,
    from_file,
    granted,
    loop_time,
)
from serviceidentity.adapters.vault.settings import KubernetesAuth, TokenAuth, VaultSettings
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, SettingsError

logger = logging.getLogger(__name__)

RENEW_AT: Final = 2 / 3  # of what was granted
RETRY_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0
SHORTEST_PAUSE: Final = 0.5
REFUSED_FOR: Final = 2.0  # seconds in which a login that was refused is not tried again: many may want it at once


class Session:
    """Requests as whom a way to log in says. `pinned` means that something hangs on the login itself."""

    def __init__(self, method: LoginMethod, connection: Connection, changed: Callable[[], None] = lambda: None) -> None:
        """Log in with `method` when that is needed; `changed` is called whenever there is another token, or none."""
        self.method = method
        self.pinned = False
        self.last_used = 0.0
        self._connection = connection
        self._changed = changed
        self._token: Token | None = None
        self._login: asyncio.Task[Token] | None = None
        self._refused: PortError | None = None
        self._refused_until = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._blind = False

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Send one request, logged in. A token that the server refuses is replaced, once. Raises as `send` does."""
        token = (await self.token()).token
        try:
            return await self._connection.send(method, path, body, token)
        except ForbiddenError:
            if not await self._is_lost(token):
                raise  # it is the policy
            self._give_up(token)
        token = (await self.token(refused=token)).token
        try:
            return await self._connection.send(method, path, body, token)
        except ForbiddenError:
            await self._is_lost(token, is_new=True)
            raise

    async def token(self, refused: KeyMaterial | None = None) -> Token:
        """Return the login's token, after logging in if need be. Raises PortError."""
        self.last_used = loop_time()
        if self._token is not None and not self._token.is_over(loop_time()):
            return self._token
        if self._login is None:
            if self._refused is not None and loop_time() < self._refused_until:
                raise type(self._refused)(str(self._refused))
            self._login = asyncio.create_task(self._log_in(refused))
            self._login.add_done_callback(_heard)
        # Shielded: whoever does not want to wait any more must not lose a login that the server has made.
        return await asyncio.shield(self._login)

    async def remaining(self) -> Token:
        """Return the login's token after making sure that the server knows it. Raises PortError."""
        token = await self.token()
        if not await self._is_lost(token.token):
            return token
        self._give_up(token.token)
        token = await self.token(refused=token.token)
        await self._is_lost(token.token, is_new=True)
        return token

    async def accepts(self, token: KeyMaterial) -> bool:
        """Say whether the server knows a token, any token. Raises PortError."""
        try:
            await self._connection.send("get", "auth/token/lookup-self", None, token)
        except ForbiddenError:
            return False
        return True

    def holds(self, token: KeyMaterial) -> bool:
        """Say whether this is the login's token."""
        return self._token is not None and self._token.token == token

    @property
    def renewal_due(self) -> float | None:
        """When to call `renew`; None: not before there is another token."""
        token = self._token
        if token is None or token.ends is None:
            return None
        return max(token.ends - token.granted * (1 - RENEW_AT), self._not_before)

    async def renew(self) -> Token | None:
        """Renew the login. Return what can't be renewed any more, and was given up: the next request logs in anew."""
        token = self._token
        if token is None:
            return None
        try:
            renewed = await self._renewed(token)
        except PortError as error:
            logger.warning("the login at Vault could not be renewed: %s", error)
            self._failures += 1
            self._not_before = loop_time() + min(RETRY_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE)
            if not token.is_over(loop_time()):
                return None
            renewed = None
        if renewed is not None:
            self._set(renewed)
            return None
        self._give_up(token.token)
        return token

    async def end(self) -> None:
        """Revoke the login, unless its token is somebody else's or something hangs on it. Raises PortError."""
        if self._login is not None:
            await asyncio.wait([self._login])
        token, self._token = self._token, None
        if token is not None:
            await self.revoke(token)

    async def revoke(self, token: Token) -> None:
        """Revoke a token of this login, unless it is somebody else's or something hangs on it. Raises PortError."""
        if self.method.given or self.pinned or token.is_over(loop_time()):
            return
        try:
            await self._connection.send("post", "auth/token/revoke-self", {}, token.token)
        except ForbiddenError:
            return  # it is gone already

    async def _is_lost(self, token: KeyMaterial, *, is_new: bool = False) -> bool:
        """Say whether the server has forgotten a token before its end.

        Without the policy `default` no token may ask about itself. That is found out with a new one; from then on a
        refusal is taken for the policy's, because otherwise each of them would leave a login behind.
        """
        if self._blind:
            return False
        lost = not await self.accepts(token)
        self._blind = lost and is_new
        return lost

    async def _renewed(self, token: Token) -> Token | None:
        """Return the login with a new end; None when there is nothing more to gain. Raises RetryableError."""
        if not token.renewable or token.is_over(loop_time()):
            return None
        try:
            answer = await self._connection.send("post", "auth/token/renew-self", {}, token.token)
        except (RejectedError, MissingError):
            return None
        renewed = granted(answer, token.token)
        # What was asked for is the same as before; less means that the longest life of the token cuts it.
        return renewed if renewed.granted > token.granted / 2 else None

    async def _log_in(self, refused: KeyMaterial | None) -> Token:
        try:
            token = await self.method.log_in(self._connection, refused)
        except (RejectedError, SettingsError) as error:
            if not self.method.given:
                self._refused, self._refused_until = error, loop_time() + REFUSED_FOR
            raise
        finally:
            self._login = None
        self._refused = None
        self._set(token)
        return token

    def _set(self, token: Token | None) -> None:
        self._token = token
        self._failures, self._not_before = 0, loop_time() + SHORTEST_PAUSE
        self._changed()

    def _give_up(self, token: KeyMaterial) -> None:
        if self.holds(token):
            self._set(None)


class VaultSession(Session):
    """Requests as whom the settings say: one login, kept alive for as long as the operator runs."""

    def __init__(self, settings: VaultSettings, connection: Connection) -> None:
        self._woken = asyncio.Event()
        super().__init__(_method(settings.auth), connection, self._woken.set)

    async def keep(self) -> None:
        """Renew the login in time; runs until cancelled."""
        while True:
            self._woken.clear()
            due = self.renewal_due
            try:
                async with asyncio.timeout_at(due):
                    await self._woken.wait()
            except TimeoutError:
                if await self.renew() is not None:
                    await self._replace()

    async def close(self) -> None:
        """Close all connections. The token stays: leases may hang on it, and it ends by itself."""
        await self._connection.close()

    async def _replace(self) -> None:
        try:
            await self.token()
        except PortError as error:
            logger.warning("Vault does not let us log in: %s", error)


def _method(auth: TokenAuth | KubernetesAuth) -> LoginMethod:
    if isinstance(auth, KubernetesAuth):
        return _with_service_account(auth)

    async def given() -> KeyMaterial:
        if auth.token is not None:
            return auth.token
        if auth.file is None:
            raise SettingsError("there is no token for Vault")
        return await from_file(auth.file, "the token for Vault")

    return GivenToken(given)


def _with_service_account(auth: KubernetesAuth) -> LoginMethod:
    async def proof() -> Json:
        jwt = await from_file(auth.token_file, "the service account's token")
        return {"role": auth.role, "jwt": jwt.reveal().decode()}

    refusal = f"Vault refuses to log in role {auth.role} with the service account's token"
    return MethodLogin(auth.mount, proof, refusal)


def _heard(task: asyncio.Task[Token]) -> None:
    """Take note of how a login went, so that nobody complains when all who waited for it are gone."""
    if not task.cancelled():
        task.exception()
