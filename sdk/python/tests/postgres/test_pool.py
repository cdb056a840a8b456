"""What is said before any connection, and what is done about each error, with a pool that is none."""

import asyncio
import contextlib
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolTimeout

from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.credentials import CredentialError
from serviceidentity_sdk.postgres import PostgresPool, RefusedError, UnavailableError, watch_login

FILES = {"username": b"v-orders-1", "password": b"s3cret"}


class NoPool:
    """Hands out connections that are none, and counts how often it was emptied."""

    max_size = 1
    info = SimpleNamespace(user="v-orders-1")

    def __init__(self):
        self.taken = 0
        self.drained = 0
        self.refuses = None

    @contextlib.asynccontextmanager
    async def connection(self):
        self.taken += 1
        if self.refuses:
            raise self.refuses
        yield self

    @contextlib.asynccontextmanager
    async def transaction(self):
        yield

    async def drain(self):
        self.drained += 1

    async def close(self):
        """Close the connection that is none."""


@pytest.fixture
def volume(tmp_path):
    return Volume(tmp_path / "database", FILES)


@pytest.fixture
def pool(volume, monkeypatch):
    found = PostgresPool("host=db dbname=orders", watch_login(volume.path), name="order-service")
    monkeypatch.setattr(found, "_pool", NoPool())
    return found


def run(pool, *outcomes):
    """Do work that meets one of these after the other; say what came of it and how often it was done."""
    left = iter(outcomes)

    async def work(_connection):
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return asyncio.run(pool.run(work))


@pytest.mark.parametrize(
    ("error", "drained"),
    [
        (psycopg.OperationalError("the connection is lost"), 1),
        (psycopg.InterfaceError("the connection is closed"), 1),
        (errors.AdminShutdown(), 1),
        (errors.ReadOnlySqlTransaction(), 1),
        (errors.InsufficientPrivilege(), 1),
        (errors.UndefinedTable(), 1),
        (errors.UndefinedFunction(), 1),
        (errors.DeadlockDetected(), 0),
        (errors.SerializationFailure(), 0),
    ],
)
def test_lost_work_is_done_again(pool, error, drained):
    assert run(pool, error, "done") == "done"
    assert (pool._pool.taken, pool._pool.drained) == (2, drained)


@pytest.mark.parametrize("error", [errors.QueryCanceled(), errors.LockNotAvailable(), errors.TooManyConnections()])
def test_what_took_too_long_is_not_done_again(pool, error):
    with pytest.raises(UnavailableError):
        run(pool, error, "done")
    assert pool._pool.taken == 1


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (errors.UniqueViolation("alice is there"), "23505"),
        (errors.UndefinedColumn("alice"), "42703"),
        (psycopg.ProgrammingError("alice"), None),
    ],
)
def test_what_is_refused_is_told_by_its_code_and_quotes_nothing(pool, error, sqlstate, caplog):
    caplog.set_level("DEBUG")
    with pytest.raises(RefusedError) as found:
        run(pool, error)
    assert found.value.sqlstate == sqlstate
    assert "alice" not in str(found.value) + caplog.text
    assert found.value.__cause__ is None and found.value.__suppress_context__


def test_a_right_that_the_newest_user_does_not_have_either_is_a_fault_of_the_work(pool):
    with pytest.raises(RefusedError, match="42501"):
        run(pool, *[errors.InsufficientPrivilege() for _ in range(3)])


def test_a_connection_that_is_lost_again_and_again(pool):
    with pytest.raises(UnavailableError):
        run(pool, *[psycopg.OperationalError() for _ in range(3)])
    assert pool._pool.taken == 3


def test_nobody_is_let_in(pool):
    pool._pool.refuses = PoolTimeout("password authentication failed")
    with pytest.raises(UnavailableError, match="no connection"):
        run(pool)
    assert pool._pool.taken == 1


def test_what_the_work_raises_itself_goes_through(pool):
    with pytest.raises(KeyError):
        run(pool, KeyError("mine"))


def test_many_that_were_cut_off_at_once_empty_the_pool_once(pool):
    async def main():
        together = asyncio.Barrier(8)
        first = set()

        async def one(number):
            async def work(_connection):
                if number not in first:
                    first.add(number)
                    await together.wait()
                    raise psycopg.OperationalError
                return number

            return await pool.run(work)

        assert await asyncio.gather(*map(one, range(8))) == list(range(8))

    asyncio.run(main())
    assert pool._pool.drained == 1


def test_the_newest_user_is_looked_for_before_the_work_is_done_again(pool, volume):
    seen = []

    async def work(_connection):
        seen.append(pool.login)
        if len(seen) == 1:
            volume.swap(FILES | {"username": b"v-orders-2"})
            raise errors.InsufficientPrivilege
        return seen

    assert asyncio.run(pool.run(work)) == ["v-orders-1", "v-orders-2"]


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=db user=me",
        "host=db password=s3cret",
        "postgresql://me:s3cret@db/orders",
        "host=db options='-c x=s3cret'",
        "host=db s3cret",
    ],
)
def test_a_connection_string_with_a_login_is_refused_and_not_quoted(volume, conninfo):
    with pytest.raises(ValueError, match="connection string") as found:
        PostgresPool(conninfo, watch_login(volume.path), name="x")
    assert "s3cret" not in str(found.value)
    assert found.value.__context__ is None or found.value.__suppress_context__


@pytest.mark.parametrize("path", ["orders", ["a b"], ["a,b"], ["Orders"], [""], ["x -c role=postgres"]])
def test_a_search_path_is_a_list_of_plain_names(volume, path):
    with pytest.raises(ValueError, match="search_path"):
        PostgresPool("host=db", watch_login(volume.path), name="x", search_path=path)


@pytest.mark.parametrize(
    "files",
    [
        {"username": b"me"},
        {"password": b"s3cret"},
        {"username": b"", "password": b"s3cret"},
        {"username": b"me", "password": b"s3cret\xff"},
        {"username": b"me", "password": b"s3cret\0"},
        {"username": b"\xff", "password": b"s3cret"},
    ],
)
def test_a_bad_secret_keeps_a_service_from_starting(tmp_path, files):
    with pytest.raises(CredentialError) as found:
        watch_login(Volume(tmp_path / "bad", files).path)
    assert "s3cret" not in str(found.value)


def test_a_missing_secret_keeps_a_service_from_starting(tmp_path):
    with pytest.raises(CredentialError):
        watch_login(tmp_path / "nowhere")


def test_no_password_shows(volume):
    assert "s3cret" not in repr(watch_login(volume.path).current)
