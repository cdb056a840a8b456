"""The replay cache that all replicas of a service share."""

from typing import TYPE_CHECKING

from serviceidentity_sdk.requests.errors import ReplayUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

try:
    from redis.exceptions import RedisError
except ImportError as missing:  # pragma: no cover
    raise ImportError("the replay cache in Redis needs: pip install 'serviceidentity-sdk[redis]'") from missing


class RedisReplayCache:
    """Remembers in Redis, with SET NX PX: one round trip, and Redis forgets by itself.

    Give each service a prefix or database of its own, and a Redis that does not evict (`maxmemory-policy noeviction`):
    what it evicts could be used again.
    """

    def __init__(self, client: "Redis", *, prefix: str = "serviceidentity:replay:") -> None:
        self._client = client
        self._prefix = prefix

    async def first_use(self, key: str, lifetime_ms: int) -> bool:
        try:
            return bool(await self._client.set(self._prefix + key, b"1", nx=True, px=max(lifetime_ms, 1)))
        except (RedisError, OSError, TimeoutError):
            raise ReplayUnavailableError("the replay cache does not answer") from None
