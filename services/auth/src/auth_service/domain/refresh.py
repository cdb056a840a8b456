"""Refresh tokens: opaque, stored as hashes, each used once (RFC 9700, 4.14.2)."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

ACCESS_LIFETIME: Final = timedelta(minutes=15)  # of access tokens, at most
LIFETIME: Final = timedelta(days=7)
SESSION_LIFETIME: Final = timedelta(days=30)  # after that, the password is asked for again
GRACE: Final = timedelta(seconds=5)  # an answer was lost: a client's time-out and its second try are within it
LONGEST: Final = 128  # characters of a token


def new_token() -> str:
    """Return a token of 256 random bits."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> bytes:
    """Return what is stored of a token. It is random, so a plain hash can't be guessed from."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class Seen:
    """A token as stored, with the session it belongs to."""

    expires_at: datetime
    used_at: datetime | None
    successor_unused: bool  # there is a successor, and nobody has used it, nor has it been replaced
    session_ends_at: datetime
    session_ended: bool
    account_disabled: bool


class Verdict(StrEnum):
    """What becomes of a token that somebody wants to use."""

    ROTATE = "rotate"
    REPEAT = "repeat"  # the answer was lost: another successor, in place of the one before
    REUSED = "reused"  # two have it: the session ends
    EXPIRED = "expired"
    ENDED = "ended"
    UNKNOWN = "unknown"

    @property
    def granted(self) -> bool:
        """Whether there is a new token."""
        return self in (Verdict.ROTATE, Verdict.REPEAT)

    @property
    def ends_session(self) -> bool:
        """Whether the session is over: it is ended, and its access tokens are revoked."""
        return self in (Verdict.REUSED, Verdict.ENDED)


def judge(seen: Seen | None, now: datetime) -> Verdict:
    """Decide on a token. One that was used before is a sign of theft, unless an answer was just lost."""
    if seen is None:
        return Verdict.UNKNOWN
    if seen.session_ended or seen.account_disabled:
        return Verdict.ENDED
    if now >= min(seen.expires_at, seen.session_ends_at):
        return Verdict.EXPIRED
    if seen.used_at is None:
        return Verdict.ROTATE
    if seen.successor_unused and now < seen.used_at + GRACE:
        return Verdict.REPEAT
    return Verdict.REUSED


def expiry(now: datetime, session_ends_at: datetime) -> datetime:
    """Return when a token that is made now expires."""
    return min(now + LIFETIME, session_ends_at)
