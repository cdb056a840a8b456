"""The stores of the shop in memory: the same answers as those in PostgreSQL (tests/contract/test_shop_stores.py)."""

from dataclasses import dataclass
from uuid import uuid4

from examples.shop.services.inventory import Reservation, no_such_item, out_of_stock, reserved_otherwise
from examples.shop.services.order.claims import Claim, Order, being_placed, other_order


class MemoryStock:
    def __init__(self):
        self.stock, self.reservations = {}, {}

    async def items(self):
        return [self.stock[name] for name in sorted(self.stock)]

    async def put(self, item):
        self.stock[item.item] = item.model_copy()

    async def reserve(self, wanted, customer):
        found = self.reservations.get(wanted.order)
        if found is not None:
            if (found.customer, found.item, found.quantity) != (customer, wanted.item, wanted.quantity):
                raise reserved_otherwise()
            return found
        item = self.stock.get(wanted.item)
        if item is None:
            raise no_such_item()
        if item.quantity < wanted.quantity:
            raise out_of_stock()
        item.quantity -= wanted.quantity
        made = Reservation(**wanted.model_dump(), customer=customer, price=item.price)
        return self.reservations.setdefault(wanted.order, made)

    async def release(self, order):
        found = self.reservations.pop(order, None)
        if found is not None:
            self.stock[found.item].quantity += found.quantity


class MemoryPayments:
    def __init__(self):
        self.payments = {}

    async def find(self, order):
        return self.payments.get(order)

    async def add(self, payment):
        return self.payments.setdefault(payment.order, payment)


@dataclass
class Row:
    claim: Claim
    order: Order | None = None
    given_up: bool = False
    ended: bool = False


class MemoryOrders:
    """Claims do not end by themselves here: `end_claims` says that their time is over."""

    def __init__(self):
        self.rows = {}

    async def claim(self, customer, key, wanted, by):
        row = self.rows.get((customer, key))
        if row is None:
            self.rows[customer, key] = Row(Claim(uuid4(), customer, wanted, by))
            return self.rows[customer, key].claim
        if row.claim.wanted != wanted:
            raise other_order()
        if row.order is not None:
            return row.order
        if not row.given_up and row.claim.by != by:
            raise being_placed()
        self.rows[customer, key] = Row(Claim(row.claim.id, customer, wanted, by))
        return self.rows[customer, key].claim

    async def place(self, claim, amount):
        (row,) = (row for row in self.rows.values() if row.claim.id == claim.id)
        row.order = row.order or Order(id=claim.id, customer=claim.customer, amount=amount, **claim.wanted.model_dump())
        return row.order

    async def give_up(self, claim):
        for row in self.rows.values():
            if row.claim == claim:
                row.given_up = True

    async def abandoned(self, by):
        """As if each that was given up had been so for long."""
        for key, row in self.rows.items():
            if row.given_up and not row.ended and row.order is None:
                self.rows[key] = Row(Claim(row.claim.id, row.claim.customer, row.claim.wanted, by))
                return self.rows[key].claim
        return None

    async def end(self, claim):
        for row in self.rows.values():
            if row.claim == claim:
                row.given_up = row.ended = True

    async def find(self, order):
        return next((row.order for row in self.rows.values() if row.order and row.order.id == order), None)

    def end_claims(self):
        for row in self.rows.values():
            row.given_up = True
