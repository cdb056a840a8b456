"""What every service of the shop stands on: its credentials, followed while it runs, and the layers before its routes.

    app, policies = stack.application(), stack.policies()

    @app.post("/payments", dependencies=[Depends(authorize_action(policies, "payments:create"))])
    ...
    return stack.behind(app, stack.verifier(issuer="order-service", audience="payment-service"))

A request to `behind` meets, in this order: the journal's line, security headers, mutual TLS with the callers of
SHOP_CALLERS, the signature of the calling service (once only: Redis remembers), the bearer token with the list of
revoked ones, and deny by default. `edge` is for the one service that customers reach: no certificate and no signature,
but a bound on bodies and a rate limit.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx
from fastapi import Depends, FastAPI
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from examples.shop.services import journal
from examples.shop.services.calls import Next
from examples.shop.services.errors import RefusedError, UnavailableError
from examples.shop.services.settings import Settings
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.authz import protect, public
from serviceidentity_sdk.credentials import Directory, Watch
from serviceidentity_sdk.hardening import API, BodyLimit, Faults, Limit, RateLimit, SecurityHeaders, validation_errors
from serviceidentity_sdk.hardening.redis import RedisCounts
from serviceidentity_sdk.jwt import BearerMiddleware, MountedKeys, TokenVerifier, read_jwks
from serviceidentity_sdk.jwt.revocations_redis import RedisRevocations
from serviceidentity_sdk.mtls import MutualTLS, MutualTLSMiddleware, Peers
from serviceidentity_sdk.mtls.client import AsyncMutualTLSTransport
from serviceidentity_sdk.policy import PolicyEngine, reader
from serviceidentity_sdk.postgres import PostgresError, PostgresPool, watch_login
from serviceidentity_sdk.principal import Kind, principal_of
from serviceidentity_sdk.requests import (
    ServiceAuthenticator,
    ServiceSigner,
    SignedRequestMiddleware,
    read_keyring,
    read_signing_key,
)
from serviceidentity_sdk.requests.client import SignedRequests
from serviceidentity_sdk.requests.replay_redis import RedisReplayCache

_LOG: Final = logging.getLogger("shop")
PROBES: Final = ("/healthz", "/readyz")  # the kubelet has no certificate
LARGEST_BODY: Final = 16 * 1024  # bytes
CALL: Final = 10.0  # seconds for a call to the next service
_REDIS: Final = 2.0  # seconds that a request waits for Redis: without it nobody is let in
_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=50, keepalive_expiry=30)

Resource = TypeVar("Resource", bound=AbstractAsyncContextManager[Any])
Transport = Callable[[str], httpx.AsyncBaseTransport]


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class Stack:
    """The credentials of one service and its connections; they are followed and open while its application runs.

    `redis`, `transport` (by the next service's name), `clock` (of policies) and `write` stand in for the real ones in
    tests. Raises CredentialError when something that is mounted is missing or not good.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        redis: Any = None,
        transport: Transport | None = None,
        clock: Callable[[], datetime] = now,
        write: Callable[[Mapping[str, Any]], None] = journal.stdout,
    ) -> None:
        self.name, self.settings = name, settings
        self._write, self._transport = write, transport
        self._interval = float(settings.look_every)
        self._open: list[AbstractAsyncContextManager[Any]] = []
        self._redis = redis or _redis(settings.redis)
        self.tls = MutualTLS(settings.tls, settings.trust, interval=self._interval)  # followed by mtls.server.run
        self._clock = clock
        self._pool: PostgresPool | None = None

    def follow(self, parse: Callable[..., Any], *directories: str) -> Watch[Any]:
        """Return what `parse` makes of mounted directories, always the last that was good."""
        watch: Watch[Any] = Watch([Directory(path) for path in directories], parse, interval=self._interval)
        return self._with(watch)

    def policies(self) -> PolicyEngine:
        """Return what decides, by the AccessPolicies that select this service; decisions are on the journal's lines."""
        parse = reader(f"{self.settings.namespace}/{self.name}")
        rules = self.follow(parse, self.settings.policy, self.settings.trust)
        return PolicyEngine(rules, on_decision=journal.decided, clock=self._clock)

    def postgres(self, schema: str) -> PostgresPool:
        """Return connections to PostgreSQL by the user of the lease, whichever that is."""
        login = self._with(watch_login(self.settings.database_login, self._interval))
        self._pool = self._with(PostgresPool(self.settings.database, login, name=self.name, search_path=[schema]))
        return self._pool

    def verifier(self, issuer: str, audience: str) -> TokenVerifier:
        """Return what verifies tokens of an issuer, whose keys are in SHOP_JWKS, and asks whether they are revoked."""
        keys = MountedKeys(self.follow(read_jwks, self.settings.jwks))
        revocations = RedisRevocations(self._redis, timeout=_REDIS)
        return TokenVerifier(keys, issuer=issuer, audience=audience, revocations=revocations)

    def background(self, resource: Resource) -> Resource:
        """Keep something open while the application runs."""
        return self._with(resource)

    def next(self, name: str, url: str, spiffe_id: str, *, sign: bool = True, timeout: float = CALL) -> Next:
        """Return another service: who answers has to have its SPIFFE ID, whatever the address is."""
        if self._transport is not None:
            transport = self._transport(name)
        else:
            servers = Peers(spiffe_ids=[spiffe_id])
            transport = AsyncMutualTLSTransport(self.tls, servers=servers, check_hostname=False, limits=_LIMITS)
        auth = None
        if sign:
            auth = SignedRequests(ServiceSigner(self.name, self.follow(read_signing_key, self.settings.hmac)))
        return Next(name, self._with(httpx.AsyncClient(base_url=url, transport=transport, auth=auth, timeout=timeout)))

    def application(self) -> FastAPI:
        """Return an application with probes and the answers to what goes wrong, and no route yet."""

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._redis.aclose)
                for one in self._open:
                    await stack.enter_async_context(one)
                yield

        app = FastAPI(title=self.name, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
        validation_errors(app)
        app.add_exception_handler(UnavailableError, _unavailable)
        app.add_exception_handler(PostgresError, _unavailable)
        app.add_exception_handler(RefusedError, _refused)
        protect(app)

        @app.get("/healthz", dependencies=[Depends(public())])
        async def healthz() -> dict[str, str]:
            return {"status": "ok"}

        @app.get("/readyz", dependencies=[Depends(public())])
        async def readyz() -> dict[str, str]:
            if self._pool is not None and not await self._pool.ready("SELECT 1 FROM schema_migrations LIMIT 1"):
                raise UnavailableError("the database does not answer")
            return {"status": "ok"}

        return app

    def behind(self, app: FastAPI, verifier: TokenVerifier, *, without_token: tuple[str, ...] = ()) -> Application:
        """Put the layers before an application that other services call. The last one added is met first.

        `without_token` are paths where a service acts for itself: policies see who signed.
        """
        keyring = self.follow(read_keyring, self.settings.keyring)
        replay = RedisReplayCache(self._redis, prefix=f"{self.name}:replay:")
        authenticator = ServiceAuthenticator(keyring, replay=replay)
        callers = Peers(spiffe_ids=self.settings.callers.split())
        app.add_middleware(BearerMiddleware, verifier=verifier, exempt=(*PROBES, *without_token))
        app.add_middleware(
            SignedRequestMiddleware, authenticator=authenticator, exempt=PROBES, largest_body=LARGEST_BODY
        )
        app.add_middleware(MutualTLSMiddleware, tls=self.tls, allowed=callers, exempt=PROBES)
        return self._outermost(app)

    def edge(self, app: FastAPI, verifier: TokenVerifier, *, without_token: tuple[str, ...]) -> Application:
        """Put the layers before an application that customers call."""
        counts = RedisCounts(self._redis, prefix=f"{self.name}:ratelimit", timeout=_REDIS)
        limit = Limit(API.name, int(self.settings.rate_limit), API.window)
        app.add_middleware(BearerMiddleware, verifier=verifier, exempt=(*PROBES, *without_token))
        app.add_middleware(BodyLimit, largest=LARGEST_BODY)
        app.add_middleware(RateLimit, counts=counts, limit=limit, exempt=PROBES)
        return self._outermost(app)

    def _outermost(self, app: FastAPI) -> Application:
        def login() -> str | None:
            return None if self._pool is None else self._pool.login

        return SecurityHeaders(
            journal.Journal(Faults(app), service=self.name, exempt=PROBES, login=login, write=self._write)
        )

    def _with(self, resource: Resource) -> Resource:
        self._open.append(resource)
        return resource


def _redis(url: str) -> Redis:
    """Return a client that waits for a connection in a burst, and for nothing longer than a request can."""
    options: dict[str, Any] = {"socket_timeout": _REDIS, "socket_connect_timeout": _REDIS, "timeout": _REDIS}
    return Redis.from_pool(BlockingConnectionPool.from_url(url, retry=Retry(NoBackoff(), 1), **options))


def service_of(request: HTTPConnection) -> dict[str, str]:
    """Return the calling service, for the rules of a policy as `context`: who signed the request."""
    signer = principal_of(request.scope, Kind.SIGNATURE)
    return {"service": "" if signer is None else signer.subject}


async def _unavailable(_request: Request, error: Exception) -> Response:
    _LOG.warning("503: %s", error)
    retry_after = error.retry_after if isinstance(error, UnavailableError) else "1"
    return JSONResponse({"error": "Service unavailable"}, 503, {"retry-after": retry_after})


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # that is what it is registered for
    return JSONResponse(error.body, error.status, error.headers)
