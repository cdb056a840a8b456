"""What every request goes through first: its time is taken."""

import time
from collections.abc import Collection
from typing import Final

from auth_service.http.metrics import Metrics
from serviceidentity_sdk.asgi import Application, Message, Receive, Scope, Send

LARGEST_BODY: Final = 16 * 1024  # the largest that is right has a tenth of that


class Measured:
    """Takes the time of each request, by its path and status; `paths` are the ones that there are."""

    def __init__(self, app: Application, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sender)
        finally:
            route = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.seconds.labels(route, str(status)).observe(time.monotonic() - began)
