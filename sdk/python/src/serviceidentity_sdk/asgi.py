"""What the middlewares have in common at the ASGI edge: reading a body within bounds, and refusing.

Plain ASGI, so that they work under any framework and need none.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1


class BodyTooLargeError(Exception):
    """The body has more bytes than are read."""


class DisconnectedError(Exception):
    """The client went away before its body was complete."""


def header(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a header, as latin-1 text; `name` is in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def read_body(receive: Receive, largest: int) -> bytes:
    """Return the whole body. Raises BodyTooLargeError beyond `largest` bytes, DisconnectedError."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body += message.get("body", b"")
        if len(body) > largest:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def with_body(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """Return what the application behind gets, so that it reads this body."""
    headers = [(key, value) for key, value in scope["headers"] if key.lower() not in _OF_THE_FRAMING]
    if body or len(headers) != len(scope["headers"]):
        headers.append((b"content-length", str(len(body)).encode()))
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # what comes after a body is the client going away
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers}, again


_OF_THE_FRAMING: Final = (b"content-length", b"transfer-encoding")


async def refuse(
    scope: Scope, send: Send, status: int, body: Mapping[str, Any], headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Answer with JSON and end the request; a WebSocket is refused before it is accepted."""
    content = json.dumps(body, separators=(",", ":")).encode()
    lines: Pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    lines += [(b"cache-control", b"no-store")]
    lines += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": content})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": lines})
        await send({"type": "websocket.http.response.body", "body": content})
    else:
        reason = str(body.get("error", ""))
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})  # a 403
