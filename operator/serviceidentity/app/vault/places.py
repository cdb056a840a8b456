"""Places for requests: so many at the same time, and whoever comes first gets the next one."""

import asyncio
import contextlib
from collections import deque


class Places:
    """A semaphore whose number can be changed, and that tells how many are free. Used from one event loop."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._given_back = asyncio.Event()

    @property
    def free(self) -> int:
        """How many could be taken without waiting."""
        return max(0, self.number - self.taken - len(self._waiting))

    def resize(self, number: int) -> None:
        """Have another number from now on; nobody who has a place loses it."""
        self.number = number
        self._hand_on()

    async def take(self, within: float) -> bool:
        """Take a place; say False when none was free within so many seconds."""
        if self.taken < self.number and not self._waiting:
            self.taken += 1
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(within):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came too late
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give_back(self) -> None:
        """Leave a place to the next one."""
        self.taken -= 1
        self._given_back.set()
        self._hand_on()

    async def given_back(self, within: float | None) -> None:
        """Wait until somebody leaves a place, for so many seconds at most."""
        self._given_back.clear()
        try:
            async with asyncio.timeout(within):
                await self._given_back.wait()
        except TimeoutError:
            return

    def _hand_on(self) -> None:
        while self._waiting and self.taken < self.number:
            turn = self._waiting.popleft()
            if not turn.done():  # else it does not want it any more
                self.taken += 1
                turn.set_result(None)
