"""Tokens in cookies, and requests of other sites that would use them.

`SameSite=Strict` keeps the cookies away from what other sites send. A page on a sibling domain is the same site,
though, and old browsers know no SameSite: so whatever changes something by a cookie has to come from this origin, by
the word of the browser, which scripts can't set (Fetch Metadata; RFC 6454 for those without it).
"""

from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from auth_service.app.sessions import Tokens
from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, Receive, Scope, Send

ACCESS: Final = "__Host-access"
REFRESH: Final = "__Secure-refresh"
REFRESH_PATH: Final = "/refresh"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CROSS_SITE: Final = {"error": "Cross-site request refused"}


def set_tokens(response: Response, tokens: Tokens) -> None:
    """Hand tokens over in cookies: the refresh token goes to one path only."""
    response.set_cookie(ACCESS, tokens.access, tokens.access_seconds, secure=True, httponly=True, samesite="strict")
    response.set_cookie(
        REFRESH,
        tokens.refresh,
        tokens.refresh_seconds,
        path=REFRESH_PATH,
        secure=True,
        httponly=True,
        samesite="strict",
    )


def delete_tokens(response: Response) -> None:
    """Have the browser forget the cookies."""
    response.delete_cookie(ACCESS, secure=True, httponly=True, samesite="strict")
    response.delete_cookie(REFRESH, path=REFRESH_PATH, secure=True, httponly=True, samesite="strict")


def own_origin(request: Request, origins: Collection[str]) -> bool:
    """Say whether a request comes from a page of this origin. Nothing that would say so is a no."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return request.headers.get("origin") in origins


class CookieTokens:
    """Middleware before `BearerMiddleware`: the access token of the cookie, where there is no Authorization header."""

    def __init__(self, app: Application, origins: Collection[str], paths: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._paths and not asgi.header(scope, b"authorization"):
            token = cookie(scope, ACCESS)
            if token is not None:
                if scope["method"] not in _SAFE and not own_origin(Request(scope), self._origins):
                    await asgi.refuse(scope, send, 403, CROSS_SITE)
                    return
                scope = {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + token.encode())]}
        await self._app(scope, receive, send)


def cookie(scope: Scope, name: str) -> str | None:
    """Return a cookie's value; None without one, and for one that is no token."""
    jar: SimpleCookie = SimpleCookie()
    try:
        for line in asgi.header(scope, b"cookie"):
            jar.load(line)
    except CookieError:
        return None
    found = jar.get(name)
    return found.value if found is not None and found.value.isascii() and found.value.isprintable() else None
