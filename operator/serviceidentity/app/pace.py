"""Turns: when thousands of certificates are to be replaced at once, so many a second and no more."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.domain.model import Key, TrustDomain

KEPT: Final = timedelta(minutes=1)  # a turn that nobody took is forgotten after it


@dataclass(slots=True)
class _Line:
    """The end of a trust domain's line: the last second that has turns, and how many."""

    second: datetime
    taken: int = 0


class Pace:
    """Gives each identity that asks a turn. Used from one event loop; a restart lines everyone up anew."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line] = {}
        self._turns: dict[Key, datetime] = {}
        self._asked: datetime | None = None

    def turn(self, key: Key, domain: TrustDomain, now: datetime) -> datetime:
        """Return when it is the identity's turn; asked again before that, the same. A turn that has come is taken."""
        if self._asked is not None and now < self._asked:  # the clock was put back: turns of before are far away
            self._lines.clear()
            self._turns.clear()
        self._asked = now
        at = self._turns.get(key)
        if at is None:
            at = self._next(domain, now)
        if at > now:
            self._turns[key] = at
        else:
            self._turns.pop(key, None)
        return at

    def _next(self, domain: TrustDomain, now: datetime) -> datetime:
        line = self._lines.setdefault(domain.key, _Line(now))
        if line.second < now:
            line.second, line.taken = now, 0
            self._turns = {key: at for key, at in self._turns.items() if at > now - KEPT}
        if line.taken >= domain.reissues_per_second:
            line.second, line.taken = line.second + timedelta(seconds=1), 0
        line.taken += 1
        return line.second
