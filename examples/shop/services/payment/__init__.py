"""payment-service: takes the money for an order, once.

Only order-service calls, with a token that it signs itself and that says less than the customer's: one permission, this
audience, a minute. Payments are idempotent by the order's ID: a repeated one is answered and nothing is taken. Whether
an order was paid it tells order-service without a token, as that finishes what was cut off when the customer is gone.
"""

import hashlib
import hmac
from typing import Annotated, Final, Protocol
from uuid import UUID

from fastapi import Depends, Request, Response
from pydantic import BaseModel, Field

from examples.shop.services.errors import RefusedError
from examples.shop.services.stack import Stack
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.authz import authenticated
from serviceidentity_sdk.credentials import KeyMaterial, Snapshot, Watch
from serviceidentity_sdk.policy.guards import authorize_action, require

LARGEST: Final = 1_000_000_000_000


class Charge(BaseModel):
    """What is to be paid, in whole euros, and by whom."""

    order: UUID
    customer: str = Field(min_length=1, max_length=256)
    amount: Annotated[int, Field(ge=1, le=LARGEST)]


class Asked(BaseModel):
    """The order that is asked about."""

    order: UUID


class Paid(BaseModel):
    """What was paid for an order, if anything was."""

    amount: int | None


class Payment(Charge):
    """What was paid. `reference` is the provider's."""

    reference: str


class Payments(Protocol):
    """Where payments are kept. Each method is one transaction, and may be done twice."""

    async def find(self, order: UUID) -> Payment | None: ...
    async def add(self, payment: Payment) -> Payment:
        """Store it unless the order has one; return the order's."""
        ...


class Provider:
    """Stands in for a payment provider, which would be called with the key and be idempotent by the order's ID."""

    def __init__(self, key: Watch[KeyMaterial]) -> None:
        self._key = key

    async def charge(self, charge: Charge) -> str:
        """Take the money; return the provider's reference. The key of this moment is used, whenever it changes."""
        text = f"{charge.order}:{charge.amount}".encode()
        return hmac.digest(self._key.current.reveal(), text, hashlib.sha256).hex()[:16]


def read_key(snapshot: Snapshot) -> KeyMaterial:
    """Read the Secret that the operator makes of the provider's entry in Vault. Raises CredentialError."""
    return snapshot.material("api-key")


def application(stack: Stack, payments: Payments) -> Application:
    """Return the service."""
    app, policies = stack.application(), stack.policies()
    provider = Provider(stack.follow(read_key, stack.settings.provider))

    @app.post("/payments", status_code=201, dependencies=[Depends(authenticated())])
    async def pay(request: Request, response: Response, charge: Charge) -> Payment:
        found = await payments.find(charge.order)
        if found is not None:
            # What was paid in office hours is not refused when it is asked for again after them.
            require(policies, request, "payments:read", {"owner": found.customer})
            if (found.customer, found.amount) != (charge.customer, charge.amount):
                raise RefusedError(409, {"error": "This order was paid otherwise"})
            response.status_code = 200
            return found
        require(policies, request, "payments:create", {"owner": charge.customer, "amount": charge.amount})
        reference = await provider.charge(charge)
        return await payments.add(Payment(**charge.model_dump(), reference=reference))

    @app.post("/paid", dependencies=[Depends(authorize_action(policies, "payments:find"))])
    async def paid(asked: Asked) -> Paid:
        found = await payments.find(asked.order)
        return Paid(amount=None if found is None else found.amount)

    verifier = stack.verifier(issuer="order-service", audience="payment-service")
    return stack.behind(app, verifier, without_token=("/paid",))
