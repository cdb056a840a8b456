"""Orders, placed and on their way there, and the port that keeps them."""

from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from pydantic import BaseModel, Field

from examples.shop.services.errors import RefusedError

CLAIM: Final = 60  # seconds that a request has for an order: longer than both calls, each tried twice
ABANDONED: Final = 300  # seconds; by then the narrowed token of the last attempt has long ended


class Wanted(BaseModel):
    """What a customer orders."""

    item: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")
    quantity: int = Field(ge=1, le=1_000_000)


class Order(Wanted):
    """An order that was paid."""

    id: UUID
    customer: str
    amount: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An order that is being placed: by whom, and what it will be."""

    id: UUID
    customer: str
    wanted: Wanted
    by: UUID


class Orders(Protocol):
    """Where orders are kept. Each method is one transaction, and may be done twice."""

    async def claim(self, customer: str, key: str, wanted: Wanted, by: UUID) -> Order | Claim:
        """Return the order of this key if it is placed; else claim it for CLAIM seconds.

        Raises RefusedError: 409 while another request has the claim, 422 when the key is that of another order.
        """
        ...

    async def place(self, claim: Claim, amount: int) -> Order: ...
    async def give_up(self, claim: Claim) -> None:
        """Let the next request with this key have the claim."""
        ...

    async def abandoned(self, by: UUID) -> Claim | None:
        """Claim an order that nobody was at for ABANDONED seconds and that is neither placed nor over."""
        ...

    async def end(self, claim: Claim) -> None:
        """Note that nothing is left to be done for it, unless the same request comes again."""
        ...

    async def find(self, order: UUID) -> Order | None: ...


def being_placed() -> RefusedError:
    return RefusedError(409, {"error": "This order is being placed"}, {"retry-after": "1"})


def other_order() -> RefusedError:
    return RefusedError(422, {"error": "This Idempotency-Key is that of another order"})
