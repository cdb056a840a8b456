"""An answer to faults that says nothing of them."""

import logging
from typing import Final

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, Message, Receive, Scope, Send

_LOG: Final = logging.getLogger("serviceidentity_sdk.hardening")
FAULT: Final = {"error": "Internal server error"}
_STATUS: Final = 500


class Faults:
    """The outermost layer, around the application: `app = Faults(app)`.

    An exception that nobody handled is answered with 500 and not a word about why. The log has its type and where it
    was raised, not its text: that may quote a password or a token. A 500 that the application answers without raising
    stays as it is.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False
        held: list[Message] = []  # of a 500: Starlette sends one of its own, and then raises what it was about

        async def sender(message: Message) -> None:
            nonlocal begun
            if held or (message["type"] == "http.response.start" and message["status"] == _STATUS):
                held.append(message)
            else:
                begun = True
                await send(message)

        try:
            await self._app(scope, receive, sender)
        except Exception as error:  # noqa: BLE001  # the last one who could answer
            _LOG.error("a request failed: %s at %s", type(error).__name__, _where(error))
            if begun:
                raise RuntimeError("an answer was cut off") from None  # the server closes the connection
            await asgi.refuse(scope, send, _STATUS, FAULT)
        else:
            for message in held:
                await send(message)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
