"""A bound on bodies, for the edge; behind it, the middleware that checks signatures has one."""

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, BodyTooLargeError, DisconnectedError, Receive, Scope, Send


class BodyLimit:
    """Refuses bodies of more than `largest` bytes with 413."""

    def __init__(self, app: Application, *, largest: int) -> None:
        self._app, self._largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asgi.read_body(receive, self._largest)
        except BodyTooLargeError:
            await asgi.refuse(scope, send, 413, {"error": "Request body too large"}, [("Connection", "close")])
        except DisconnectedError:
            return
        else:
            await self._app(*asgi.with_body(scope, receive, body), send)
