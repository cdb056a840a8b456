"""Durations, instants and when things are due.

All instants are timezone-aware UTC and whole seconds: the API server stores times as RFC 3339 seconds, so anything
finer would make a recomputed schedule disagree with the stored one.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_WHOLE: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")

JITTER_SHARE: Final = 0.05
JITTER_LIMIT: Final = timedelta(hours=1)
BACKOFF_FIRST: Final = timedelta(minutes=1)
BACKOFF_LIMIT: Final = timedelta(hours=32)
URGENT_FIRST: Final = timedelta(seconds=15)
URGENT_LIMIT: Final = timedelta(minutes=15)
_LONGEST_DURATION: Final = timedelta(days=36525)


def parse_duration(text: str) -> timedelta:
    """Read a Go duration such as "1h30m" (units h, m, s, ms) and give whole seconds, rounded down.

    Raises ValueError on anything else, and on more than a hundred years.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError('not a duration such as "24h" or "1h30m"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > _LONGEST_DURATION.total_seconds():
        raise ValueError("longer than a hundred years")
    return timedelta(seconds=int(seconds))


def format_duration(value: timedelta) -> str:
    """Write whole seconds the way Go prints a duration, without zero parts: 90 s is "1m30s"."""
    seconds = int(value.total_seconds())
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def format_time(instant: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as the API server stores times."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=8192)  # a trust domain looks at the ends of all certificates again and again
def parse_time(text: str) -> datetime:
    """Read an RFC 3339 instant. Raises ValueError on anything else, and on one without an offset."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("an instant needs an offset from UTC")
    try:
        return instant.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise ValueError("an instant outside of the years 1 to 9999") from None


def earliest(*instants: datetime | None) -> datetime | None:
    """Return the first of the instants that are there."""
    return min((instant for instant in instants if instant is not None), default=None)


def upcoming(now: datetime, *instants: datetime | None) -> datetime | None:
    """Return the first of the instants that are still to come.

    What was due and could not be done is waiting for something to change, not for a time that has passed.
    """
    return earliest(*(instant for instant in instants if instant is not None and instant > now))


def jitter(span: timedelta, seed: str) -> timedelta:
    """Return how much earlier than promised `seed` goes: 0 to 5 % of `span`, an hour at most, always the same.

    It spreads a thousand credentials that were issued in the same second. It is a hash and not a random number, so
    that a restarted operator computes the same schedule.
    """
    most = min(span * JITTER_SHARE, JITTER_LIMIT)
    fraction = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) / 2**32
    return timedelta(seconds=int(most.total_seconds() * fraction))


def renewal_time(issued: datetime, expires: datetime, lead: timedelta | None, seed: str) -> datetime:
    """Return when to replace something that lives from `issued` to `expires`.

    `lead` is how long before the end; none, or one that does not fit into the real lifetime (which the issuer may have
    cut short), means a third of it. Jitter moves the result earlier, never later. For a lifetime of three seconds and
    more: issued < renewal < expires.
    """
    lifetime = expires - issued
    if lead is None or lead >= lifetime:
        lead = lifetime / 3
    wait = lifetime - lead
    due = issued + wait - jitter(wait, seed)
    return max(due.replace(microsecond=0), issued + timedelta(seconds=1))


def backoff(failed_attempts: int) -> timedelta:
    """Return how long to wait after so many failures in a row: a minute, doubling up to 32 hours."""
    doublings = min(max(failed_attempts - 1, 0), 16)
    pause: timedelta = BACKOFF_FIRST * 2**doublings
    return min(pause, BACKOFF_LIMIT)


def urgency(left: timedelta) -> timedelta:
    """Return the longest pause while something in use has only so long to live: a quarter of it, 15 seconds at least.

    What has ended already is an outage: every 15 minutes then.
    """
    return max(left / 4, URGENT_FIRST) if left > timedelta(0) else URGENT_LIMIT
