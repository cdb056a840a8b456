"""What the use cases need of the world."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from auth_service.domain.accounts import Account
from auth_service.domain.refresh import Seen, Verdict


@dataclass(frozen=True, slots=True)
class Session:
    """From a login to its logout; each refresh goes on with it."""

    id: UUID
    account: UUID
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a refresh token. Without a session the token is unknown."""

    verdict: Verdict
    session: Session | None = None
    account: Account | None = field(default=None, repr=False)


class Accounts(Protocol):
    """Accounts and their sessions. Every method is one transaction, and raises errors.UnavailableError."""

    async def find(self, name: str) -> Account | None:
        """Return the account of a normalised name."""
        ...

    async def replace_hash(self, account: UUID, old: str, new: str) -> bool:
        """Store another hash of the same password. Say no when the stored one is not `old` any more."""
        ...

    async def open_session(self, session: Session, token: bytes, now: datetime, password_hash: str) -> bool:
        """Store a session with the hash of its first refresh token.

        Say no when the account is disabled by now, or has another password than the one with this hash.
        """
        ...

    async def rotate(
        self, token: bytes, successor: bytes, now: datetime, judge: Callable[[Seen | None, datetime], Verdict]
    ) -> Rotation:
        """Use a token, in turn with everybody else who uses one of its session; store what `judge` says."""
        ...

    async def end_sessions(self, account: UUID, session: UUID | None, now: datetime, since: datetime) -> list[UUID]:
        """End one session of an account, or all; return those, and of the ones asked for those ended since."""
        ...


class RevocationList(Protocol):
    """Where access tokens are revoked. Raises errors.UnavailableError."""

    async def revoke(self, sessions: list[UUID], until: datetime) -> None:
        """Refuse the access tokens of these sessions; the last of them expires at `until`."""
        ...
