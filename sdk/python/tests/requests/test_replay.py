"""What remembers requests: in memory, and in a real Redis."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from sdk.python.tests.hardening.servers import running
from serviceidentity_sdk.requests import MemoryReplayCache, ReplayUnavailableError
from serviceidentity_sdk.requests.replay_redis import RedisReplayCache


def test_memory_forgets_when_the_time_has_passed():
    now = [0]
    cache = MemoryReplayCache(clock_ms=lambda: now[0])

    async def run():
        found = [await cache.first_use("a", 100), await cache.first_use("a", 100), await cache.first_use("b", 10)]
        now[0] = 99
        found.append(await cache.first_use("a", 100))
        now[0] = 100
        found.append(await cache.first_use("a", 100))
        return found

    assert asyncio.run(run()) == [True, False, True, False, True]


def test_memory_is_bounded_and_never_forgets_early():
    now = [0]
    cache = MemoryReplayCache(largest=3, clock_ms=lambda: now[0])

    async def run():
        for key in "abc":
            assert await cache.first_use(key, 100 if key != "b" else 50)
        with pytest.raises(ReplayUnavailableError):
            await cache.first_use("d", 100)
        assert not await cache.first_use("a", 100)
        now[0] = 50
        assert await cache.first_use("d", 100)
        with pytest.raises(ReplayUnavailableError):
            await cache.first_use("e", 100)

    asyncio.run(run())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("redis")) as found:
        yield found.path


def with_redis(path, use):
    async def run():
        client = Redis(unix_socket_path=str(path))
        try:
            return await use(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_redis_accepts_once_however_many_ask_at_the_same_time(server):
    async def use(client):
        one, other = RedisReplayCache(client, prefix="once:"), RedisReplayCache(client, prefix="once:")
        return await asyncio.gather(*(cache.first_use("a", 60_000) for _ in range(20) for cache in (one, other)))

    assert sum(with_redis(server, use)) == 1


def test_redis_forgets_by_itself(server):
    async def use(client):
        cache = RedisReplayCache(client, prefix="forget:")
        assert await cache.first_use("a", 60_000)
        assert 0 < await client.pttl("forget:a") <= 60_000
        assert await cache.first_use("b", 1)
        deadline = time.monotonic() + 20
        while await client.exists("forget:b"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        return await cache.first_use("b", 60_000)

    assert with_redis(server, use)


def test_a_redis_that_is_away_or_refuses_is_no_answer(server, tmp_path):
    async def away(client):
        with pytest.raises(ReplayUnavailableError):
            await RedisReplayCache(client).first_use("a", 1000)

    with_redis(tmp_path / "nothing", away)

    async def full(client):
        await client.config_set("maxmemory", "1")
        try:
            await away(client)
        finally:
            await client.config_set("maxmemory", "0")

    with_redis(server, full)
