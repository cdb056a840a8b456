"""Logging in, going on, logging out."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from auth_service.app.ports import Accounts, RevocationList, Session
from auth_service.domain import refresh
from auth_service.domain.accounts import Account, normalised
from auth_service.domain.passwords import Passwords
from auth_service.domain.refresh import ACCESS_LIFETIME
from auth_service.errors import InvalidCredentialsError, InvalidRefreshTokenError
from serviceidentity_sdk.jwt import TokenSigner

_MARGIN: Final = timedelta(minutes=1)  # a token signed while its session ends; clocks that differ
REVOKED_FOR: Final = ACCESS_LIFETIME + _MARGIN  # from the end of a session on
_AT_ONCE: Final = 4  # runs of argon2: each has 19 MiB, and a core for itself


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login or a refresh gives; times in seconds from now."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    access_seconds: int
    refresh_seconds: int


class Sessions:
    """The use cases. `now` comes from `clock`.

    An access token lives for `access_lifetime`, ACCESS_LIFETIME at most: so long, revocations are on the list, whatever
    the lifetime was when a token was signed.
    """

    def __init__(
        self,
        accounts: Accounts,
        revocations: RevocationList,
        signer: TokenSigner,
        passwords: Passwords,
        clock: Callable[[], datetime],
        *,
        access_lifetime: timedelta = ACCESS_LIFETIME,
    ) -> None:
        self._accounts = accounts
        self._revocations = revocations
        self._signer = signer
        self._passwords = passwords
        self._clock = clock
        self._lifetime = access_lifetime
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def log_in(self, name: str, password: str) -> Tokens:
        """Open a session. Raises InvalidCredentialsError, after the same work whatever is wrong; UnavailableError."""
        account = await self._accounts.find(normalised(name))
        right = await self._verified(None if account is None else account.password_hash, password)
        if account is None or account.disabled or not right:
            raise InvalidCredentialsError("name and password do not match")
        seen = account.password_hash
        if self._passwords.outdated(seen):
            seen = await self._made_anew(account, password)
        now = self._now()
        session = Session(uuid4(), account.id, now + refresh.SESSION_LIFETIME)
        token = refresh.new_token()
        if not await self._accounts.open_session(session, refresh.hashed(token), now, seen):
            raise InvalidCredentialsError("the account has changed meanwhile")
        return self._tokens(account, session, token, now)

    async def refresh(self, token: str) -> Tokens:
        """Use a refresh token. Raises InvalidRefreshTokenError, UnavailableError.

        One that was used before ends its session: whoever has the newer one is out as well, and so are the access
        tokens. When those can't be revoked the answer is UnavailableError, and the next try does it.
        """
        now, successor = self._now(), refresh.new_token()
        found = await self._accounts.rotate(refresh.hashed(token), refresh.hashed(successor), now, refresh.judge)
        if found.verdict.ends_session and found.session is not None:
            await self._revocations.revoke([found.session.id], now + REVOKED_FOR)
        if not found.verdict.granted or found.session is None or found.account is None:
            raise InvalidRefreshTokenError(found.verdict.value)
        return self._tokens(found.account, found.session, successor, now)

    async def log_out(self, account: UUID, session: UUID | None) -> None:
        """End a session, or all of an account. Raises UnavailableError: then do it again, which does no harm."""
        now = self._now()
        ended = await self._accounts.end_sessions(account, session, now, now - ACCESS_LIFETIME)
        await self._revocations.revoke(ended, now + REVOKED_FOR)

    async def _made_anew(self, account: Account, password: str) -> str:
        """Return the hash of today's cost that is stored for this password, which the account's was made of.

        When another was faster it may be another password by now.
        """
        async with self._turns:
            new = await asyncio.to_thread(self._passwords.hash, password)
        if await self._accounts.replace_hash(account.id, account.password_hash, new):
            return new
        found = await self._accounts.find(account.name)
        if found is None or not await self._verified(found.password_hash, password):
            raise InvalidCredentialsError("the account has changed meanwhile")
        return found.password_hash

    async def _verified(self, stored: str | None, password: str) -> bool:
        async with self._turns:
            return await asyncio.to_thread(self._passwords.verify, stored, password)

    def _now(self) -> datetime:
        return self._clock()

    def _tokens(self, account: Account, session: Session, token: str, now: datetime) -> Tokens:
        access = self._signer.sign(
            str(account.id),
            roles=account.roles,
            permissions=account.permissions,
            lifetime=self._lifetime,
            claims={"sid": str(session.id), "name": account.name},
        )
        left = refresh.expiry(now, session.ends_at) - now
        return Tokens(access, token, int(self._lifetime.total_seconds()), int(left.total_seconds()))
