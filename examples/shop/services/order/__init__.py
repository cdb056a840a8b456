"""order-service: places orders. It reserves the goods, has them paid, and then stores the order.

An order is idempotent by the customer and the Idempotency-Key. Its ID is made and stored before anything else happens,
and both calls are idempotent by that ID: when this service dies anywhere in between, the same request sent again
finishes the order; what was reserved stays reserved and what was paid is not paid again. While one request is at it,
another with the same key is told to wait (409). When nobody sends it again it is finished without the customer: stored
if it was paid, and else the goods go back (`abandoned`).
"""

from typing import Annotated, Final
from uuid import UUID, uuid4

from fastapi import Depends, Header, Request, Response

from examples.shop.services.errors import RefusedError
from examples.shop.services.order.abandoned import Abandoned
from examples.shop.services.order.claims import Order, Orders, Wanted
from examples.shop.services.order.placing import Placing
from examples.shop.services.stack import Stack
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.authz import authenticated, check_permission
from serviceidentity_sdk.jwt import TokenSigner, Verified, current_token, read_token_key
from serviceidentity_sdk.permissions import granted_by
from serviceidentity_sdk.policy.guards import authorize_action, require
from serviceidentity_sdk.principal import Principal

NAME: Final = "order-service"
PAYMENT: Final = "payment-service"
_DELEGATED: Final = ("payments:create", "payments:unlimited")  # what payment-service is told that the customer may
Key = Annotated[str, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def application(stack: Stack, orders: Orders) -> Application:
    """Return the service."""
    settings, app, policies = stack.settings, stack.application(), stack.policies()
    inventory = stack.next("inventory-service", settings.inventory, settings.inventory_id)
    payment = stack.next(PAYMENT, settings.payment, settings.payment_id)
    signer = TokenSigner(stack.follow(read_token_key, settings.jwt), issuer=NAME, audience=PAYMENT)
    placing = Placing(orders, inventory, payment)
    stack.background(Abandoned(orders, placing.settle))
    may_order = [Depends(check_permission("payments:create")), Depends(authorize_action(policies, "orders:create"))]

    @app.post("/orders", status_code=201, dependencies=may_order)
    async def place(request: Request, response: Response, wanted: Wanted, key: Key) -> Order:
        customer: Principal = request.state.principal
        narrowed = _narrowed(signer, customer)
        claim = await orders.claim(customer.subject, key, wanted, uuid4())
        if isinstance(claim, Order):
            response.status_code = 200
            return claim
        try:
            amount = await placing.reserve_and_pay(claim, current_token.get(), narrowed)
            return await orders.place(claim, amount)
        except Exception:
            await orders.give_up(claim)
            raise

    @app.get("/orders/{order}", dependencies=[Depends(authenticated())])
    async def read(request: Request, order: UUID) -> Order:
        found = await orders.find(order)
        require(policies, request, "orders:read", {} if found is None else {"owner": found.customer})
        if found is None:
            raise RefusedError(404, {"error": "No such order"})
        return found

    return stack.behind(app, stack.verifier(issuer="auth-service", audience="microservices"))


def _narrowed(signer: TokenSigner, customer: Principal) -> str:
    """Return a token with which this service pays for a customer: a minute, one audience, one or two permissions."""
    permissions = [one for one in _DELEGATED if granted_by(customer.permissions, one)]
    verified = Verified(customer.claims, customer)
    try:
        return signer.narrow(verified, service=NAME, audience=PAYMENT, permissions=permissions)
    except ValueError:  # it ended since it was verified
        challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
        raise RefusedError(401, {"error": "Token expired"}, challenge) from None
