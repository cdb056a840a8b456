"""Lease tokens, and the leases that hang on them.

What a lease's token may do besides reading the credentials is in the policy `default`: renew and look up leases,
renew and revoke itself.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

from serviceidentity.adapters.vault.connection import (
    NO_ANSWER,
    Connection,
    Json,
    data_of,
    explained,
    made_of,
    quoted,
    said,
)
from serviceidentity.adapters.vault.logins import Token, granted, loop_time
from serviceidentity.adapters.vault.session import Session
from serviceidentity.app.vault.ports import Grant, Leased, LeaseToken
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, RetryableError

logger = logging.getLogger(__name__)

_GONE: Final = frozenset({"lease not found", "invalid lease"})  # renewing says the one, looking up the other
_NO_LEASE: Final = "there is no such lease any more"
_ENDED: Final = "the token of the lease is no more"


class VaultLeases:
    """Leases of one login."""

    def __init__(self, session: Session, connection: Connection) -> None:
        self._session = session
        self._connection = connection

    async def token(self, ttl: timedelta, name: str, *, own_login: bool = False) -> LeaseToken:
        """Make a token for one lease, as the port says."""
        if own_login and self._session.method.given:
            raise RejectedError("a token that was given can't log in once more")
        login = await self._session.token()
        # A child without parent has the policies of the token, and not those of its entity and groups.
        if not login.of_entity and not own_login:
            body = {
                "ttl": _seconds(ttl),
                "display_name": name,
                "meta": {"serviceidentity": name},
                "renewable": True,
                "type": "service",
            }
            try:
                answer = await self._session.request("post", "auth/token/create-orphan", body)
            except (RejectedError, MissingError):
                # Also 400 means that: tokens of type batch, and those for so many uses, have no children.
                logger.debug("the login may not make tokens")
            else:
                return _lease_token(_made(answer))
        return await self._own_login(ttl)

    async def issue(self, path: str, method: str, parameters: Mapping[str, str], token: LeaseToken) -> Leased:
        """Have credentials made, with `token`."""
        where, body = quoted(path), None
        if method.upper() != "GET":
            body = dict(parameters)
        elif parameters:
            where += f"?{urlencode(parameters)}"
        try:
            answer = await self._connection.send(method.lower(), where, body, token.token)
        except ForbiddenError:
            raise
        except RejectedError as error:
            if (meaning := explained(error)) is not None:
                raise meaning from error
            raise
        data, lease_id = made_of(answer), str(answer.get("lease_id") or "")
        return Leased(data, lease_id, _grant(answer)) if lease_id else Leased(data)

    async def renew(self, lease_id: str, increment: timedelta, token: LeaseToken) -> Grant:
        """Ask for `increment` from now on, with `token`."""
        body = {"lease_id": lease_id, "increment": int(increment.total_seconds())}
        try:
            return _grant(await self._with(token, "put", "sys/leases/renew", body))
        except ForbiddenError:
            raise
        except RejectedError as error:
            words = said(error)
            if _GONE.intersection(words):
                raise MissingError(_NO_LEASE) from error
            await self.lookup(lease_id, token)
            raise _not_renewed(words) from error

    async def lookup(self, lease_id: str, token: LeaseToken) -> Grant:
        """Return what is left of a lease."""
        try:
            found = data_of(await self._with(token, "put", "sys/leases/lookup", {"lease_id": lease_id}))
        except ForbiddenError:
            raise
        except RejectedError as error:
            raise MissingError(_NO_LEASE) from error
        return Grant(timedelta(seconds=_number(found.get("ttl"))), bool(found.get("renewable")))

    async def renew_token(self, token: LeaseToken, increment: timedelta) -> Grant:
        """Ask that `token` lives for `increment` from now on."""
        return _grant_of(await self._renewed(token, increment))

    async def revoke(self, token: LeaseToken, lease_id: str) -> None:
        """Revoke the token with everything that hangs on it; of a shared one only the lease."""
        if token.shared:
            if lease_id:
                await self._revoke_lease(lease_id)
            return
        try:
            await self._connection.send("post", "auth/token/revoke-self", {}, token.token)
        except ForbiddenError:
            if await self._session.accepts(token.token):
                raise  # it lacks the policy `default`

    async def _revoke_lease(self, lease_id: str) -> None:
        try:
            await self._session.request("put", "sys/leases/revoke", {"lease_id": lease_id, "sync": True})
        except ForbiddenError:
            raise
        except MissingError:
            return
        except RejectedError as error:
            if not _GONE.intersection(said(error)):
                raise RetryableError("the engine could not revoke the lease") from error

    async def _own_login(self, ttl: timedelta) -> LeaseToken:
        method = self._session.method
        if not method.given:
            try:
                login = await method.log_in(self._connection, None)
            except RejectedError:
                logger.debug("there is only one login")  # a secret ID for a single use
            else:
                return await self._prolonged(_lease_token(login), ttl)
        self._session.pinned = True
        return _lease_token(await self._session.token(), shared=True)

    async def _prolonged(self, token: LeaseToken, ttl: timedelta) -> LeaseToken:
        """Let a token live as long as is needed, if it may; else as long as it was granted."""
        if token.grant is None or not token.grant.renewable or token.grant.duration >= ttl:
            return token
        try:
            grant = _grant_of(await self._renewed(token, ttl))
        except (RejectedError, MissingError):
            return token
        return LeaseToken(token.token, token.accessor, shared=False, grant=grant)

    async def _renewed(self, token: LeaseToken, increment: timedelta) -> Token:
        body = {"increment": _seconds(increment)}
        return granted(await self._with(token, "post", "auth/token/renew-self", body), token.token)

    async def _with(self, token: LeaseToken, method: str, path: str, body: Json) -> Json:
        """Send a request with a lease's token. Raises MissingError when that is no more: then its lease is neither."""
        try:
            return await self._connection.send(method, path, body, token.token)
        except ForbiddenError as error:
            if await self._session.accepts(token.token):
                raise
            raise MissingError(_ENDED) from error


def _not_renewed(words: tuple[str, ...]) -> PortError:
    """Return what a refusal to renew means, if there is the lease."""
    if any("failed to renew entry" in text and "max ttl" not in text for text in words):
        return RetryableError("the engine could not renew the lease")  # its database is away, for one
    return RejectedError("the lease can't be renewed")


def _made(answer: Json) -> Token:
    auth: Any = answer.get("auth")
    token = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(token, str) or not token:
        raise RetryableError(NO_ANSWER)
    return granted(answer, KeyMaterial(token.encode()))


def _lease_token(token: Token, *, shared: bool = False) -> LeaseToken:
    grant = None
    if token.ends is not None:  # of a shared one some time has passed since it was granted
        grant = Grant(timedelta(seconds=max(int(token.ends - loop_time() + 0.5), 0)), token.renewable)
    return LeaseToken(token.token, token.accessor, shared, grant)


def _grant_of(token: Token) -> Grant:
    return Grant(timedelta(seconds=int(token.granted)), token.renewable)


def _grant(answer: Json) -> Grant:
    return Grant(timedelta(seconds=_number(answer.get("lease_duration"))), bool(answer.get("renewable")))


def _number(value: object) -> int:
    return max(int(value), 0) if isinstance(value, int | float) else 0


def _seconds(duration: timedelta) -> str:
    return f"{max(int(duration.total_seconds()), 1)}s"
