"""When a lease is renewed, and when there must be another one instead.

Each decision depends on the lease as it was last granted and on the time, and on nothing that a restart would lose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.schedule import format_duration, format_time, jitter, parse_duration, parse_time
from serviceidentity.domain.vault.views import Lease

LEASE_LOST: Final = "LeaseLost"
LEASE_ENDING: Final = "LeaseEnding"
_SECOND: Final = timedelta(seconds=1)
_AGREES: Final = timedelta(seconds=2)  # both sides round to seconds, and a question takes a moment
_PAUSE_LIMIT: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask for more time."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Have other credentials made: these end, or have ended."""

    reason: str
    message: str


Step = Renew | Replace
Check = Callable[[Lease, datetime], Step | None]


def renewal_time(lease: Lease) -> datetime:
    """Return when to ask for more time: the last whole second before 75 % of what was granted last.

    Jitter only moves it earlier. For two seconds and more: granted < renewal < 75 % of the duration.
    """
    seconds = int(lease.duration.total_seconds())
    wait = timedelta(seconds=max(-(-seconds * 3 // 4) - 1, 0))
    early = jitter(wait, f"{lease.lease_id} {format_time(lease.granted)}")
    return lease.granted + (max(wait - early, _SECOND) if wait else wait)


def last_call(lease: Lease) -> datetime:
    """When others must be made of what could not be renewed: with a tenth of the duration left, a second at least."""
    tenth = timedelta(seconds=int(lease.duration.total_seconds() / 10))
    return max(lease.ends - max(tenth, _SECOND), renewal_time(lease))


def retry_time(lease: Lease, now: datetime) -> datetime:
    """When to ask again after a renewal has failed in passing: after an eighth of what is left, a minute at most."""
    if now >= lease.ends:
        return now + _PAUSE_LIMIT
    eighth = timedelta(seconds=int((lease.ends - now).total_seconds() / 8))
    return now + min(max(eighth, _SECOND), _PAUSE_LIMIT)


def deadline(lease: Lease) -> datetime | None:
    """When something has to be done about the lease next; None when that is now, or over."""
    if lease.lost is not None or _is_cut(lease):
        return None
    return renewal_time(lease)


def gone(lease: Lease, _now: datetime) -> Step | None:
    """Vault does not know it, or does not let its own token use it, any more."""
    return Replace(LEASE_LOST, lease.lost) if lease.lost is not None else None


def over(lease: Lease, now: datetime) -> Step | None:
    """Nobody renewed it in time."""
    return Replace(LEASE_LOST, f"the lease ended at {format_time(lease.ends)}") if now >= lease.ends else None


def cut_short(lease: Lease, _now: datetime) -> Step | None:
    """Vault granted less than half of what it granted at first: max_ttl, of the role or of the token, comes near.

    It is replaced at once, so that what is left of it is there for those who still use it.
    """
    if not _is_cut(lease):
        return None
    granted = format_duration(lease.duration)
    return Replace(LEASE_ENDING, f"Vault granted only {granted} more, of {format_duration(lease.first)} at first")


def not_renewable(lease: Lease, now: datetime) -> Step | None:
    """Vault does not renew it: it is replaced when it would have been renewed."""
    if lease.renewable or now < renewal_time(lease):
        return None
    return Replace(LEASE_ENDING, f"the lease can't be renewed and ends at {format_time(lease.ends)}")


def not_renewed(lease: Lease, now: datetime) -> Step | None:
    """It should have been renewed and was not: the last chance to have other credentials before these end."""
    if now < last_call(lease):
        return None
    return Replace(LEASE_ENDING, f"the lease was not renewed in time and ends at {format_time(lease.ends)}")


def due(lease: Lease, now: datetime) -> Step | None:
    """Three quarters of the duration are over."""
    return Renew() if now >= renewal_time(lease) else None


STEPS: Final[tuple[Check, ...]] = (gone, over, cut_short, not_renewable, not_renewed, due)


def next_step(lease: Lease, now: datetime) -> Step | None:
    """Return what is to be done about a lease now."""
    return next((step for check in STEPS if (step := check(lease, now)) is not None), None)


def may_renew(lease: Lease, now: datetime) -> bool:
    """Say whether to ask for more time: until the very end, because what is renewed late needs no replacement."""
    if any(check(lease, now) is not None for check in (gone, over, cut_short)):
        return False
    return lease.renewable and now >= renewal_time(lease) and now > lease.granted


def report(lease: Lease) -> dict[str, Any]:
    """Return its part of the status: from this and the annotation it can be rebuilt."""
    return {
        "id": lease.lease_id,
        "issueTime": format_time(lease.issued),
        "duration": format_duration(lease.duration),
        "lastRenewalTime": format_time(lease.granted),
        "renewalTime": format_time(renewal_time(lease)),
        "expireTime": format_time(lease.ends),
        "renewable": lease.renewable,
    }


def rebuilt(begun: Lease, left: timedelta | None, renewable: bool | None, told: Mapping[str, Any]) -> Lease:
    """Return a lease as it is, after a restart.

    `begun` is the lease as it began, `left` and `renewable` what Vault says now (None when it can't be asked), where
    `begun.granted` is when it was asked; `told` is what the status says. The status counts while Vault's word agrees
    with it, so that a restart changes nothing. Without it the last grant is taken to be as long as the first: the
    renewal comes no later for that.
    """
    known = _told(begun, told)
    if left is None:
        return known
    asked, ends = begun.granted, begun.granted + left
    if renewable is None:
        renewable = begun.renewable
    if abs(known.ends - ends) <= _AGREES and known.granted <= asked:
        return Lease(
            begun.lease_id, begun.issued, known.granted, known.duration, begun.first, known.renewable and renewable
        )
    duration = max(begun.first, left)
    return Lease(begun.lease_id, begun.issued, ends - duration, duration, begun.first, renewable)


def _told(begun: Lease, told: Mapping[str, Any]) -> Lease:
    """Return the lease as the status tells of it, else as it began."""
    first = Lease(begun.lease_id, begun.issued, begun.issued, begun.first, begun.first, begun.renewable)
    try:
        if told["id"] != begun.lease_id:
            return first
        granted, duration = parse_time(told["lastRenewalTime"]), parse_duration(told["duration"])
        renewable = told["renewable"] is True
    except (KeyError, TypeError, ValueError):
        return first
    return Lease(begun.lease_id, begun.issued, granted, duration, begun.first, renewable)


def _is_cut(lease: Lease) -> bool:
    return lease.duration * 2 < lease.first
