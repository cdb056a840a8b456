"""How many requests a client may make: the rule itself, and the same rule in memory.

A limit holds in *every* window of its length, not only in those that begin at certain times: a request is allowed when
fewer than `quota` were allowed in the `window` before it. Refused requests count for nothing, so whoever keeps knocking
gets in as soon as there is room.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final, Protocol


class Away(StrEnum):
    """What happens to requests while Redis does not answer."""

    LOCAL = "local"  # each process counts for itself: never without a limit, and never shut
    REFUSE = "refuse"  # 503: nobody gets in uncounted
    ALLOW = "allow"  # everybody gets in


@dataclass(frozen=True, slots=True)
class Limit:
    """`quota` requests in any `window` of seconds. `name` is part of the answers' headers and of the keys in Redis."""

    name: str
    quota: int
    window: float
    away: Away = Away.LOCAL
    failures_only: bool = False  # what succeeded is given back

    def __post_init__(self) -> None:
        if self.quota < 1 or not self.window >= 1:
            raise ValueError("a limit allows at least one request in at least one second")
        if not (self.name and self.name.isascii() and self.name.isprintable() and not {'"', "\\"} & set(self.name)):
            raise ValueError("the name of a limit is printable ASCII without quotes")


API: Final = Limit("api", 100, 15 * 60)
LOGIN: Final = Limit("login", 5, 60 * 60, Away.REFUSE, failures_only=True)


@dataclass(frozen=True, slots=True)
class Take:
    """What became of one request: whether it may go on, how many more may, and when the oldest one counts no more.

    `reset` is in seconds from now. When nothing remains, that is when there is room again.
    """

    allowed: bool
    remaining: int
    reset: float

    @property
    def seconds(self) -> int:
        """`reset` in whole seconds, never too early."""
        return max(ceil(self.reset), 1)


class Counts(Protocol):
    """Where requests are counted. One call is one atomic step, also between processes where they share the place."""

    async def take(self, limit: Limit, client: str, ticket: str) -> Take:
        """Count a request under a ticket of its own, if there is room. Raises AwayError."""
        ...

    async def give_back(self, limit: Limit, client: str, ticket: str) -> None:
        """Count it no more. Raises AwayError."""
        ...


class AwayError(Exception):
    """The place where requests are counted does not answer."""


class MemoryCounts:
    """Counts of one process; for tests, for a service with one process, and while Redis is away."""

    def __init__(self, clock: Callable[[], float], clients: int = 100_000) -> None:
        """Count with a clock in seconds. Of more than `clients` the ones that were quiet longest are forgotten."""
        self._clock = clock
        self._clients = clients
        self._taken: OrderedDict[tuple[str, str], dict[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    async def take(self, limit: Limit, client: str, ticket: str) -> Take:
        """Count a request, as the protocol says."""
        with self._lock:
            now = self._clock()
            taken = self._taken.pop((limit.name, client), {})
            taken = {one: at for one, at in taken.items() if at > now - limit.window}
            self._taken[limit.name, client] = taken
            while len(self._taken) > self._clients:
                self._taken.popitem(last=False)
            if allowed := len(taken) < limit.quota:
                taken[ticket] = now
            return Take(allowed, limit.quota - len(taken), min(taken.values()) + limit.window - now)

    async def give_back(self, limit: Limit, client: str, ticket: str) -> None:
        """Count it no more, as the protocol says."""
        with self._lock:
            self._taken.get((limit.name, client), {}).pop(ticket, None)
