"""uvicorn with mutual TLS: new material in each handshake, and the peer in the scope of each request."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

try:
    import uvicorn
except ImportError as error:
    raise ImportError("serving needs uvicorn: pip install 'serviceidentity-sdk[uvicorn]'") from error

from serviceidentity_sdk.mtls.contexts import ClientCertificate
from serviceidentity_sdk.mtls.extension import tls_extension
from serviceidentity_sdk.mtls.identity import MutualTLS

# uvicorn's default is 5 s, as is httpx's: both sides closing at the same time loses a request now and then.
_KEEP_ALIVE: Final = 65
_LAST_WORDS: Final = 20  # seconds for requests under way when a signal comes; a Pod has 30 in all
# asyncio waits 30 seconds for a client to confirm the end of TLS, which one that reads nothing between two requests
# never does: a server with one idle client would not end before it is killed.
_IDLE: Final = 1.0  # seconds that an idle one has instead
_LOOK: Final = 0.1  # seconds between two looks at a connection with a request under way
_ANSWERED: Final = 5.0  # seconds for one that may still be reading its last answer


def with_peer(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a uvicorn protocol, HTTP or WebSocket, whose requests carry the TLS extension of ASGI."""

    class PeerProtocol(protocol):  # type: ignore[valid-type,misc]
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connection = transport.get_extra_info("ssl_object")
            if connection is not None:
                application: Callable[..., Any] = self.__dict__["app"]
                self.app = _announced(application, tls_extension(connection))
                self._secured = transport

        def shutdown(self) -> None:
            """End, as uvicorn does: now when idle, else with the answer. Then do not wait for the client."""
            super().shutdown()
            secured = self.__dict__.get("_secured")
            if secured is not None:
                _cut_off(secured, _IDLE if secured.is_closing() else _ANSWERED)

    return PeerProtocol


def _cut_off(transport: Any, after: float) -> None:
    """Abort a connection, so many seconds after it began to close."""
    loop = asyncio.get_running_loop()
    if transport.is_closing():
        loop.call_later(after, transport.abort)
    else:
        loop.call_later(_LOOK, _cut_off, transport, after)


def _announced(app: Callable[..., Any], extension: dict[str, Any]) -> Callable[..., Any]:
    async def announced(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        scope.setdefault("extensions", {})["tls"] = extension
        return await app(scope, receive, send)

    return announced


class Config(uvicorn.Config):
    """uvicorn's configuration with mutual TLS. Options are uvicorn's own; those for TLS come from `tls`.

    One process: a Pod is scaled by replicas, and worker processes would each have to follow the files.
    """

    def __init__(
        self,
        app: Any,
        tls: MutualTLS,
        *,
        client_certificate: ClientCertificate = ClientCertificate.REQUIRED,
        **options: Any,
    ) -> None:
        wrong = sorted(name for name in options if name.startswith("ssl_") or name in {"reload", "http2"})
        if wrong:
            raise ValueError(f"these options of uvicorn can't be used with mutual TLS: {', '.join(wrong)}")
        options.setdefault("timeout_keep_alive", _KEEP_ALIVE)
        options.setdefault("timeout_graceful_shutdown", _LAST_WORDS)
        super().__init__(
            app,
            ssl_context_factory=lambda _config, _default: tls.server_context(client_certificate),
            **{**options, "workers": 1},
        )

    def load(self) -> None:
        """Load the application, as uvicorn does, behind protocols that tell it who its peer is."""
        super().load()
        self.http_protocol_class = with_peer(self.http_protocol_class)
        if self.ws_protocol_class is not None:
            self.ws_protocol_class = with_peer(self.ws_protocol_class)


def run(app: Any, tls: MutualTLS, **options: Any) -> None:
    """Serve until a signal comes, and follow the files meanwhile. Options are those of Config."""
    with tls:
        uvicorn.Server(Config(app, tls, **options)).run()
