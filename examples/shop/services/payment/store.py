"""The port `Payments`, in PostgreSQL."""

from uuid import UUID

from examples.shop.services.payment import Payment
from serviceidentity_sdk.postgres import Connection, PostgresPool


class PostgresPayments:
    """Values are parameters, never part of a statement's text."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def find(self, order: UUID) -> Payment | None:
        async def work(connection: Connection) -> Payment | None:
            return await _payment(connection, order)

        return await self._pool.run(work)

    async def add(self, payment: Payment) -> Payment:
        async def work(connection: Connection) -> Payment:
            await connection.execute(
                "INSERT INTO payments (order_id, customer, amount, reference) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (payment.order, payment.customer, payment.amount, payment.reference),
            )
            return await _payment(connection, payment.order) or payment

        return await self._pool.run(work)


async def _payment(connection: Connection, order: UUID) -> Payment | None:
    found = await connection.execute("SELECT customer, amount, reference FROM payments WHERE order_id = %s", (order,))
    row = await found.fetchone()
    return None if row is None else Payment(order=order, customer=row[0], amount=row[1], reference=row[2])
