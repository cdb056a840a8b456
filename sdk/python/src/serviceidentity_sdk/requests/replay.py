"""A signed request is accepted once, within the time in which its timestamp is accepted at all."""

import heapq
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from serviceidentity_sdk.requests.errors import ReplayUnavailableError

_NS_PER_MS: Final = 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // _NS_PER_MS


class ReplayCache(Protocol):
    """Remembers what was seen."""

    async def first_use(self, key: str, lifetime_ms: int) -> bool:
        """Remember `key` for so long; say whether it is new. Raises ReplayUnavailableError."""
        ...


class MemoryReplayCache:
    """Remembers within one process: enough for a service of one process, not for replicas.

    At most `largest` requests are remembered, about 250 bytes each. When so many are within their time, further ones
    are refused: forgetting one would let it in twice.
    """

    def __init__(self, largest: int = 200_000, *, clock_ms: Callable[[], int] = _monotonic_ms) -> None:
        self._largest = largest
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._ends: list[tuple[int, str]] = []

    async def first_use(self, key: str, lifetime_ms: int) -> bool:
        now = self._clock_ms()
        with self._lock:
            while self._ends and self._ends[0][0] <= now:
                self._known.discard(heapq.heappop(self._ends)[1])
            if key in self._known:
                return False
            if len(self._known) >= self._largest:
                raise ReplayUnavailableError("as many requests are remembered as may be")
            self._known.add(key)
            heapq.heappush(self._ends, (now + lifetime_ms, key))
        return True
