"""How many requests get through, in memory and in a real Redis."""

import asyncio
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from sdk.python.tests.hardening.servers import running
from serviceidentity_sdk.hardening import API, LOGIN, Away, AwayError, Limit, LimitedError, Limiter, MemoryCounts
from serviceidentity_sdk.hardening.redis import RedisCounts

PAUSES = st.lists(st.one_of(st.integers(0, 12).map(float), st.floats(0, 12)), min_size=1, max_size=40)


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


async def outcomes(counts, clock, limit, pauses):
    """Take after each pause; return when each was, and what came of it."""
    found = []
    for pause in pauses:
        clock.now = round(clock.now + pause, 3)
        found.append((clock.now, await counts.take(limit, "someone", uuid.uuid4().hex)))
    return found


@given(PAUSES, st.integers(1, 4), st.integers(1, 20))
def test_no_window_ever_has_more_and_nobody_is_refused_without_need(pauses, quota, window):
    clock = Clock()
    limit = Limit("x", quota, window)
    found = asyncio.run(outcomes(MemoryCounts(clock), clock, limit, pauses))
    allowed = [at for at, take in found if take.allowed]
    for at, take in found:
        before = [one for one in allowed if at - window < one <= at]
        assert len(before) <= quota
        if not take.allowed:
            assert len(before) == quota and take.remaining == 0
            assert take.reset == pytest.approx(before[0] + window - at, abs=0.01)
        else:
            assert 0 <= take.remaining < quota


@given(PAUSES, st.integers(1, 4), st.integers(1, 20))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_counts_as_the_memory_does(redis_server, pauses, quota, window):
    async def both():
        limit = Limit(f"n{uuid.uuid4().hex}", quota, window)
        redis = Redis(unix_socket_path=redis_server.path)
        try:
            here, there = Clock(), Clock()
            mine = await outcomes(MemoryCounts(here), here, limit, pauses)
            its = await outcomes(RedisCounts(redis, clock=there, timeout=5), there, limit, pauses)
        finally:
            await redis.aclose()
        for (_, one), (_, other) in zip(mine, its, strict=True):
            assert (one.allowed, one.remaining) == (other.allowed, other.remaining)
            assert one.reset == pytest.approx(other.reset, abs=0.01)

    asyncio.run(both())


def in_redis(server, work, **options):
    async def run():
        redis = Redis(unix_socket_path=server.path)
        try:
            return await work(RedisCounts(redis, **{"timeout": 5} | options), redis)
        finally:
            await redis.aclose()

    return asyncio.run(run())


def test_of_many_at_once_exactly_the_quota_gets_through(redis_server):
    """With Redis's own clock, from several connections."""

    async def work(counts, redis):
        limit = Limit(f"n{uuid.uuid4().hex}", 100, 900)
        takes = await asyncio.gather(*(counts.take(limit, "c", uuid.uuid4().hex) for _ in range(300)))
        (key,) = await redis.keys(f"ratelimit:{limit.name}:*")
        return takes, key, await redis.pttl(key)

    takes, key, left = in_redis(redis_server, work)
    assert sum(take.allowed for take in takes) == 100
    assert sorted(take.remaining for take in takes if take.allowed) == list(range(100))
    assert all(0 < take.reset <= 900 for take in takes)
    assert b":c" not in key and 0 < left <= 900_000


def test_what_is_given_back_makes_room_and_clients_do_not_share(redis_server):
    async def work(counts, _redis):
        limit = Limit(f"n{uuid.uuid4().hex}", 1, 900)
        one = await counts.take(limit, "c", "ticket")
        two = await counts.take(limit, "c", "other")
        await counts.give_back(limit, "c", "other")  # was never taken
        three = await counts.take(limit, "c", "other")
        another = await counts.take(limit, "d", "ticket")
        await counts.give_back(limit, "c", "ticket")
        four = await counts.take(limit, "c", "again")
        return [take.allowed for take in (one, two, three, another, four)]

    assert in_redis(redis_server, work) == [True, False, False, True, True]


def test_a_redis_that_was_started_anew_is_used_again(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("serviceidentity_sdk.hardening.redis.PAUSE", 0.0)
    limit = Limit("x", 5, 900)
    with running(tmp_path_factory.mktemp("r")) as server:

        async def work(counts, _redis):
            assert (await counts.take(limit, "c", "1")).remaining == 4
            server.stop()
            with pytest.raises(AwayError):
                await counts.take(limit, "c", "2")
            server.start()  # it knows no script any more
            return (await counts.take(limit, "c", "3")).remaining

        assert in_redis(server, work) == 4


def test_nobody_waits_for_a_redis_that_hangs():
    """And after the first one nobody even asks, for a moment."""
    asked = 0

    class Hanging:
        def register_script(self, _text):
            async def call(**_arguments):
                nonlocal asked
                asked += 1
                await asyncio.Event().wait()

            return call

    async def run():
        counts = RedisCounts(Hanging(), timeout=0.01)
        for _ in range(3):
            with pytest.raises(AwayError):
                await counts.take(API, "c", "t")

    asyncio.run(run())
    assert asked == 1


def test_an_answer_that_came_too_late_is_not_taken_for_another_ones(redis_server, monkeypatch):
    """A connection that was left while Redis was busy is not used for the next question."""
    monkeypatch.setattr("serviceidentity_sdk.hardening.redis.PAUSE", 0.0)

    async def work(patient, redis):
        hurried = RedisCounts(redis, timeout=0.01)
        limits = [Limit(f"n{uuid.uuid4().hex}", quota, 900) for quota in range(1, 9)]
        assert (await patient.take(limits[0], "c", "t")).remaining == 0
        await redis.execute_command("CLIENT", "PAUSE", "2000")
        late = await asyncio.gather(*(hurried.take(limits[0], "c", "t") for _ in range(4)), return_exceptions=True)
        assert all(isinstance(one, AwayError) for one in late)
        return [(limit.quota, (await patient.take(limit, "d", "t")).remaining) for limit in limits]

    found = in_redis(redis_server, work, timeout=20)
    assert all(remaining == quota - 1 for quota, remaining in found)


class NoRedis:
    async def take(self, limit, client, ticket):
        raise AwayError

    async def give_back(self, limit, client, ticket):
        raise AwayError


def test_without_redis_the_limit_of_the_api_holds_in_each_process():
    async def run():
        limiter = Limiter(Limit("x", 2, 900), NoRedis())
        attempts = [await limiter.take("c"), await limiter.take("c")]
        with pytest.raises(LimitedError) as error:
            await limiter.take("c")
        assert error.value.status == 429
        await attempts[0].succeeded()
        await limiter.take("c")

    asyncio.run(run())


def test_without_redis_nobody_logs_in():
    async def run():
        with pytest.raises(LimitedError) as error:
            await Limiter(LOGIN, NoRedis()).take("c")
        assert (error.value.status, error.value.body) == (503, {"error": "Service unavailable"})
        assert error.value.headers == {"retry-after": "5"}

    asyncio.run(run())


def test_without_redis_a_limit_may_be_open():
    async def run():
        limiter = Limiter(Limit("x", 1, 900, Away.ALLOW), NoRedis())
        for _ in range(3):
            await (await limiter.take("c")).succeeded()

    asyncio.run(run())


def test_attempts_at_the_same_time_do_not_slip_through():
    """Each is counted before it is known how it ends."""

    async def run():
        limiter = Limiter(LOGIN, MemoryCounts(Clock()))
        guesses = 0

        async def guess():
            nonlocal guesses
            async with limiter.attempt("account"):
                guesses += 1
                await asyncio.sleep(0)

        found = await asyncio.gather(*(guess() for _ in range(50)), return_exceptions=True)
        assert guesses == 5
        assert sum(isinstance(one, LimitedError) for one in found) == 45

    asyncio.run(run())


def test_memory_is_bounded():
    async def run():
        clock = Clock()
        counts = MemoryCounts(clock, clients=3)
        for number in range(10):
            await counts.take(API, f"c{number}", "t")
        assert len(counts._taken) == 3

    asyncio.run(run())


def test_the_numbers():
    assert (API.quota, API.window, API.away) == (100, 900, Away.LOCAL)
    assert (LOGIN.quota, LOGIN.window, LOGIN.away, LOGIN.failures_only) == (5, 3600, Away.REFUSE, True)


@pytest.mark.parametrize("arguments", [("x", 0, 60), ("x", 1, 0), ("", 1, 60), ('a"b', 1, 60), ("x", 1, float("nan"))])
def test_a_limit_that_makes_no_sense_is_an_error(arguments):
    with pytest.raises(ValueError, match="limit"):
        Limit(*arguments)
