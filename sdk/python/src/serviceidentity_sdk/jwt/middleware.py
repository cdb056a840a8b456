"""Bearer tokens (RFC 6750) in ASGI applications: Starlette, FastAPI and others."""

import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import Final

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, Receive, Scope, Send
from serviceidentity_sdk.jwt.errors import Refusal, TokenError, UnavailableError
from serviceidentity_sdk.jwt.verifier import TokenVerifier
from serviceidentity_sdk.principal import attach

_LOG: Final = logging.getLogger("serviceidentity_sdk.jwt")

current_token: Final[ContextVar[str | None]] = ContextVar("current_token", default=None)
"""The verified token of the request that is being served, for calls to the next service."""


class BearerMiddleware:
    """Lets only requests with a good token through and puts its principal on them (`request.state.principal`).

    `app.add_middleware(BearerMiddleware, verifier=...)`. With `optional`, a request without a token goes through
    without a principal; a token that is there has to be good all the same. `exempt` says of a path that it needs none.
    """

    def __init__(
        self,
        app: Application,
        verifier: TokenVerifier,
        *,
        optional: bool = False,
        exempt: Collection[str] = (),
        realm: str | None = None,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._optional = optional
        self._exempt = frozenset(exempt)
        chosen = realm if realm is not None else " ".join(sorted(verifier.audiences))
        self._challenge = f'Bearer realm="{chosen}"'
        if '"' in chosen or "\\" in chosen or not chosen.isascii() or not chosen.isprintable():
            raise ValueError("a realm is printable ASCII text without quotes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        try:
            token = self._token(scope)
            verified = await self._verifier.verify(token) if token is not None else None
        except UnavailableError:
            await asgi.refuse(scope, send, 503, {"error": "Token check unavailable"}, [("Retry-After", "1")])
            return
        except TokenError as error:
            _LOG.debug("a token is refused: %s %s", error.refusal, error.detail)
            await asgi.refuse(scope, send, 401, {"error": str(error)}, [("WWW-Authenticate", self._challenged(error))])
            return
        if verified is not None:
            attach(scope, verified.principal)
        bound = current_token.set(token)
        try:
            await self._app(scope, receive, send)
        finally:
            current_token.reset(bound)

    def _token(self, scope: Scope) -> str | None:
        token = bearer_token(asgi.header(scope, b"authorization"))
        if token is None and not self._optional:
            raise TokenError(Refusal.MISSING)
        return token

    def _challenged(self, error: TokenError) -> str:
        """Return the challenge; RFC 6750 3.1: a request without credentials gets no error code."""
        if error.refusal is Refusal.MISSING:
            return self._challenge
        return f'{self._challenge}, error="invalid_token", error_description="{error}"'


def bearer_token(headers: list[str]) -> str | None:
    """Return the token of the Authorization headers; None when there is none, or it is of another scheme.

    Raises TokenError when there are several: which one a proxy before looked at is not known.
    """
    if not headers:
        return None
    if len(headers) > 1:
        raise TokenError(Refusal.INVALID, "several Authorization headers")
    scheme, _, token = headers[0].strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
