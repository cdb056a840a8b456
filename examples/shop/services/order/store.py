"""The port `Orders`, in PostgreSQL."""

from uuid import UUID

from examples.shop.services.order.claims import ABANDONED, CLAIM, Claim, Order, Wanted, being_placed, other_order
from serviceidentity_sdk.postgres import Connection, PostgresPool

_ORDER = "SELECT id, customer, item, quantity, amount FROM orders"


class PostgresOrders:
    """Values are parameters, never part of a statement's text."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def claim(self, customer: str, key: str, wanted: Wanted, by: UUID) -> Order | Claim:
        async def work(connection: Connection) -> Order | Claim:
            # One's own claim may be made again: the answer to a commit is what can get lost.
            made = await connection.execute(
                "INSERT INTO orders (customer, key, item, quantity, claimed_by, claimed_until)"
                " VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s))"
                " ON CONFLICT (customer, key) DO UPDATE"
                " SET claimed_by = EXCLUDED.claimed_by, claimed_until = EXCLUDED.claimed_until, ended_at = NULL"
                " WHERE orders.placed_at IS NULL"
                " AND orders.item = EXCLUDED.item AND orders.quantity = EXCLUDED.quantity"
                " AND (orders.claimed_until <= now() OR orders.claimed_by = EXCLUDED.claimed_by)"
                " RETURNING id",
                (customer, key, wanted.item, wanted.quantity, by, CLAIM),
            )
            ours = await made.fetchone()
            if ours is not None:
                return Claim(ours[0], customer, wanted, by)
            found = await connection.execute(_ORDER + " WHERE customer = %s AND key = %s", (customer, key))
            row = await found.fetchone()
            if row is None:
                raise being_placed()
            if row[2:4] != (wanted.item, wanted.quantity):
                raise other_order()
            if row[4] is None:
                raise being_placed()
            return _order(*row)

        return await self._pool.run(work)

    async def place(self, claim: Claim, amount: int) -> Order:
        async def work(connection: Connection) -> Order:
            await connection.execute(
                "UPDATE orders SET amount = %s, placed_at = now() WHERE id = %s AND placed_at IS NULL",
                (amount, claim.id),
            )
            return Order(id=claim.id, customer=claim.customer, amount=amount, **claim.wanted.model_dump())

        return await self._pool.run(work)

    async def give_up(self, claim: Claim) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "UPDATE orders SET claimed_until = now() WHERE id = %s AND claimed_by = %s", (claim.id, claim.by)
            )

        await self._pool.run(work)

    async def abandoned(self, by: UUID) -> Claim | None:
        async def work(connection: Connection) -> Claim | None:
            found = await connection.execute(
                "UPDATE orders SET claimed_by = %s, claimed_until = now() + make_interval(secs => %s) WHERE id = ("
                " SELECT id FROM orders WHERE placed_at IS NULL AND ended_at IS NULL"
                " AND claimed_until <= now() - make_interval(secs => %s)"
                " ORDER BY claimed_until LIMIT 1 FOR UPDATE SKIP LOCKED)"
                " RETURNING id, customer, item, quantity",
                (by, CLAIM, ABANDONED),
            )
            row = await found.fetchone()
            return None if row is None else Claim(row[0], row[1], Wanted(item=row[2], quantity=row[3]), by)

        return await self._pool.run(work)

    async def end(self, claim: Claim) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                "UPDATE orders SET ended_at = now(), claimed_until = now()"
                " WHERE id = %s AND claimed_by = %s AND placed_at IS NULL",
                (claim.id, claim.by),
            )

        await self._pool.run(work)

    async def find(self, order: UUID) -> Order | None:
        async def work(connection: Connection) -> Order | None:
            found = await connection.execute(_ORDER + " WHERE id = %s AND placed_at IS NOT NULL", (order,))
            row = await found.fetchone()
            return None if row is None else _order(*row)

        return await self._pool.run(work)


def _order(number: UUID, customer: str, item: str, quantity: int, amount: int) -> Order:
    return Order(id=number, customer=customer, item=item, quantity=quantity, amount=amount)
