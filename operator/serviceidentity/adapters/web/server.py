"""HTTPS for what anybody may read, and the API server's reviews: TLS 1.2 and later, a certificate that may change.

aiohttp speaks HTTP. Accepting connections is done here, because each of them gets the newest certificate, and because
those that are still at their TLS handshake have to count as well.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from serviceidentity.adapters.memory_file import no_password, readable
from serviceidentity.adapters.web.reviews import ReviewEndpoint
from serviceidentity.app.jwt.serving import TEXT, Answer
from serviceidentity.app.webhook.reviews import PATH
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretView
from serviceidentity.errors import PortError, SettingsError

logger = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 256
MOST_OF_ONE_CLIENT: Final = 64  # of those, by address: one Pod that runs wild takes the keys from nobody else
HANDSHAKE_WITHIN: Final = 5.0  # seconds, as all of them
IDLE_AT_MOST: Final = 15.0  # until a request is there with all its headers, too
CONNECTION_LIVES: Final = 300.0
FAREWELL: Final = 5.0  # for the last answer when a connection's time is over
LOOK_EVERY: Final = 2.0
LONGEST_LINE: Final = 2048
LONGEST_HEADER: Final = 8192
MOST_HEADERS: Final = 64
BACKLOG: Final = 128
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secrecy and authenticated encryption only
_PRODUCT: Final = "serviceidentity"  # instead of aiohttp's and Python's versions

Route = Callable[[str, str | None], Answer]
ReadCertificate = Callable[[], Awaitable[SecretView | None]]

_silent = logging.getLogger(f"{__name__}.requests")  # what clients do wrong is no news
_silent.setLevel(logging.CRITICAL)


def context_of(certificate: bytes, key: KeyMaterial) -> ssl.SSLContext:
    """Return the context of a server with this certificate chain. Raises SettingsError when it can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        with readable(certificate + b"\n" + key.reveal()) as file:
            context.load_cert_chain(file, password=no_password)
    except (ssl.SSLError, OSError, ValueError, RuntimeError):
        raise SettingsError("the certificate and its key can't be used together") from None
    return context


class HttpsServer:
    """Serves `route` at an address as soon as `read_certificate` gives a kubernetes.io/tls Secret, now or later."""

    def __init__(
        self,
        host: str,
        port: int,
        route: Route,
        read_certificate: ReadCertificate,
        *,
        review: ReviewEndpoint | None = None,
        most_connections: int = MOST_CONNECTIONS,
        most_of_one_client: int = MOST_OF_ONE_CLIENT,
        idle: float = IDLE_AT_MOST,
        handshake: float = HANDSHAKE_WITHIN,
        lives: float = CONNECTION_LIVES,
        farewell: float = FAREWELL,
        look_every: float = LOOK_EVERY,
    ) -> None:
        """`review` answers at a path of its own; without it there is no such path."""
        self._address = (host, port)
        self._route = route
        self._read_certificate = read_certificate
        self._slots = asyncio.Semaphore(most_connections)
        self._most_of_one_client = most_of_one_client
        self._clients: Counter[str] = Counter()
        self._idle, self._handshake, self._lives, self._farewell = idle, handshake, lives, idle + farewell
        self._look_every = look_every
        self._review = review
        self._version: tuple[str, int] | None = None
        self._context: ssl.SSLContext | None = None
        self._trouble = ""
        self._listener: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int | None:
        """The port that is listened on; None while there is no certificate."""
        return self._listener.getsockname()[1] if self._listener else None

    async def run(self) -> None:
        """Serve until cancelled. Trouble is logged once, and tried again."""
        accepting: asyncio.Task[None] | None = None
        try:
            while True:
                await self._renew()
                if self._context is not None and accepting is None and self._listen():
                    accepting = asyncio.create_task(self._accept(), name="https")
                await asyncio.sleep(self._look_every)
        finally:
            tasks = [*self._connections, *([accepting] if accepting else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._listener is not None:
                self._listener.close()

    async def _renew(self) -> None:
        """Take the certificate that is there now for new connections; those that are open go on with theirs."""
        try:
            view = await self._read_certificate()
        except PortError as error:
            self._tell(f"the certificate can't be read: {error}")
            return
        if view is None:
            self._tell("there is no certificate yet" if self._context is None else "the certificate is gone; it stays")
            return
        version = (view.uid, view.resource_version)
        if version == self._version:
            return
        self._version = version
        try:
            self._context = context_of(view.value("tls.crt"), KeyMaterial(view.value("tls.key")))
        except (SettingsError, MalformedError) as error:
            self._tell(f"Secret {view.namespace}/{view.name}: {error}")
            return
        self._trouble = ""
        logger.info("serving with the certificate in Secret %s/%s", view.namespace, view.name)

    def _listen(self) -> bool:
        host, port = self._address
        try:
            self._listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
            )
        except OSError:
            self._tell(f"port {port} can't be listened on")
            return False
        self._listener.setblocking(False)
        logger.info("listening on port %d", self.port)
        return True

    async def _accept(self) -> None:
        """Accept connections as long as there is room; the next ones wait in the kernel."""
        loop, listener = asyncio.get_running_loop(), self._listener
        assert listener is not None  # noqa: S101  # for the type checker
        http = _Http(self._respond, self._idle)
        while True:
            await self._slots.acquire()
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:  # such as no file descriptors left
                self._slots.release()
                await asyncio.sleep(0.2)
                continue
            except BaseException:
                self._slots.release()
                raise
            client = str(address[0])
            if self._clients[client] >= self._most_of_one_client:
                connection.close()
                self._slots.release()
                await asyncio.sleep(0)  # accepting and closing must not be all that is done here
                continue
            self._clients[client] += 1
            task = asyncio.create_task(self._attend(connection, http))
            self._connections.add(task)
            task.add_done_callback(partial(self._over, client))

    def _over(self, client: str, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._slots.release()
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection ended with %s", type(error).__name__)

    async def _attend(self, connection: socket.socket, http: "_Http") -> None:
        """Look after one connection to its end."""
        try:
            transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
                http, connection, ssl=self._context, ssl_handshake_timeout=self._handshake, ssl_shutdown_timeout=1.0
            )
        except (OSError, TimeoutError):
            return  # no TLS, or none that we speak; asyncio has closed it
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lives):
                    await protocol.gone.wait()
                    return
            protocol.ending = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._farewell):
                    await protocol.gone.wait()
        finally:
            transport.abort()

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if self._review is not None and request.rel_url.raw_path == PATH:
            response = _response(await self._review.answer(request))
            # A POST on a connection that the server gives up for being idle is lost: clients don't send it again.
            response.force_close()
            return response
        if request.method not in ("GET", "HEAD"):
            return _response(Answer(405, {"Content-Type": TEXT, "Allow": "GET, HEAD"}, b"method not allowed\n"))
        response = _response(self._route(request.rel_url.raw_path, request.headers.get("If-None-Match")))
        if isinstance(request.protocol, _Connection) and request.protocol.ending:
            response.force_close()  # it says so to the client, who loses no request by it
        return response

    def _tell(self, trouble: str) -> None:
        """Log what is in the way, once."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("serving: %s", trouble)


class _Http(web.Server):
    """Makes the HTTP half of each connection."""

    def __init__(self, respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], idle: float) -> None:
        super().__init__(
            respond,
            keepalive_timeout=idle,
            lingering_time=0,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
            access_log=None,
            logger=_silent,
        )

    def __call__(self) -> "_Connection":
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """One connection. Errors are answered without a word about their cause."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gone = asyncio.Event()
        self.ending = False  # whether the next answer is the last one

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.gone.set()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:  # noqa: PLR2004  # HTTP
            logger.error("a request failed: %s", type(exc).__name__)
        response = _response(Answer(status, {"Content-Type": TEXT}, b"error\n"))
        response.force_close()
        return response


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body or None, headers=dict(answer.headers))
    response.headers["Server"] = _PRODUCT
    return response
