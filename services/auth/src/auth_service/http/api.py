"""The routes, and what stands before them."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from auth_service.app.sessions import Sessions, Tokens
from auth_service.domain.accounts import normalised
from auth_service.errors import InvalidCredentialsError, InvalidRefreshTokenError, UnavailableError
from auth_service.http import cookies
from auth_service.http.edges import LARGEST_BODY, Measured
from auth_service.http.metrics import CONTENT_TYPE, Metrics
from auth_service.http.models import (
    Delivery,
    InvalidProblem,
    KeySetResponse,
    LimitedProblem,
    LoginRequest,
    LogoutRequest,
    MeResponse,
    Problem,
    RefreshRequest,
    StatusResponse,
    TokenResponse,
)
from serviceidentity_sdk.asgi import Application
from serviceidentity_sdk.authz import authenticated, protect, public
from serviceidentity_sdk.hardening import (
    LOGIN,
    BodyLimit,
    Counts,
    Faults,
    LimitedError,
    Limiter,
    RateLimit,
    SecurityHeaders,
    by_address,
    validation_errors,
)
from serviceidentity_sdk.jwt import BearerMiddleware, TokenVerifier

OPEN: Final = ("/.well-known/jwks.json", "/healthz", "/readyz", "/metrics", "/openapi.json")  # not even counted
WITHOUT_TOKEN: Final = (*OPEN, "/login", "/refresh")
WITH_TOKEN: Final = ("/logout", "/me")
_KEYS_FOR: Final = 300  # seconds that verifiers keep the key set: within the identity's `cacheTime`
_BEARER: Final[dict[str, Any]] = {"security": [{"access token": []}, {"access cookie": []}]}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application is made of."""

    sessions: Sessions
    verifier: TokenVerifier
    counts: Counts
    jwks: Callable[[], bytes]
    ready: Callable[[], Any]
    metrics: Metrics
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
    origins: frozenset[str] = frozenset()
    trusted_hops: int = 0


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    models: Mapping[int, tuple[type[Problem], str]] = {
        400: (InvalidProblem, "Not valid; `details` has every error, without what was sent"),
        401: (Problem, "Not authenticated"),
        403: (Problem, "A cookie was sent from another site"),
        413: (Problem, "The body has more than 16 KiB"),
        429: (LimitedProblem, "Too many requests, or too many failed logins"),
        500: (Problem, "A fault of this service"),
        503: (Problem, "PostgreSQL or Redis is away; nobody gets in unchecked"),
    }
    return {one: {"model": models[one][0], "description": models[one][1]} for one in statuses}


def create_app(parts: Parts) -> Application:
    """Return the ASGI application."""
    app = FastAPI(
        title="auth-service",
        version="0.1.0",
        docs_url=None,
        redoc_url=None,
        lifespan=parts.lifespan,
        responses=_answers(413, 500),
    )
    _without_token(app, parts)
    _with_token(app, parts)
    _operations(app, parts)
    _document(app)
    validation_errors(app)
    app.add_exception_handler(UnavailableError, _unavailable)
    app.add_exception_handler(HTTPException, _refused)
    protect(app, public=["/openapi.json"])
    # The last one added is the first that a request meets.
    app.add_middleware(BearerMiddleware, verifier=parts.verifier, exempt=WITHOUT_TOKEN, realm="auth-service")
    app.add_middleware(cookies.CookieTokens, origins=parts.origins, paths=WITH_TOKEN)
    app.add_middleware(BodyLimit, largest=LARGEST_BODY)
    app.add_middleware(RateLimit, counts=parts.counts, exempt=OPEN, key=by_address(parts.trusted_hops))
    return SecurityHeaders(Measured(Faults(app), parts.metrics, (*WITHOUT_TOKEN, *WITH_TOKEN)))


def _without_token(app: FastAPI, parts: Parts) -> None:
    sessions, metrics = parts.sessions, parts.metrics
    limiter, address = Limiter(LOGIN, parts.counts), by_address(parts.trusted_hops)

    @app.post("/login", dependencies=[Depends(public())], responses=_answers(400, 401, 403, 429, 503))
    async def login(request: Request, response: Response, body: LoginRequest) -> TokenResponse:
        """Log in. Delivery `cookie` is for pages of this origin only."""
        if body.delivery is Delivery.COOKIE and not cookies.own_origin(request, parts.origins):
            raise HTTPException(403, cookies.CROSS_SITE["error"])
        try:
            attempt = await limiter.take(f"{normalised(body.username)} {address(request.scope)}")
        except LimitedError as error:
            metrics.logins.labels("limited").inc()
            raise HTTPException(error.status, dict(error.body), error.headers) from None  # type: ignore[arg-type]
        try:
            tokens = await sessions.log_in(body.username, body.password.get_secret_value())
        except InvalidCredentialsError:
            metrics.logins.labels("refused").inc()
            raise HTTPException(401, "Invalid username or password", {"WWW-Authenticate": "Bearer"}) from None
        except UnavailableError:
            metrics.logins.labels("unavailable").inc()
            await attempt.succeeded()  # it says nothing of the password
            raise
        await attempt.succeeded()
        metrics.logins.labels("accepted").inc()
        return _delivered(response, tokens, cookie=body.delivery is Delivery.COOKIE)

    @app.post("/refresh", dependencies=[Depends(public())], responses=_answers(400, 401, 403, 429, 503))
    async def refresh(request: Request, response: Response, body: RefreshRequest | None = None) -> TokenResponse:
        """Exchange a refresh token for new tokens. Each is good once; a second use ends the session."""
        token = None if body is None else body.refresh_token
        kept = cookies.cookie(request.scope, cookies.REFRESH) if token is None else None
        if kept is not None and not cookies.own_origin(request, parts.origins):
            raise HTTPException(403, cookies.CROSS_SITE["error"])
        try:
            tokens = await sessions.refresh(token or kept or "")
        except InvalidRefreshTokenError as error:
            metrics.refreshes.labels(str(error)).inc()
            raise HTTPException(401, "Invalid refresh token", {"WWW-Authenticate": "Bearer"}) from None
        metrics.refreshes.labels("accepted").inc()
        return _delivered(response, tokens, cookie=kept is not None)


def _with_token(app: FastAPI, parts: Parts) -> None:
    sessions, metrics = parts.sessions, parts.metrics

    @app.post(
        "/logout",
        status_code=204,
        dependencies=[Depends(authenticated())],
        responses=_answers(400, 401, 403, 429, 503),
        openapi_extra=_BEARER,
    )
    async def logout(request: Request, response: Response, body: LogoutRequest | None = None) -> None:
        """End this session, or all of the account: refresh tokens are dead, access tokens are revoked everywhere."""
        claims = request.state.principal.claims
        try:
            account, session = UUID(claims["sub"]), UUID(claims["sid"])
        except (KeyError, ValueError, TypeError, AttributeError):
            raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from None
        everywhere = body is not None and body.all
        await sessions.log_out(account, None if everywhere else session)
        metrics.logouts.labels("all" if everywhere else "one").inc()
        cookies.delete_tokens(response)

    @app.get(
        "/me",
        dependencies=[Depends(authenticated())],
        responses=_answers(401, 429, 503),
        openapi_extra=_BEARER,
    )
    async def me(request: Request) -> MeResponse:
        """Say whom the token stands for."""
        who = request.state.principal
        return MeResponse(
            id=who.subject,
            username=str(who.claims.get("name", "")),
            roles=sorted(who.roles),
            permissions=sorted(who.permissions),
        )


def _operations(app: FastAPI, parts: Parts) -> None:
    @app.get("/.well-known/jwks.json", dependencies=[Depends(public())])
    async def jwks(response: Response) -> KeySetResponse:
        """Return the public keys that verify access tokens."""
        response.headers["cache-control"] = f"public, max-age={_KEYS_FOR}"
        return KeySetResponse(keys=json.loads(parts.jwks())["keys"])

    @app.get("/healthz", dependencies=[Depends(public())])
    async def healthz() -> StatusResponse:
        """Say that the process answers."""
        return StatusResponse()

    @app.get("/readyz", dependencies=[Depends(public())], responses=_answers(503))
    async def readyz() -> StatusResponse:
        """Say that PostgreSQL answers. Without Redis some requests still go well."""
        if not await parts.ready():
            raise UnavailableError("not ready")
        return StatusResponse()

    @app.get(
        "/metrics",
        dependencies=[Depends(public())],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(parts.metrics.text(), media_type=CONTENT_TYPE)


def _delivered(response: Response, tokens: Tokens, *, cookie: bool) -> TokenResponse:
    answer = TokenResponse(expires_in=tokens.access_seconds, refresh_expires_in=tokens.refresh_seconds)
    if cookie:
        cookies.set_tokens(response, tokens)
        return answer
    return answer.model_copy(update={"access_token": tokens.access, "refresh_token": tokens.refresh})


async def _unavailable(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "Service unavailable"}, 503, {"retry-after": "1"})


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # that is what it is registered for
    body = error.detail if isinstance(error.detail, dict) else {"error": str(error.detail)}
    return JSONResponse(body, error.status_code, error.headers)


def _document(app: FastAPI) -> None:
    """Make the OpenAPI document true: 400 where FastAPI would say 422, and the two ways to bring a token."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for path in found["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            components = found["components"]
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            components["securitySchemes"] = {
                "access token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "access cookie": {"type": "apiKey", "in": "cookie", "name": cookies.ACCESS},
            }
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
