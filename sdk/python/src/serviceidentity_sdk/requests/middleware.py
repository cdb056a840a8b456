"""Signed requests in ASGI applications: Starlette, FastAPI and others."""

from collections.abc import Collection
from typing import Final

from serviceidentity_sdk import asgi
from serviceidentity_sdk.asgi import Application, Receive, Scope, Send
from serviceidentity_sdk.principal import attach
from serviceidentity_sdk.requests.authenticator import Authenticator, Received
from serviceidentity_sdk.requests.errors import Refusal, RefusedError, ReplayUnavailableError

LARGEST_BODY: Final = 1024 * 1024  # bytes
CHALLENGE: Final = 'ServiceSignature realm="services"'  # RFC 9110 11.6.1: a 401 has one
REPLAYED_CHALLENGE: Final = f'{CHALLENGE}, error="replayed"'


class SignedRequestMiddleware:
    """Lets only signed requests through and puts the caller on them (`request.state.principal`).

    `app.add_middleware(SignedRequestMiddleware, authenticator=...)`. `exempt` says of a path that it needs no
    signature: health checks, say. The application reads the body as it was signed, in the form of JSON.stringify: a
    number or a key that two JSON parsers read differently can't be put past the signature.
    """

    def __init__(
        self,
        app: Application,
        authenticator: Authenticator,
        *,
        exempt: Collection[str] = (),
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._exempt = frozenset(exempt)
        self._largest_body = largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        try:
            body = await asgi.read_body(receive, self._largest_body) if scope["type"] == "http" else b""
            accepted = await self._authenticator.authenticate(_received(scope, body))
        except asgi.DisconnectedError:
            return
        except asgi.BodyTooLargeError:
            await asgi.refuse(scope, send, 413, {"error": "Request body too large"})
            return
        except ReplayUnavailableError:
            await asgi.refuse(scope, send, 503, {"error": "Replay check unavailable"}, [("Retry-After", "1")])
            return
        except RefusedError as error:
            challenge = REPLAYED_CHALLENGE if error.refusal is Refusal.REPLAYED else CHALLENGE
            await asgi.refuse(scope, send, 401, {"error": str(error)}, [("WWW-Authenticate", challenge)])
            return
        if scope["type"] == "http":
            scope, receive = asgi.with_body(scope, receive, accepted.body)
        attach(scope, accepted.principal)
        await self._app(scope, receive, send)


def _received(scope: Scope, body: bytes) -> Received:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    hosts = asgi.header(scope, b"host")
    host = hosts[0] if len(hosts) == 1 else ""
    raw_path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    target = raw_path.partition(b"?")[0] + (b"?" + query if query else b"")
    url = f"{scope.get('scheme', 'http')}://{host}{target.decode('latin-1')}"
    return Received(scope.get("method", "GET"), url, headers, body)
