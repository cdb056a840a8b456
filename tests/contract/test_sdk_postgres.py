"""The SDK's pool on a real PostgreSQL, with users that are made and dropped as leases are."""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.postgres import Connection, PostgresPool, RefusedError, UnavailableError, watch_login
from tests.controlplane import Postgres, start_postgres

pytestmark = pytest.mark.contract

PAGE = Path(__file__).parents[2] / "docs" / "sdk" / "postgres.md"


class Orders:
    """A schema with a table, the role of docs/sdk/postgres.md that has its rights, and a mounted user."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server = server
        self.conninfo = f"host=127.0.0.1 port={server.port} dbname=postgres"
        (statements,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
        create, grants = statements.split(";", 1)
        with server.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS orders CASCADE; CREATE SCHEMA orders")
            connection.execute(
                "CREATE TABLE orders.orders (id text PRIMARY KEY, by text NOT NULL DEFAULT current_user)"
            )
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute(create.encode())
            connection.execute(grants.encode())
        self.user = self.new_user()
        self.volume = Volume(directory / "database", self.user)

    def new_user(self) -> dict[str, bytes]:
        user, password = f"v-orders-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE order_service")
        with self.server.connect() as connection:
            connection.execute(statement.format(sql.Identifier(user), sql.Literal(password)))
        return {"username": user.encode(), "password": password.encode()}

    def rotate(self) -> dict[str, bytes]:
        """Bring a new user; return the one before."""
        before, self.user = self.user, self.new_user()
        self.volume.swap(self.user)
        return before

    def drop(self, files: dict[str, bytes]) -> None:
        """Do what OpenBao does at the end of a lease; open connections stay, without rights."""
        with self.server.connect() as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(files["username"].decode())))

    def connected(self, files: dict[str, bytes]) -> int:
        with self.server.connect() as connection:
            rows = connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE usename = %s", (files["username"].decode(),)
            ).fetchall()
        return len(rows)

    def rows(self) -> list[str]:
        with self.server.connect() as connection:
            return [str(one) for (one,) in connection.execute("SELECT id FROM orders.orders").fetchall()]

    def pool(self, conninfo: str = "", **options: Any) -> tuple[Any, PostgresPool]:
        login = watch_login(str(self.volume.path), interval=0.05)
        options = {"name": "order-service", "search_path": ["orders"]} | options
        return login, PostgresPool(conninfo or self.conninfo, login, **options)


@pytest.fixture
def orders(postgres: Postgres, tmp_path: Path) -> Iterator[Orders]:
    found = Orders(postgres, tmp_path)
    yield found
    with postgres.connect() as connection:
        connection.execute("DROP SCHEMA orders CASCADE")


def insert(name: str) -> Callable[[Connection], Awaitable[str]]:
    async def work(connection: Connection) -> str:
        await connection.execute("INSERT INTO orders (id) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
        return connection.info.user

    return work


async def until(condition: Callable[[], bool], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def ready(pool: PostgresPool) -> None:
    deadline = time.monotonic() + 15
    while not await pool.ready("SELECT 1 FROM orders"):
        assert time.monotonic() < deadline, "the pool did not recover"


def test_no_work_fails_while_users_come_and_go(orders: Orders) -> None:
    done: list[str] = []
    users: set[str] = set()

    async def worker(pool: PostgresPool, number: int, stop: asyncio.Event) -> None:
        count = 0
        while not stop.is_set():
            name = f"{number}-{count}"
            users.add(await pool.run(insert(name)))
            done.append(name)
            count += 1

    async def main() -> None:
        login, pool = orders.pool(size=4)
        stop = asyncio.Event()
        async with login, pool:
            workers = [asyncio.create_task(worker(pool, number, stop)) for number in range(8)]
            for _ in range(6):
                before = orders.rotate()
                await until(lambda: orders.connected(before) == 0 and orders.connected(orders.user) > 0)  # noqa: B023
                orders.drop(before)
                reached = len(done) + 50
                await until(lambda: len(done) >= reached or any(one.done() for one in workers))  # noqa: B023
            stop.set()
            await asyncio.gather(*workers)
            assert pool.login == orders.user["username"].decode()

    asyncio.run(main())
    assert len(users) >= 7
    assert sorted(done) == sorted(orders.rows())


def test_a_connection_that_was_logging_in_when_the_user_changed_is_not_lent(orders: Orders) -> None:
    async def main() -> list[str]:
        login, pool = orders.pool(size=2)
        login._interval = 3600
        asked, plain = asyncio.Event(), pool._pool.kwargs

        async def slow() -> dict[str, Any]:
            found: dict[str, Any] = await plain()
            asked.set()
            await asyncio.sleep(0.3)  # the user changes while this connection logs in
            return found

        pool._pool.kwargs = slow
        async with login:
            opening = asyncio.create_task(pool.__aenter__())
            await asked.wait()
            orders.rotate()
            login.check()
            await opening
            await asyncio.sleep(0.5)
            try:
                return [await pool.run(insert(str(number))) for number in range(3)]
            finally:
                await pool.__aexit__(None, None, None)

    assert asyncio.run(main()) == [orders.user["username"].decode()] * 3


def test_a_user_that_is_dropped_early_is_replaced_in_the_same_work(orders: Orders) -> None:
    async def main() -> None:
        login, pool = orders.pool()
        login._interval = 3600  # nobody but the work itself looks at the Secret
        async with login, pool:
            await pool.run(insert("before"))
            orders.drop(orders.rotate())
            assert await pool.run(insert("after")) == orders.user["username"].decode()

    asyncio.run(main())
    assert sorted(orders.rows()) == ["after", "before"]


def test_while_there_is_no_user_it_is_unavailable_and_afterwards_all_is_well(
    orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        login, pool = orders.pool(timeout=1)
        async with login, pool:
            await pool.run(insert("before"))
            assert await pool.ready("SELECT 1 FROM orders")
            orders.drop(orders.user)
            with pytest.raises(UnavailableError):
                await pool.run(insert("meanwhile"))
            assert not await pool.ready("SELECT 1 FROM orders")
            orders.volume.swap(orders.user | {"password": b""})  # and a Secret that is none changes nothing
            with pytest.raises(UnavailableError):
                await pool.run(insert("meanwhile"))
            orders.rotate()
            await ready(pool)
            await pool.run(insert("after"))

    asyncio.run(main())
    assert sorted(orders.rows()) == ["after", "before"]
    assert "authentication" not in caplog.text and "FATAL" not in caplog.text


def test_connections_that_were_cut_off_are_no_failed_work(orders: Orders) -> None:
    async def main() -> None:
        login, pool = orders.pool(size=4)
        async with login, pool:
            for turn in range(3):
                await asyncio.gather(*(pool.run(insert(f"{turn}-{one}")) for one in range(12)))
                with orders.server.connect() as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'v-%'"
                    )
            await asyncio.gather(*(pool.run(insert(f"3-{one}")) for one in range(12)))

    asyncio.run(main())
    assert len(orders.rows()) == 48


def test_what_is_refused_is_told_by_its_code(orders: Orders) -> None:
    async def twice(connection: Connection) -> None:
        await connection.execute("INSERT INTO orders (id) VALUES ('hidden'), ('hidden')")

    async def forbidden(connection: Connection) -> None:
        await connection.execute("DELETE FROM orders")

    async def slow(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    async def main() -> None:
        login, pool = orders.pool(statement_timeout=0.2)
        async with login, pool:
            for work, sqlstate in ((twice, "23505"), (forbidden, "42501")):
                with pytest.raises(RefusedError) as found:
                    await pool.run(work)
                assert found.value.sqlstate == sqlstate
                assert "hidden" not in str(found.value)
            with pytest.raises(UnavailableError):
                await pool.run(slow)

    asyncio.run(main())


def test_while_postgresql_is_away_it_is_unavailable_and_afterwards_all_is_well(tmp_path: Path) -> None:
    with start_postgres() as server:
        orders = Orders(server, tmp_path)

        async def main() -> None:
            login, pool = orders.pool(timeout=1)
            async with login, pool:
                await pool.run(insert("before"))
                server.stop()
                for _ in range(2):
                    with pytest.raises(UnavailableError):
                        await pool.run(insert("meanwhile"))
                assert not await pool.ready()
                server.start()
                await ready(pool)
                await pool.run(insert("after"))

        asyncio.run(main())
        assert sorted(orders.rows()) == ["after", "before"]


def test_migrations_as_on_the_page(orders: Orders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    login = {"username": orders.server.superuser, "password": orders.server.password}
    owner = Volume(tmp_path / "owner", {name: text.encode() for name, text in login.items()})
    package = tmp_path / "modules" / "page_of_migrations"
    package.mkdir(parents=True)
    (package / "0001_first.sql").write_text("CREATE TABLE first (id int)")
    monkeypatch.syspath_prepend(str(package.parent))
    for old, new in (
        ("/owner", str(owner.path)),
        ("host=postgres.shop.svc dbname=shop", orders.conninfo),
        ('migrations_in("orders")', 'migrations_in("page_of_migrations")'),
        ('schema="orders"', 'schema="page"'),
        ("print(name)", "ran.append(name)"),
    ):
        assert old in code
        code = code.replace(old, new)
    ran: list[str] = []
    exec(code, {"ran": ran})
    exec(code, {"ran": ran})
    assert ran == ["0001_first.sql"]
    with orders.server.connect() as connection:
        connection.execute("DROP SCHEMA page CASCADE")


def test_the_lines_on_the_page(orders: Orders) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for old, new in (
        ("/identity/database", str(orders.volume.path)),
        ("host=postgres.shop.svc dbname=shop", orders.conninfo),
    ):
        assert old in code
        code = code.replace(old, new)
    found: dict[str, Any] = {}
    exec(code, found)

    async def main() -> None:
        app = found["app"]
        async with app.router.lifespan_context(app):
            await found["database"].run(insert("one"))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client:
                assert (await client.get("/orders/count")).json() == 1

    asyncio.run(main())
