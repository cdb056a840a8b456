"""Orders that nobody finishes: the service died, or the customer did not send the request again."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from examples.shop.services.errors import ShopError
from examples.shop.services.order.claims import Claim, Orders
from serviceidentity_sdk.postgres import PostgresError

_LOG: Final = logging.getLogger("shop.orders")
_EVERY: Final = 30.0  # seconds


class Abandoned:
    """Looks for them while it is open, in every replica; an order is claimed by one of them."""

    def __init__(self, orders: Orders, settle: Callable[[Claim], Awaitable[None]], *, every: float = _EVERY) -> None:
        self._orders, self._settle, self._every = orders, settle, every

    async def look(self) -> int:
        """Settle those there are; return how many. Raises ShopError, PostgresError: the rest has to wait."""
        settled = 0
        while (claim := await self._orders.abandoned(uuid4())) is not None:
            try:
                await self._settle(claim)
            except Exception:
                await self._orders.give_up(claim)
                raise
            await self._orders.end(claim)
            settled += 1
        return settled

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                settled = await self.look()
            except (ShopError, PostgresError) as error:
                _LOG.warning("abandoned orders wait: %s", error)
                continue
            except Exception as error:  # noqa: BLE001  # its text may quote anything
                _LOG.error("abandoned orders wait: %s", type(error).__name__)
                continue
            if settled:
                _LOG.info("abandoned orders were finished: %d", settled)
