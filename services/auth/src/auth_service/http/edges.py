"""What every request goes through: a bound on its body, its time, and an answer to faults that says nothing of them."""

import logging
import time
from collections.abc import Collection
from typing import Final

from auth_service.http.metrics import Metrics
from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, BodyTooLargeError, DisconnectedError, Message, Receive, Scope, Send

_LOG: Final = logging.getLogger("auth_service.http")
LARGEST_BODY: Final = 16 * 1024
FAULT: Final = {"error": "Internal server error"}
_FAULT: Final = 500


class BodyLimit:
    """Refuses bodies of more than 16 KiB: the largest that is right has a tenth of that."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asgi.read_body(receive, LARGEST_BODY)
        except BodyTooLargeError:
            await asgi.refuse(scope, send, 413, {"error": "Request body too large"}, [("Connection", "close")])
        except DisconnectedError:
            return
        else:
            await self._app(*asgi.with_body(scope, receive, body), send)


class Faults:
    """The outermost layer: measures, and answers 500 without a word about why. Its text is not logged either."""

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
        except Exception as error:  # noqa: BLE001  # the last one who could answer
            _LOG.error("a request failed: %s at %s", type(error).__name__, _where(error))
            if not status:
                await asgi.refuse(scope, sender, _FAULT, FAULT)
            elif status != _FAULT:
                raise RuntimeError("an answer was cut off") from None  # the server closes the connection
        finally:
            route = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.seconds.labels(route, str(status)).observe(time.monotonic() - began)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
