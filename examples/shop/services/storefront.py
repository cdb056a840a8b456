"""storefront: the edge. Customers come without a certificate; it is the only service that they reach.

It checks what comes in, limits how often, and passes it on to the service that decides. Tokens are looked at here
already, but what they allow is decided where the goods, the orders and the payments are.
"""

from typing import Annotated, Final
from uuid import UUID

import httpx
from fastapi import Depends, Path, Request, Response
from pydantic import BaseModel, Field

from examples.shop.services.inventory import NAME, Amounts
from examples.shop.services.order import Key
from examples.shop.services.order.claims import Wanted
from examples.shop.services.stack import Stack
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.authz import authenticated, public
from serviceidentity_sdk.jwt import current_token

WITHOUT_TOKEN: Final = ("/login", "/refresh")
_PLACING: Final = 50.0  # seconds: order-service calls two others, each maybe twice


class Login(BaseModel):
    """Name and password; auth-service knows which are right."""

    username: str = Field(min_length=1, max_length=256)
    password: str = Field(min_length=1, max_length=4096, repr=False)


class Refresh(BaseModel):
    """A refresh token, good for one use."""

    refresh_token: str = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=256, repr=False)


class Logout(BaseModel):
    """Which sessions end: this one, or all of the account."""

    all: bool = False


def application(stack: Stack) -> Application:
    """Return the service."""
    settings, app = stack.settings, stack.application()
    auth = stack.next("auth-service", settings.auth, settings.auth_id, sign=False)
    orders = stack.next("order-service", settings.order, settings.order_id, timeout=_PLACING)
    inventory = stack.next("inventory-service", settings.inventory, settings.inventory_id)
    anyone, customers = [Depends(public())], [Depends(authenticated())]

    @app.post("/login", dependencies=anyone)
    async def login(request: Request, body: Login) -> Response:
        return _passed(await auth.call("POST", "/login", json=body.model_dump(), headers=_from(request)))

    @app.post("/refresh", dependencies=anyone)
    async def refresh(request: Request, body: Refresh) -> Response:
        return _passed(await auth.call("POST", "/refresh", json=body.model_dump(), headers=_from(request)))

    @app.post("/logout", status_code=204, dependencies=customers)
    async def logout(request: Request, body: Logout | None = None) -> Response:
        asked = (body or Logout()).model_dump()
        token = current_token.get()
        return _passed(await auth.call("POST", "/logout", token=token, json=asked, headers=_from(request)))

    @app.post("/orders", status_code=201, dependencies=customers)
    async def order(body: Wanted, key: Key) -> Response:
        headers = {"Idempotency-Key": key}
        token = current_token.get()
        return _passed(await orders.call("POST", "/orders", token=token, json=body.model_dump(), headers=headers))

    @app.get("/orders/{number}", dependencies=customers)
    async def read(number: UUID) -> Response:
        return _passed(await orders.call("GET", f"/orders/{number}", token=current_token.get()))

    @app.get("/stock", dependencies=customers)
    async def stock() -> Response:
        return _passed(await inventory.call("GET", "/stock", token=current_token.get()))

    @app.put("/stock/{item}", dependencies=customers)
    async def put(item: Annotated[str, Path(pattern=NAME)], body: Amounts) -> Response:
        token = current_token.get()
        return _passed(await inventory.call("PUT", f"/stock/{item}", token=token, json=body.model_dump()))

    return stack.edge(app, stack.verifier(issuer="auth-service", audience="microservices"), without_token=WITHOUT_TOKEN)


def _from(request: Request) -> dict[str, str]:
    """Return the customer's address for auth-service's limits; what the customer says about it counts for nothing."""
    return {"X-Forwarded-For": request.client.host if request.client else "unknown"}


def _passed(answer: httpx.Response) -> Response:
    """Return the next service's answer as it is."""
    kind = answer.headers.get("content-type") if answer.content else None
    return Response(answer.content, answer.status_code, media_type=kind)
