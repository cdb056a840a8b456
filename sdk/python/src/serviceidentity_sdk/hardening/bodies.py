"""A bound on bodies."""

from typing import Final

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, BodyTooLargeError, DisconnectedError, Receive, Scope, Send

LARGEST_BODY: Final = 100 * 1024  # bytes


class BodyLimit:
    """Middleware that refuses bodies of more than `largest` bytes with 413, before the application reads any of it.

    The body is read whole first: not for uploads. What comes without Content-Length is counted as it comes.
    """

    def __init__(self, app: Application, *, largest: int = LARGEST_BODY) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asgi.read_body(receive, self._largest)
        except BodyTooLargeError:
            # HTTP/2 has no such header (RFC 9113 8.2.2); there is no rest of a body in the way there either.
            ends = [("Connection", "close")] if scope.get("http_version", "1.1").startswith("1") else []
            await asgi.refuse(scope, send, 413, {"error": "Request body too large"}, ends)
        except DisconnectedError:
            return
        else:
            await self._app(*asgi.with_body(scope, receive, body), send)
