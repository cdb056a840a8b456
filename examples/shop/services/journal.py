"""One line of JSON a request: who asked whom for what, with which credential, and what came of it.

It is around everything that answers, faults included. A line has public identifiers only: serial numbers, key IDs,
subjects.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, Message, Receive, Scope, Send
from serviceidentity_sdk.jwt import jose
from serviceidentity_sdk.policy import Decision
from serviceidentity_sdk.principal import Kind, Principal, principal_of

_REFUSED: Final = range(400, 600)
_SHOWN: Final = 8  # characters of a serial number or key ID
_LONGEST: Final = 64  # characters of a path

_line: Final[ContextVar[dict[str, Any] | None]] = ContextVar("line", default=None)


def note(**facts: Any) -> None:
    """Put facts on the line of the request that is being served; outside of one, nothing happens."""
    line = _line.get()
    if line is not None:
        line.update(facts)


def noted(name: str, default: Any) -> Any:
    """Return a fact of the line of the request that is being served."""
    return (_line.get() or {}).get(name, default)


def decided(_principal: Principal | None, action: str, decision: Decision) -> None:
    """Note a decision: `PolicyEngine(..., on_decision=decided)`. The last one of a request is on its line."""
    note(action=action, reason=decision.reason)
    if decision.rule:
        note(rule=f"{decision.policy}/{decision.rule}")


def stdout(line: Mapping[str, Any]) -> None:
    """Write a line, in one piece."""
    print(json.dumps(line, separators=(",", ":")), flush=True)


class Journal:
    """Writes the line of each request, but for those to `exempt` paths. `login` is the database user of the moment."""

    def __init__(
        self,
        app: Application,
        *,
        service: str,
        exempt: tuple[str, ...],
        login: Callable[[], str | None],
        write: Callable[[Mapping[str, Any]], None] = stdout,
    ) -> None:
        self._app, self._service, self._exempt, self._login, self._write = app, service, exempt, login, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        line: dict[str, Any] = {"at": round(time.time(), 3), "service": self._service, "status": 0}
        began, bound = time.monotonic(), _line.set(line)

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
            elif message["type"] == "http.response.body" and line["status"] in _REFUSED:
                line.setdefault("reason", _reason_in(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, receive, sender)
        finally:
            _line.reset(bound)
            line.setdefault("action", f"{scope['method']} {scope['path'][:_LONGEST]}")
            facts = {**line, **_credentials(scope), "database": self._login()}
            facts["ms"] = round((time.monotonic() - began) * 1000, 1)
            self._write({name: value for name, value in facts.items() if value is not None})


def _credentials(scope: Scope) -> dict[str, Any]:
    """Return what the middlewares verified. Nothing of a credential that was refused is in it."""
    peer, signer, user = (principal_of(scope, kind) for kind in (Kind.CERTIFICATE, Kind.SIGNATURE, Kind.TOKEN))
    found: dict[str, Any] = {}
    if peer is not None:
        found |= {"caller": peer.subject, "certificate": str(peer.claims["serial_number"])[:_SHOWN]}
    if signer is not None:
        found["signature"] = str(signer.claims["keyID"])[:_SHOWN]
    if user is not None:
        key_id = jose.read(asgi.header(scope, b"authorization")[0].split()[-1]).header.key_id
        found |= {"subject": user.subject, "token": key_id and key_id[:_SHOWN]}
    return found


def _reason_in(body: bytes) -> str | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return (found.get("reason") or found.get("error")) if isinstance(found, dict) else None
