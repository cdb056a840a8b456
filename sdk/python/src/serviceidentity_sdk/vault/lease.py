"""When a lease, or a login, is renewed, and when there must be another one instead. Pure: times are given, in seconds.

The rules are those of the operator: ask for more time at 75 % of what was *granted* last, whatever was asked for; when
less than half of the first grant is given, its maximum is near, and it is replaced while it still works.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

RENEW_AT: Final = 0.75
LAST_CALL: Final = 0.9  # what could not be renewed until then is replaced
LONGEST_PAUSE: Final = 60.0
SHORTEST_PAUSE: Final = 1.0


class Step(Enum):
    """What is to be done about a lease."""

    WAIT = "wait"
    RENEW = "renew"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Grant:
    """What Vault granted: `duration` seconds from `granted` on, the first time `first`; 0 seconds never end.

    `retry` is when to ask again after a renewal failed in passing.
    """

    granted: float
    duration: float
    first: float
    renewable: bool
    retry: float = 0.0

    @property
    def ends(self) -> float:
        """When it is over, if nobody renews it."""
        return self.granted + self.duration if self.duration else float("inf")

    @property
    def renewal(self) -> float:
        """When to ask for more time: 75 % of what was granted."""
        return self.granted + self.duration * RENEW_AT if self.duration else float("inf")

    def renewed(self, granted: float, duration: float, *, renewable: bool) -> "Grant":
        """Return it as it was renewed."""
        return Grant(granted, duration, self.first, renewable)

    def failed(self, now: float) -> "Grant":
        """Return it after a failure in passing: asked again after an eighth of what is left, a minute at most."""
        pause = min(max((self.ends - now) / 8, SHORTEST_PAUSE), LONGEST_PAUSE)
        return replace(self, retry=now + pause)


def next_step(grant: Grant, now: float) -> Step:
    """Return what is to be done now. A failure's pause holds back everything."""
    if now < grant.retry:
        return Step.WAIT
    if grant.duration * 2 < grant.first:
        return Step.REPLACE
    if now < grant.renewal:
        return Step.WAIT
    if not grant.renewable or now >= grant.granted + grant.duration * LAST_CALL:
        return Step.REPLACE
    return Step.RENEW


def next_time(grant: Grant) -> float:
    """Return when `next_step` is no longer WAIT."""
    due = grant.granted if grant.duration * 2 < grant.first else grant.renewal
    return max(due, grant.retry)
