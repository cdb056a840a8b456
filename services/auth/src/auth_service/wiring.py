"""Puts the parts together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI
from redis.asyncio import Redis

from auth_service.adapters.accounts import PostgresAccounts
from auth_service.adapters.migrations import SCHEMA
from auth_service.adapters.revocations import SharedRevocations
from auth_service.adapters.signing import PublishedKeys, SigningKey, watch_signing
from auth_service.app.sessions import Sessions
from auth_service.domain.passwords import OWASP, Cost, Passwords
from auth_service.domain.refresh import ACCESS_LIFETIME
from auth_service.errors import RejectedError, UnavailableError
from auth_service.http.access_log import AccessLog
from auth_service.http.api import OPEN, WITH_TOKEN, WITHOUT_TOKEN, Parts, create_app
from auth_service.http.metrics import Metrics
from auth_service.settings import Settings
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.credentials import Watch
from serviceidentity_sdk.hardening.redis import RedisCounts
from serviceidentity_sdk.jwt import TokenSigner, TokenVerifier
from serviceidentity_sdk.jwt.jose import Algorithm
from serviceidentity_sdk.jwt.revocations_redis import RedisRevocations
from serviceidentity_sdk.postgres import Login, PostgresPool, watch_login

_LOG: Final = logging.getLogger("auth_service")
_PRUNE_EVERY: Final = 3600.0  # seconds
_REDIS_TIMEOUT: Final = 2.0  # seconds: without its limit a login is refused, so a slow answer is better than none


def now() -> datetime:
    """Return the time in whole seconds and fractions, UTC."""
    return datetime.now(UTC)


def application(
    settings: Settings,
    *,
    cost: Cost = OWASP,
    interval: float | None = None,
    prune_every: float = _PRUNE_EVERY,
    guard: Callable[[Application], Application] = lambda app: app,
) -> Application:
    """Return the whole service; its lifespan opens and closes connections. Raises CredentialError, RejectedError.

    In seconds, `interval` is how often mounted files are looked at if not as settings say, `prune_every` how often old
    sessions are forgotten. `guard` puts another layer around it, and the access log is around that.
    """
    interval = settings.look_every if interval is None else interval
    login, signing = watch_login(settings.login, interval), watch_signing(settings.jwt, interval)
    redis = Redis.from_url(settings.redis)
    database, revocations = _database(settings, login), RedisRevocations(redis, timeout=_REDIS_TIMEOUT)
    accounts = PostgresAccounts(database)
    key, issuer, audience = SigningKey(signing), settings.issuer, settings.audience
    signer = TokenSigner(
        key, issuer=issuer, audience=audience, lifetime=settings.access_lifetime, longest=ACCESS_LIFETIME
    )
    sessions = Sessions(
        accounts, SharedRevocations(revocations), signer, Passwords(cost), now, access_lifetime=settings.access_lifetime
    )
    verifier = TokenVerifier(
        PublishedKeys(signing),
        issuer=issuer,
        audience=audience,
        algorithms=tuple(Algorithm),
        revocations=revocations,
    )
    metrics = Metrics()
    metrics.follow("database", login)
    metrics.follow("signing", signing)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(redis.aclose)
            for one in (login, signing, database):
                await stack.enter_async_context(one)
            task = asyncio.create_task(_prune(accounts, prune_every))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    app = create_app(
        Parts(
            sessions=sessions,
            verifier=verifier,
            counts=RedisCounts(redis, prefix="auth-service:ratelimit", timeout=_REDIS_TIMEOUT),
            jwks=lambda: signing.current.jwks,
            ready=lambda: database.ready("SELECT 1 FROM schema_migrations LIMIT 1"),
            metrics=metrics,
            lifespan=lifespan,
            origins=settings.origins,
            trusted_hops=settings.trusted_hops,
        )
    )
    app = guard(app)
    if not settings.access_log:
        return app

    def facts() -> dict[str, str]:
        return {"token": (signing.current.key.key_id or "")[:8], "database": login.current.user}

    return AccessLog(app, paths=(*WITHOUT_TOKEN, *WITH_TOKEN), exempt=OPEN, facts=facts)


def _database(settings: Settings, login: Watch[Login]) -> PostgresPool:
    try:
        return PostgresPool(settings.database, login, name="auth-service", search_path=[SCHEMA])
    except ValueError as error:
        raise RejectedError(f"AUTH_DATABASE: {error}") from None


async def _prune(accounts: PostgresAccounts, every: float) -> None:
    """Forget sessions that are over, now and then; several replicas do it without harm."""
    while True:
        await asyncio.sleep(every)
        try:
            _LOG.info("%d sessions are over and forgotten", await accounts.prune(now()))
        except UnavailableError:
            _LOG.warning("sessions that are over were not forgotten: the database is away")
