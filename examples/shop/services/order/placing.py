"""What is asked of the other services for an order."""

from typing import Final

from examples.shop.services.calls import Next
from examples.shop.services.errors import RefusedError
from examples.shop.services.order.claims import Claim, Orders

_DENIED: Final = 403  # by a policy, which is asked about what is not paid yet


class Placing:
    """Reserves and pays; `settle` ends what was begun."""

    def __init__(self, orders: Orders, inventory: Next, payment: Next) -> None:
        self._orders, self._inventory, self._payment = orders, inventory, payment

    async def reserve_and_pay(self, claim: Claim, token: str | None, narrowed: str) -> int:
        """Return what was paid. The customer's own token goes to inventory-service, the narrowed one is for payment."""
        wanted = {"order": str(claim.id)} | claim.wanted.model_dump()
        reserved = (await self._inventory.call("POST", "/reservations", token=token, json=wanted)).json()
        amount = int(reserved["price"]) * claim.wanted.quantity
        charge = {"order": str(claim.id), "customer": claim.customer, "amount": amount}
        try:
            await self._payment.call("POST", "/payments", token=narrowed, json=charge)
        except RefusedError as error:
            # A refusal is told only after the goods are back. Unavailable is no refusal: it may have been paid. Nor
            # does a token that was refused tell whether an earlier attempt has paid.
            await (self._release(claim) if error.status == _DENIED else self.settle(claim))
            raise
        return amount

    async def settle(self, claim: Claim) -> None:
        """Place the order if it was paid, else give the goods back: as this service, as the customer may be gone."""
        answer = await self._payment.call("POST", "/paid", json={"order": str(claim.id)})
        paid = answer.json()["amount"]
        if paid is None:
            await self._release(claim)
        else:
            await self._orders.place(claim, int(paid))

    async def _release(self, claim: Claim) -> None:
        await self._inventory.call("POST", "/releases", json={"order": str(claim.id)})
