"""inventory-service: what is in stock, and how much of it is reserved for which order.

storefront reads and sets the stock; order-service reserves for an order, and releases what could not be paid. Both act
for a customer, whose own token they bring along; releasing needs none, as goods go back also when the customer has
logged out meanwhile. Reserving and releasing are idempotent by the order's ID.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

from fastapi import Depends, Path, Request
from pydantic import BaseModel, Field

from examples.shop.services.errors import RefusedError
from examples.shop.services.stack import Stack, service_of
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.policy.guards import authorize_action

NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
LARGEST: Final = 1_000_000
Quantity = Annotated[int, Field(ge=1, le=LARGEST)]


class Amounts(BaseModel):
    """How many there are, and what one costs, in whole euros."""

    quantity: int = Field(ge=0, le=LARGEST)
    price: int = Field(ge=1, le=LARGEST)


class Item(BaseModel):
    """Something that is sold. What came back after it was set anew may make it more than can be set."""

    item: str
    quantity: int
    price: int


class Release(BaseModel):
    """The order whose goods go back."""

    order: UUID


class Wanted(BaseModel):
    """What an order needs."""

    order: UUID
    item: str = Field(pattern=NAME)
    quantity: Quantity


class Reservation(Wanted):
    """What is reserved for an order, at which price."""

    customer: str
    price: int


class Stock(Protocol):
    """Where the stock is kept. Each method is one transaction, and may be done twice."""

    async def items(self) -> Sequence[Item]: ...
    async def put(self, item: Item) -> None: ...
    async def reserve(self, wanted: Wanted, customer: str) -> Reservation:
        """Return the reservation of this order, made now or before. Raises RefusedError: 404, 409."""
        ...

    async def release(self, order: UUID) -> None: ...


def no_such_item() -> RefusedError:
    return RefusedError(404, {"error": "No such item"})


def out_of_stock() -> RefusedError:
    return RefusedError(409, {"error": "Out of stock"})


def reserved_otherwise() -> RefusedError:
    return RefusedError(409, {"error": "Something else is reserved for this order"})


def application(stack: Stack, stock: Stock) -> Application:
    """Return the service."""
    app = stack.application()
    policies = stack.policies()

    def may(action: str) -> Any:
        return Depends(authorize_action(policies, action, context=service_of))

    @app.get("/stock", dependencies=[may("stock:read")])
    async def items() -> list[Item]:
        return list(await stock.items())

    @app.put("/stock/{item}", dependencies=[may("stock:set")])
    async def put(item: Annotated[str, Path(pattern=NAME)], amounts: Amounts) -> Item:
        found = Item(item=item, quantity=amounts.quantity, price=amounts.price)
        await stock.put(found)
        return found

    @app.post("/reservations", status_code=201, dependencies=[may("stock:reserve")])
    async def reserve(request: Request, wanted: Wanted) -> Reservation:
        return await stock.reserve(wanted, request.state.principal.subject)

    @app.post("/releases", status_code=204, dependencies=[may("stock:release")])
    async def release(wanted: Release) -> None:
        await stock.release(wanted.order)

    verifier = stack.verifier(issuer="auth-service", audience="microservices")
    return stack.behind(app, verifier, without_token=("/releases",))
