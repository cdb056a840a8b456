"""The list of revoked tokens that all services share: the `revocations` of a `TokenVerifier`, and its writer."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serviceidentity_sdk.jwt.claims import token_ids
from serviceidentity_sdk.jwt.errors import UnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

try:
    from redis.exceptions import RedisError
except ImportError as missing:  # pragma: no cover
    raise ImportError("the list of revoked tokens needs: pip install 'serviceidentity-sdk[redis]'") from missing

T = TypeVar("T")
_TIMEOUT: Final = 0.5  # seconds that a request waits for Redis
_CLAIMS: Final = ("jti", "sid")


class RedisRevocations:
    """Tokens by `jti`, and all tokens of a session by `sid`, each until its last token has expired by itself.

    When Redis does not answer, nobody can say whether a token was revoked: UnavailableError, which `BearerMiddleware`
    answers with 503. Use a Redis that does not evict (`maxmemory-policy noeviction`), and that keeps what it has over a
    restart: what it forgets is good again, until it expires.
    """

    def __init__(self, client: "Redis", *, prefix: str = "serviceidentity:revoked:", timeout: float = _TIMEOUT) -> None:
        self._client = client
        self._prefix = prefix
        self._timeout = timeout

    async def is_revoked(self, claims: Mapping[str, Any]) -> bool:
        """Say whether this token, one it was narrowed from, or its session is on the list. Raises UnavailableError."""
        keys = [self._key("jti", one) for one in token_ids(claims)]
        if isinstance(claims.get("sid"), str):
            keys.append(self._key("sid", claims["sid"]))
        return bool(keys) and bool(await self._asked(lambda: self._client.exists(*keys)))

    async def revoke(self, until: datetime, *, jti: Collection[str] = (), sid: Collection[str] = ()) -> None:
        """Put tokens and sessions on the list; `until` is when the last of their tokens expires.

        Raises UnavailableError: some may be on the list then. Doing it again does no harm.
        """
        end = ceil(until.timestamp() * 1000)

        async def put() -> None:
            pipeline = self._client.pipeline(transaction=True)
            for name, values in zip(_CLAIMS, (jti, sid), strict=True):
                for value in values:
                    pipeline.set(self._key(name, value), b"1", pxat=end)
            await pipeline.execute()

        if jti or sid:
            await self._asked(put)

    def _key(self, claim: str, value: str) -> str:
        return f"{self._prefix}{claim}:{value}"

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await call()
        except (RedisError, OSError, TimeoutError):
            raise UnavailableError("the list of revoked tokens does not answer") from None
