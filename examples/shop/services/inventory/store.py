"""The port `Stock`, in PostgreSQL."""

from collections.abc import Sequence
from uuid import UUID

from examples.shop.services.inventory import (
    Item,
    Reservation,
    Wanted,
    no_such_item,
    out_of_stock,
    reserved_otherwise,
)
from serviceidentity_sdk.postgres import Connection, PostgresPool


class PostgresStock:
    """Values are parameters, never part of a statement's text."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def items(self) -> Sequence[Item]:
        async def work(connection: Connection) -> list[Item]:
            found = await connection.execute("SELECT item, quantity, price FROM stock ORDER BY item")
            return [Item(item=item, quantity=quantity, price=price) async for item, quantity, price in found]

        return await self._pool.run(work)

    async def put(self, item: Item) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO stock (item, quantity, price) VALUES (%s, %s, %s)"
                " ON CONFLICT (item) DO UPDATE SET quantity = EXCLUDED.quantity, price = EXCLUDED.price",
                (item.item, item.quantity, item.price),
            )

        await self._pool.run(work)

    async def reserve(self, wanted: Wanted, customer: str) -> Reservation:
        async def work(connection: Connection) -> Reservation:
            # The row of the order comes first: of two at the same time the second waits here, and then finds it.
            made = await connection.execute(
                "INSERT INTO reservations (order_id, customer, item, quantity, price)"
                " SELECT %s, %s, item, %s, price FROM stock WHERE item = %s ON CONFLICT DO NOTHING",
                (wanted.order, customer, wanted.quantity, wanted.item),
            )
            found = await _reserved(connection, wanted.order)
            if found is None:
                raise no_such_item()
            if (found.customer, found.item, found.quantity) != (customer, wanted.item, wanted.quantity):
                raise reserved_otherwise()
            if made.rowcount:
                taken = await connection.execute(
                    "UPDATE stock SET quantity = quantity - %s WHERE item = %s AND quantity >= %s",
                    (wanted.quantity, wanted.item, wanted.quantity),
                )
                if not taken.rowcount:
                    raise out_of_stock()  # which takes the row back
            return found

        return await self._pool.run(work)

    async def release(self, order: UUID) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "WITH gone AS (DELETE FROM reservations WHERE order_id = %s RETURNING item, quantity)"
                " UPDATE stock SET quantity = stock.quantity + gone.quantity FROM gone WHERE stock.item = gone.item",
                (order,),
            )

        await self._pool.run(work)


async def _reserved(connection: Connection, order: UUID) -> Reservation | None:
    found = await connection.execute(
        "SELECT customer, item, quantity, price FROM reservations WHERE order_id = %s", (order,)
    )
    row = await found.fetchone()
    if row is None:
        return None
    return Reservation(order=order, customer=row[0], item=row[1], quantity=row[2], price=row[3])
