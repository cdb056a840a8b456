"""The stores of the shop: in PostgreSQL by leased users, and those in memory that stand in for them elsewhere."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from examples.shop.services import inventory, payment
from examples.shop.services.errors import RefusedError
from examples.shop.services.inventory import Item
from examples.shop.services.inventory.store import PostgresStock
from examples.shop.services.migrations import SCHEMAS, migrate
from examples.shop.services.order import claims
from examples.shop.services.order.claims import Claim, Order, Orders
from examples.shop.services.order.store import PostgresOrders
from examples.shop.services.payment import Payment
from examples.shop.services.payment.store import PostgresPayments
from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.postgres import MigrationError, PostgresPool, watch_login
from tests.controlplane import Postgres
from tests.unit.shop.stores import MemoryOrders, MemoryPayments, MemoryStock

pytestmark = pytest.mark.contract

Story = Callable[[Any], Awaitable[None]]
TEAPOT = Item(item="teapot", quantity=10, price=20)


class Database:
    """A database of one service: its owner, the role with the rights, and a user that is a member of it."""

    def __init__(self, server: Postgres, service: str, directory: Path) -> None:
        self.server, self.service = server, service
        name, owner = f"{service}_{secrets.token_hex(4)}", f"owner_{secrets.token_hex(4)}"
        self.conninfo = f"host=127.0.0.1 port={server.port} dbname={name}"
        password = secrets.token_urlsafe(16)
        with server.connect() as connection:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(f"{service}_service")))
            self._run(connection, "CREATE ROLE {} LOGIN PASSWORD {}", owner, password)
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner))
            )
        self.owner_login = {"username": owner.encode(), "password": password.encode()}
        self.owner = Volume(directory / "owner", self.owner_login)
        self.user = Volume(directory / "user", self.new_user())

    def new_user(self) -> dict[str, bytes]:
        user, password = f"v-{self.service}-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
        with self.server.connect() as connection:
            self._run(
                connection, f"CREATE ROLE {{}} LOGIN PASSWORD {{}} IN ROLE {self.service}_service", user, password
            )
        return {"username": user.encode(), "password": password.encode()}

    def connect(self, login: dict[str, bytes]) -> "psycopg.Connection[tuple[Any, ...]]":
        found = {"user": login["username"].decode(), "password": login["password"].decode()}
        return psycopg.connect(self.conninfo, autocommit=True, **found)

    def migrate(self) -> list[str]:
        return migrate(self.service, self.conninfo, str(self.owner.path))

    def run(self, make: Callable[[PostgresPool], Any], story: Story) -> None:
        async def told() -> None:
            login = watch_login(str(self.user.path), 0.05)
            pool = PostgresPool(self.conninfo, login, name=self.service, search_path=[SCHEMAS[self.service]])
            async with login, pool:
                assert await pool.ready("SELECT 1 FROM schema_migrations LIMIT 1", timeout=10)
                await story(make(pool))

        asyncio.run(told())

    @staticmethod
    def _run(connection: Any, statement: str, name: str, password: str) -> None:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(password)))


@pytest.fixture(params=["memory", "postgres"])
def tell(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, Story], None]:
    """Tell a story to the store of a service: to the one in memory, or to the one in PostgreSQL."""
    memory = {"order": MemoryOrders, "payment": MemoryPayments, "inventory": MemoryStock}
    real = {"order": PostgresOrders, "payment": PostgresPayments, "inventory": PostgresStock}

    def told(service: str, story: Story) -> None:
        if request.param == "memory":
            asyncio.run(story(memory[service]()))  # type: ignore[arg-type]
            return
        database = Database(request.getfixturevalue("postgres"), service, tmp_path)
        database.migrate()
        database.run(real[service], story)

    return told


async def refused(call: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(RefusedError) as error:
        await call
    return error.value.status, str(error.value)


def test_stock_is_reserved_once_and_given_back_once(tell: Any) -> None:
    async def story(stock: inventory.Stock) -> None:
        wanted = inventory.Wanted(order=uuid4(), item="teapot", quantity=4)
        assert await refused(stock.reserve(wanted, "alice")) == (404, "No such item")
        await stock.put(TEAPOT)
        made = await stock.reserve(wanted, "alice")
        assert (made.price, made.customer) == (20, "alice")
        await stock.put(Item(item="teapot", quantity=6, price=30))
        assert await stock.reserve(wanted, "alice") == made  # at the price of that moment
        assert [one.quantity for one in await stock.items()] == [6]
        other = wanted.model_copy(update={"quantity": 5})
        assert (await refused(stock.reserve(other, "alice")))[0] == 409
        assert (await refused(stock.reserve(wanted, "bob")))[0] == 409
        assert await refused(stock.reserve(other.model_copy(update={"order": uuid4(), "quantity": 7}), "bob")) == (
            409,
            "Out of stock",
        )
        await stock.release(wanted.order)
        await stock.release(wanted.order)
        assert [one.quantity for one in await stock.items()] == [10]

    tell("inventory", story)


def test_of_many_at_once_no_more_get_some_than_there_is(tell: Any) -> None:
    async def story(stock: inventory.Stock) -> None:
        await stock.put(TEAPOT)
        same = inventory.Wanted(order=uuid4(), item="teapot", quantity=1)
        asked = [same] * 5 + [same.model_copy(update={"order": uuid4()}) for _ in range(15)]
        results = await asyncio.gather(*(stock.reserve(one, "alice") for one in asked), return_exceptions=True)
        assert len({one.order for one in results if isinstance(one, inventory.Reservation)}) == 10
        assert all(isinstance(one, inventory.Reservation | RefusedError) for one in results)
        assert [one.quantity for one in await stock.items()] == [0]

    tell("inventory", story)


def test_an_order_is_paid_once(tell: Any) -> None:
    async def story(payments: payment.Payments) -> None:
        first = Payment(order=uuid4(), customer="alice", amount=40, reference="r1")
        assert await payments.find(first.order) is None
        assert await payments.add(first) == first
        assert await payments.add(first.model_copy(update={"reference": "r2"})) == first
        assert await payments.find(first.order) == first

    tell("payment", story)


def test_one_request_at_a_time_places_an_order(tell: Any) -> None:
    async def story(orders: Orders) -> None:
        wanted = claims.Wanted(item="teapot", quantity=2)
        by = uuid4()
        claim = await orders.claim("alice", "k1", wanted, by)
        assert isinstance(claim, Claim) and await orders.claim("alice", "k1", wanted, by) == claim
        assert (await refused(orders.claim("alice", "k1", wanted, uuid4())))[0] == 409
        assert (await refused(orders.claim("alice", "k1", wanted.model_copy(update={"quantity": 3}), uuid4())))[
            0
        ] == 422
        assert await orders.find(claim.id) is None

        await orders.give_up(claim)
        again = await orders.claim("alice", "k1", wanted, uuid4())
        assert isinstance(again, Claim) and again.id == claim.id
        await orders.give_up(claim)  # the claim is another's now
        assert (await refused(orders.claim("alice", "k1", wanted, uuid4())))[0] == 409

        placed = await orders.place(again, 40)
        assert await orders.place(again, 40) == placed
        assert await orders.claim("alice", "k1", wanted, uuid4()) == placed == await orders.find(claim.id)
        other = await orders.claim("bob", "k1", wanted, uuid4())
        assert isinstance(other, Claim) and other.id != claim.id

    tell("order", story)


def test_of_many_at_once_one_has_the_claim(tell: Any) -> None:
    async def story(orders: Orders) -> None:
        wanted = claims.Wanted(item="teapot", quantity=2)
        asked = (orders.claim("alice", "k1", wanted, uuid4()) for _ in range(10))
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in results if not isinstance(one, RefusedError)] == [Claim]

    tell("order", story)


def test_a_claim_ends_by_itself(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.shop.services.order.store.CLAIM", 0)
    database = Database(postgres, "order", tmp_path)
    database.migrate()

    async def story(orders: Orders) -> None:
        wanted = claims.Wanted(item="teapot", quantity=2)
        first = await orders.claim("alice", "k1", wanted, uuid4())
        second = await orders.claim("alice", "k1", wanted, uuid4())
        assert isinstance(first, Claim) and isinstance(second, Claim) and first.id == second.id
        assert isinstance(await orders.place(second, 40), Order)

    database.run(PostgresOrders, story)


def test_what_is_abandoned_is_claimed_once_and_is_over_until_it_is_asked_for_again(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres, "order", tmp_path)
    database.migrate()

    async def story(orders: Orders) -> None:
        wanted = claims.Wanted(item="teapot", quantity=2)
        paid, left, placed = [await orders.claim("alice", key, wanted, uuid4()) for key in ("k1", "k2", "k3")]
        assert isinstance(paid, Claim) and isinstance(left, Claim) and isinstance(placed, Claim)
        await orders.place(placed, 40)
        await orders.give_up(paid)
        assert await orders.abandoned(uuid4()) is None  # not for long enough
        monkeypatch.setattr("examples.shop.services.order.store.ABANDONED", 0)
        by = uuid4()
        assert await orders.abandoned(by) == Claim(paid.id, "alice", wanted, by)
        assert await orders.abandoned(uuid4()) is None  # k1 has been claimed, and so is k2
        assert (await refused(orders.claim("alice", "k1", wanted, uuid4())))[0] == 409
        await orders.end(Claim(paid.id, "alice", wanted, by))
        assert await orders.abandoned(uuid4()) is None
        again = await orders.claim("alice", "k1", wanted, uuid4())
        assert isinstance(again, Claim) and again.id == paid.id
        await orders.give_up(again)
        found = await orders.abandoned(uuid4())
        assert found is not None and found.id == paid.id

    database.run(PostgresOrders, story)


def test_goods_that_come_back_may_make_more_than_can_be_set(tell: Any) -> None:
    async def story(stock: inventory.Stock) -> None:
        await stock.put(TEAPOT)
        wanted = inventory.Wanted(order=uuid4(), item="teapot", quantity=4)
        await stock.reserve(wanted, "alice")
        await stock.put(Item(item="teapot", quantity=inventory.LARGEST, price=20))
        await stock.release(wanted.order)
        assert [one.quantity for one in await stock.items()] == [inventory.LARGEST + 4]

    tell("inventory", story)


@pytest.mark.parametrize("service", sorted(SCHEMAS))
def test_migrations_run_once_and_users_of_the_lease_may_not_change_the_schema(
    postgres: Postgres, tmp_path: Path, service: str
) -> None:
    database = Database(postgres, service, tmp_path)
    assert len(database.migrate()) == 1
    assert database.migrate() == []
    with database.connect(database.new_user()) as user, pytest.raises(psycopg.errors.InsufficientPrivilege):
        user.execute(f"CREATE TABLE {SCHEMAS[service]}.mine (id int)".encode())


def test_a_migration_that_was_edited_after_it_ran_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    database = Database(postgres, "payment", tmp_path)
    database.migrate()
    with database.connect(database.owner_login) as owner:
        owner.execute("UPDATE payments.schema_migrations SET sha256 = 'x'")
    with pytest.raises(MigrationError, match="is another file now"):
        database.migrate()
