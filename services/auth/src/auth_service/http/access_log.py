"""One line of JSON a request on stdout: which service asked, with which credential, and what came of it.

A line has public identifiers only: serial numbers, key IDs, the name of the database user. Nothing in it is a
customer's.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from serviceidentity_sdk.asgi import Application, Message, Receive, Scope, Send
from serviceidentity_sdk.principal import Kind, principal_of

_SHOWN: Final = 8  # characters of a serial number
_ERRORS: Final = range(400, 600)


def stdout(line: Mapping[str, Any]) -> None:
    """Write a line, in one piece."""
    print(json.dumps(line, separators=(",", ":")), flush=True)  # noqa: T201


class AccessLog:
    """The outermost layer. `paths` are the ones that lines name; requests to `exempt` ones leave none.

    `facts` gives what else is true at the moment, such as the key that signs.
    """

    def __init__(
        self,
        app: Application,
        *,
        paths: Collection[str],
        exempt: Collection[str],
        facts: Callable[[], Mapping[str, Any]],
        write: Callable[[Mapping[str, Any]], None] = stdout,
    ) -> None:
        self._app, self._paths, self._exempt = app, frozenset(paths), frozenset(exempt)
        self._facts, self._write = facts, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        line: dict[str, Any] = {"at": round(time.time(), 3), "service": "auth-service", "status": 0}
        began = time.monotonic()

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
            elif message["type"] == "http.response.body" and line["status"] in _ERRORS:
                line.setdefault("reason", _error_in(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, receive, sender)
        finally:
            peer = principal_of(scope, Kind.CERTIFICATE)
            if peer is not None:
                line |= {"caller": peer.subject, "certificate": str(peer.claims["serial_number"])[:_SHOWN]}
            line |= {"action": f"{scope['method']} {path}", **self._facts()}
            line["ms"] = round((time.monotonic() - began) * 1000, 1)
            self._write({name: value for name, value in line.items() if value is not None})


def _error_in(body: bytes) -> str | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return str(found["error"]) if isinstance(found, dict) and "error" in found else None
