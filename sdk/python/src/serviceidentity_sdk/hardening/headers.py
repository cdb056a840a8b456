"""Headers by which browsers protect a service and its users."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

try:
    from starlette.datastructures import MutableHeaders
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise ImportError("serviceidentity_sdk.hardening needs: pip install 'serviceidentity-sdk[asgi]'") from error

# RFC 6797; what hstspreload.org asks for: a year, subdomains, preload.
HSTS: Final = "max-age=31536000; includeSubDomains; preload"
# An API answers with data: nothing in it is ever loaded, framed or submitted. (CSP level 3)
CSP_API: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Pages whose scripts, styles, fonts and images come from the service itself; no inline script, no plug-in, no frame.
CSP_PAGES: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'; upgrade-insecure-requests"
)
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",  # for browsers that know no frame-ancestors
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "x-permitted-cross-domain-policies": "none",
        "cache-control": "no-store",
    }
)
_REVEALING: Final = ("x-powered-by", "server")


class SecurityHeaders:
    """Middleware that adds security headers to every answer. A header that an endpoint sets itself stays as it is.

    `csp` is the Content-Security-Policy, None for none; `hsts` the Strict-Transport-Security. HSTS is sent over plain
    HTTP, too: behind a proxy that ends TLS a service can't tell, and browsers ignore it there (RFC 6797 section 8.1).
    """

    def __init__(self, app: ASGIApp, *, csp: str | None = CSP_API, hsts: str | None = HSTS) -> None:
        self._app = app
        self._headers = dict(HEADERS)
        if csp is not None:
            self._headers["content-security-policy"] = csp
        if hsts is not None:
            self._headers["strict-transport-security"] = hsts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sender(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name in _REVEALING:
                    del headers[name]
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sender if scope["type"] in ("http", "websocket") else send)
