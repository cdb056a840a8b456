"""Rate limits on requests: a middleware, and the same for code that knows better when something has failed."""

import logging
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serviceidentity_sdk.hardening.clients import ClientKey, by_address
from serviceidentity_sdk.hardening.limits import API, Away, AwayError, Counts, Limit, MemoryCounts, Take

logger = logging.getLogger(__name__)

TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
_FAILED: Final = range(400, 500)
_RETRY: Final = 5  # seconds until a client may ask again whether Redis is back


class LimitedError(Exception):
    """There is no room now. `take` says when there is; None: nobody can tell, because Redis is away."""

    def __init__(self, limit: Limit, take: Take | None) -> None:
        super().__init__(f"limit {limit.name} is reached" if take else f"limit {limit.name} can't be checked")
        self.limit = limit
        self.take = take

    @property
    def status(self) -> int:
        """Status of the answer: 429, or 503."""
        return UNAVAILABLE if self.take is None else TOO_MANY

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        if self.take is None:
            return {"retry-after": str(_RETRY)}
        return headers(self.limit, self.take) | {"retry-after": str(self.take.seconds)}

    @property
    def body(self) -> Mapping[str, object]:
        """JSON body of the answer."""
        if self.take is None:
            return {"error": "Service unavailable"}
        return {"error": "Too many requests", "retryAfter": self.take.seconds}


class Attempt:
    """A request that was counted. `take` is None when it was let through uncounted."""

    def __init__(self, limiter: "Limiter", client: str, ticket: str, take: Take | None, counts: Counts) -> None:
        self.take = take
        self._limiter = limiter
        self._client = client
        self._ticket = ticket
        self._counts = counts

    async def succeeded(self) -> None:
        """Give it back: it is counted no more."""
        if self.take is None:
            return
        try:
            await self._counts.give_back(self._limiter.limit, self._client, self._ticket)
        except AwayError:
            logger.info("limit %s: a success stays counted until its window is over", self._limiter.limit.name)


class Limiter:
    """One limit, and where its requests are counted."""

    def __init__(self, limit: Limit, counts: Counts) -> None:
        self.limit = limit
        self._counts = counts
        self._local = MemoryCounts(time.monotonic)

    async def take(self, client: str) -> Attempt:
        """Count an attempt of a client. Raises LimitedError.

        It is counted before it is known how it ends: attempts made at the same time can't all slip through.
        """
        ticket, counts = uuid.uuid4().hex, self._counts
        try:
            found = await counts.take(self.limit, client, ticket)
        except AwayError:
            if self.limit.away is Away.REFUSE:
                raise LimitedError(self.limit, None) from None
            if self.limit.away is Away.ALLOW:
                return Attempt(self, client, ticket, None, counts)
            counts = self._local
            found = await counts.take(self.limit, client, ticket)
        if not found.allowed:
            raise LimitedError(self.limit, found)
        return Attempt(self, client, ticket, found, counts)

    @asynccontextmanager
    async def attempt(self, client: str) -> AsyncIterator[Attempt]:
        """Count an attempt, say of one account: `async with limiter.attempt(name) as attempt`. Raises LimitedError.

        It stays counted unless `attempt.succeeded()` is called, also when the block ends with an exception.
        """
        yield await self.take(client)


class RateLimit:
    """Middleware that limits requests, and says how many are left.

    `paths` are the only ones that it looks at, `exempt` those that it does not, exactly as requested; so are `methods`.
    With `failures_only` an answer from 400 to 499 stays counted; so does a request that ended without an answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        counts: Counts,
        limit: Limit = API,
        key: ClientKey | None = None,
        paths: Collection[str] | None = None,
        exempt: Collection[str] = (),
        methods: Collection[str] | None = None,
    ) -> None:
        self._app = app
        self._limiter = Limiter(limit, counts)
        self._key = key or by_address()
        self._paths = None if paths is None else frozenset(paths)
        self._exempt = frozenset(exempt)
        self._methods = None if methods is None else frozenset(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._concerns(scope):
            await self._app(scope, receive, send)
            return
        try:
            attempt = await self._limiter.take(self._key(scope))
        except LimitedError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
            return
        await self._pass(attempt, scope, receive, send)

    async def _pass(self, attempt: Attempt, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limiter.limit

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                take = attempt.take
                if limit.failures_only and message["status"] not in _FAILED:
                    await attempt.succeeded()
                    take = None if take is None else Take(take.allowed, take.remaining + 1, take.reset)
                if take is not None:
                    shown = MutableHeaders(scope=message)
                    for name, value in headers(limit, take).items():
                        shown.append(name, value)
            await send(message)

        await self._app(scope, receive, sender)

    def _concerns(self, scope: Scope) -> bool:
        if self._methods is not None and scope["method"] not in self._methods:
            return False
        path = scope["path"]
        return path not in self._exempt and (self._paths is None or path in self._paths)


def headers(limit: Limit, take: Take) -> dict[str, str]:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers: the policy, what remains, and until when."""
    return {
        "ratelimit-policy": f'"{limit.name}";q={limit.quota};w={ceil_seconds(limit.window)}',
        "ratelimit": f'"{limit.name}";r={take.remaining};t={take.seconds}',
    }


def ceil_seconds(window: float) -> int:
    """Return a window in whole seconds, as the field has it."""
    return int(-(-window // 1))
