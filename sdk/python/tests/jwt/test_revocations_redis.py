"""The list of revoked tokens, in a real Redis."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sdk.python.tests.hardening.servers import running
from serviceidentity_sdk.jwt import UnavailableError
from serviceidentity_sdk.jwt.revocations_redis import RedisRevocations


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as found:
        yield found


def within(server, work):
    async def run():
        client = Redis(unix_socket_path=server.path)
        try:
            await client.flushall()
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


def soon(**delta):
    return datetime.now(UTC) + timedelta(**delta)


def test_a_token_and_a_session_are_revoked_and_others_are_not(server):
    async def work(client):
        found = RedisRevocations(client)
        await found.revoke(soon(minutes=15), jti=["t1"], sid=["s1"])
        asked = [{"jti": "t1", "sid": "s2"}, {"jti": "t2", "sid": "s1"}, {"jti": "t2", "sid": "s2"}]
        asked += [{"jti": "s1", "sid": "t1"}, {"jti": "t1"}, {"sid": "s1"}, {"sub": "t1"}, {"jti": ["t1"]}]
        return [await found.is_revoked(claims) for claims in asked]

    assert within(server, work) == [True, True, False, False, True, True, False, False]


def test_what_was_narrowed_from_a_revoked_token_is_revoked(server):
    async def work(client):
        found = RedisRevocations(client)
        await found.revoke(soon(minutes=15), jti=["t1"])
        asked = [["t1"], ["t0", "t1"], ["t1", "t0"], ["t0"], [], [1, None, ["t1"]], "t1", {"t1": 1}]
        return [await found.is_revoked({"jti": "t9", "parents": parents}) for parents in asked]

    assert within(server, work) == [True, True, True, False, False, False, False, False]


def test_nothing_is_kept_longer_than_the_last_token_lives(server):
    async def work(client):
        await RedisRevocations(client).revoke(soon(minutes=15), jti=["t1"], sid=["s1"])
        left = [await client.pttl(key) for key in await client.keys()]
        await RedisRevocations(client).revoke(soon(minutes=-1), jti=["t2"])
        return left, await RedisRevocations(client).is_revoked({"jti": "t2"})

    left, gone = within(server, work)
    assert len(left) == 2
    assert all(0 < one <= 15 * 60 * 1000 + 1 for one in left)
    assert not gone


def test_nobody_can_say_while_redis_is_away(tmp_path):
    async def work():
        client = Redis(unix_socket_path=str(tmp_path / "none.sock"))
        with pytest.raises(UnavailableError):
            await RedisRevocations(client).is_revoked({"jti": "t1"})
        with pytest.raises(UnavailableError):
            await RedisRevocations(client).revoke(soon(minutes=15), jti=["t1"])
        await RedisRevocations(client).revoke(soon(minutes=15))
        await client.aclose()

    asyncio.run(work())


def test_a_redis_that_hangs_is_not_waited_for(tmp_path):
    async def work():
        server = await asyncio.start_unix_server(lambda _reader, _writer: None, tmp_path / "hangs.sock")
        client = Redis(unix_socket_path=str(tmp_path / "hangs.sock"))
        with pytest.raises(UnavailableError):
            await RedisRevocations(client, timeout=0.05).is_revoked({"jti": "t1"})
        await client.aclose()
        server.close()

    asyncio.run(work())
