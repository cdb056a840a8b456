"""Counts of requests in Redis, which several replicas share."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

try:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening.redis needs: pip install 'serviceidentity-sdk[redis]'") from error

from serviceidentity_sdk.hardening.limits import AwayError, Limit, Take

logger = logging.getLogger(__name__)

TIMEOUT: Final = 0.25  # seconds that a request waits for Redis
PAUSE: Final = 1.0  # seconds in which nobody asks again
AT_ONCE: Final = 32  # below what a pool of connections has: a burst waits, and is not taken for a Redis that is away

# One step for Redis, whoever else asks at the same time: a sorted set holds a ticket for each request that was allowed,
# by its time in microseconds. It is Redis's own clock: those of the replicas do not matter. A test may give a time.
# The key ends a window after the last request that was allowed.
_TAKE: Final = """
local now = tonumber(ARGV[4])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local quota, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local taken = redis.call('ZCARD', KEYS[1])
local allowed = 0
if taken < quota then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(window / 1000)))
  allowed, taken = 1, taken + 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {allowed, quota - taken, string.format('%.0f', oldest[2] + window - now)}
"""
_MICROSECONDS: Final = 1_000_000


class RedisCounts:
    """Counts in one Redis. What is stored names no client: keys are `<prefix>:<limit>:<SHA-256 of the client>`."""

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str = "ratelimit",
        timeout: float = TIMEOUT,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Count in `redis`. A `clock` in seconds stands in for that of Redis, in tests.

        Services that share a Redis count together, unless each has a `prefix` of its own.
        """
        self._redis = redis
        self._script = redis.register_script(_TAKE)
        self._prefix = prefix
        self._timeout = timeout
        self._clock = clock
        self._silent_until = 0.0
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def take(self, limit: Limit, client: str, ticket: str) -> Take:
        """Count a request, as the protocol says."""
        now = -1 if self._clock is None else round(self._clock() * _MICROSECONDS)
        window = round(limit.window * _MICROSECONDS)
        arguments: list[str | int] = [limit.quota, window, ticket, now]
        found = await self._asked(lambda: self._script(keys=[self._key(limit, client)], args=arguments))
        allowed, remaining, reset = found
        return Take(bool(allowed), int(remaining), int(reset) / _MICROSECONDS)

    async def give_back(self, limit: Limit, client: str, ticket: str) -> None:
        """Count it no more, as the protocol says."""
        await self._asked(lambda: self._redis.zrem(self._key(limit, client), ticket))

    def _key(self, limit: Limit, client: str) -> str:
        return f"{self._prefix}:{limit.name}:{hashlib.sha256(client.encode(errors='surrogatepass')).hexdigest()}"

    async def _asked(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for Redis, not for long; after a failure nobody waits for a moment."""
        if time.monotonic() < self._silent_until:
            raise AwayError("Redis did not answer a moment ago")
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                return await call()
        except (RedisError, OSError, TimeoutError) as error:
            self._silent_until = time.monotonic() + PAUSE
            logger.warning("rate limits: Redis does not answer (%s)", type(error).__name__)
            raise AwayError("Redis does not answer") from error
