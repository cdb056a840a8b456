"""Logging in with the Pod's service account, and keeping that login."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serviceidentity_sdk.vault.connection import Json, Requests, grant_of, quoted
from serviceidentity_sdk.vault.errors import VaultAwayError, VaultError, VaultForbiddenError, VaultRefusedError
from serviceidentity_sdk.vault.lease import Grant, Step, next_step, next_time

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, slots=True, eq=False)
class Login:
    """A token and how long it lives. Leases end with the token that they were made with."""

    token: str = field(repr=False)
    grant: Grant


class Logins:
    """The login of one service at one server; any thread may use it."""

    def __init__(
        self,
        requests: Requests,
        role: str,
        mount: str,
        token_file: Path,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """Log in to `role` at auth/`mount` with the token in `token_file`, when it is needed first.

        `changed` is told of a new login, which has a deadline of its own.
        """
        self._requests = requests
        self._role = role
        self._path = f"auth/{quoted(mount)}/login"
        self._token_file = token_file
        self._clock = clock
        self._changed = changed
        self._closed = False
        self._lock = threading.RLock()
        self._current: Login | None = None
        self._former: list[Login] = []

    def current(self) -> Login:
        """Return the login, logging in when there is none, or it has ended. Raises VaultError."""
        with self._lock:
            if self._current is None or self._clock() >= self._current.grant.ends:
                self._replace()
            assert self._current is not None  # noqa: S101  # _replace raises otherwise
            return self._current

    def is_current(self, login: Login) -> bool:
        """Say whether a token is still that of the login. It never waits."""
        current = self._current
        return current is not None and current.token == login.token

    def ends(self, login: Login) -> float:
        """Return when a token ends, as far as it was renewed; 0 for one that is good no more. It never waits."""
        known = (self._current, *self._former)
        return next((one.grant.ends for one in known if one is not None and one.token == login.token), 0.0)

    def send(self, method: str, path: str, body: Json | None = None) -> tuple[Json, Login]:
        """Send a request with the login's token; once more with a new one when that is good no more."""
        login = self.current()
        try:
            return self._requests.send(method, path, body, login.token), login
        except VaultForbiddenError:
            if self._accepts(login):
                raise
        with self._lock:
            if self.is_current(login):
                logger.info("Vault does not know the login's token any more: logging in anew")
                self._current = None
        login = self.current()
        return self._requests.send(method, path, body, login.token), login

    def keep(self) -> float:
        """Renew the login if it is time, or replace it. Return when to come again; never raises VaultError."""
        with self._lock:
            now = self._clock()
            self._former = [one for one in self._former if one.grant.ends > now]
            if self._current is None:
                return float("inf")
            try:
                match next_step(self._current.grant, now):
                    case Step.RENEW:
                        self._renew(self._current)
                    case Step.REPLACE:
                        self._replace()
            except VaultError as error:
                logger.warning("the login at Vault is not renewed: %s", error)
                self._current = Login(self._current.token, self._current.grant.failed(now))
            return next_time(self._current.grant)

    def revoke(self) -> None:
        """Revoke the login and those before it, with all leases that hang on them."""
        with self._lock:
            self._closed = True
            ending = [*self._former, *([self._current] if self._current else [])]
            self._former, self._current = [], None
        for login in ending:
            try:
                self._requests.send("post", "auth/token/revoke-self", {}, login.token)
            except VaultForbiddenError:
                logger.debug("the token was no longer good")
            except VaultError as error:
                logger.warning("a login at Vault is not revoked, and lives to its end: %s", error)

    def _renew(self, login: Login) -> None:
        now = self._clock()
        try:
            answer = self._requests.send("post", "auth/token/renew-self", {}, login.token)
        except VaultRefusedError:
            self._replace()  # revoked, or it can't be renewed
            return
        duration, renewable = grant_of(_auth(answer))
        self._current = Login(login.token, login.grant.renewed(now, duration, renewable=renewable))
        if next_step(self._current.grant, now) is Step.REPLACE:
            self._replace()  # token_max_ttl comes near

    def _replace(self) -> None:
        """Log in anew. The former token lives on, with what hangs on it."""
        if self._closed:
            raise VaultRefusedError("this client was closed")
        now = self._clock()
        try:
            proof = self._token_file.read_text().strip()  # the kubelet writes a new one long before this one ends
        except (OSError, ValueError):
            raise VaultRefusedError("the service account's token can't be read") from None
        auth = _auth(self._requests.send("post", self._path, {"role": self._role, "jwt": proof}))
        token = auth.get("client_token")
        duration, renewable = grant_of(auth)
        if not isinstance(token, str) or not token:
            raise VaultAwayError("Vault's answer can't be understood")
        if self._current is not None:
            self._former.append(self._current)
        self._current = Login(token, Grant(now, duration, duration, renewable))
        self._changed()

    def _accepts(self, login: Login) -> bool:
        """Ask whether a token is good, after something was refused to it."""
        try:
            self._requests.send("get", "auth/token/lookup-self", None, login.token)
        except VaultForbiddenError:
            return False
        return True


def _auth(answer: Json) -> dict[str, Any]:
    found = answer.get("auth")
    return found if isinstance(found, dict) else {}
