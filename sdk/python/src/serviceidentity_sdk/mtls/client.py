"""httpx with mutual TLS that follows a rotation.

When new material comes, new requests use new connections, and those under way finish on theirs.
"""

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

try:
    import httpx
except ImportError as error:
    raise ImportError("calling needs httpx: pip install 'serviceidentity-sdk[httpx]'") from error

from serviceidentity_sdk.mtls.contexts import client_context
from serviceidentity_sdk.mtls.identity import MutualTLS
from serviceidentity_sdk.mtls.material import Material
from serviceidentity_sdk.mtls.peer import Peers

P = TypeVar("P", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class _Pool(Generic[P]):
    """Connections of one set of material, and how many requests are under way on them."""

    def __init__(self, material: Material, transport: P) -> None:
        self.material = material
        self.transport: P = transport
        self.busy = 0


class _Pools(Generic[P]):
    """The pool of the newest material, and those before it until their last response was read."""

    def __init__(self, kind: type[P], tls: MutualTLS, servers: Peers | None, options: dict[str, Any]) -> None:
        wrong = sorted({"verify", "cert", "trust_env"} & options.keys())
        if wrong:
            raise ValueError(f"these options of httpx can't be used with mutual TLS: {', '.join(wrong)}")
        self._kind: type[P] = kind
        self._tls = tls
        self._servers = servers
        self._check_hostname = options.pop("check_hostname", True)
        self._options = options
        self._lock = threading.Lock()
        self._pool: _Pool[P] = self._new()
        self._draining: list[_Pool[P]] = []

    def _new(self) -> _Pool[P]:
        material = self._tls.current
        context = client_context(material, servers=self._servers, check_hostname=self._check_hostname)
        return _Pool(material, self._kind(verify=context, trust_env=False, **self._options))

    def enter(self) -> tuple[_Pool[P], P | None]:
        """Return the pool for a request, and a transport to close: it is of older material, and nothing runs on it."""
        with self._lock:
            old = self._pool
            done: P | None = None
            if old.material is not self._tls.current:
                self._pool = self._new()
                if old.busy:
                    self._draining.append(old)
                else:
                    done = old.transport
            self._pool.busy += 1
            return self._pool, done

    def leave(self, pool: _Pool[P]) -> P | None:
        """Say that a request is over; return a transport to close."""
        with self._lock:
            pool.busy -= 1
            if pool.busy or pool is self._pool or pool not in self._draining:
                return None
            self._draining.remove(pool)
            return pool.transport

    def all(self) -> list[P]:
        with self._lock:
            pools, self._draining = self._draining, []
            pools.append(self._pool)
            return [pool.transport for pool in pools]


class AsyncMutualTLSTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient`. `servers` says who may answer; other options are AsyncHTTPTransport's.

    With `servers`, `check_hostname=False` leaves the name unchecked. httpx.ConnectError if the server is refused.
    """

    def __init__(self, tls: MutualTLS, *, servers: Peers | None = None, **options: Any) -> None:
        self._pools = _Pools(httpx.AsyncHTTPTransport, tls, servers, options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over a connection of the newest material."""
        pool, done = self._pools.enter()
        try:
            if done is not None:
                await done.aclose()
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            await self._left(pool)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  # for the type checker
        response.stream = _AsyncStream(response.stream, self, pool)
        return response

    async def _left(self, pool: _Pool[httpx.AsyncHTTPTransport]) -> None:
        done = self._pools.leave(pool)
        if done is not None:
            await done.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._pools.all():
            await transport.aclose()


class _AsyncStream(httpx.AsyncByteStream):
    """A response under way: its connection is in use until it is closed."""

    def __init__(
        self, stream: httpx.AsyncByteStream, owner: AsyncMutualTLSTransport, pool: _Pool[httpx.AsyncHTTPTransport]
    ) -> None:
        self._stream, self._owner, self._pool, self._open = stream, owner, pool, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if self._open:
                self._open = False
                await self._owner._left(self._pool)  # noqa: SLF001  # one class in two parts


class MutualTLSTransport(httpx.BaseTransport):
    """A transport for `httpx.Client`; see AsyncMutualTLSTransport."""

    def __init__(self, tls: MutualTLS, *, servers: Peers | None = None, **options: Any) -> None:
        self._pools = _Pools(httpx.HTTPTransport, tls, servers, options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over a connection of the newest material."""
        pool, done = self._pools.enter()
        try:
            if done is not None:
                done.close()
            response = pool.transport.handle_request(request)
        except BaseException:
            self._left(pool)
            raise
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101  # for the type checker
        response.stream = _Stream(response.stream, self, pool)
        return response

    def _left(self, pool: _Pool[httpx.HTTPTransport]) -> None:
        done = self._pools.leave(pool)
        if done is not None:
            done.close()

    def close(self) -> None:
        """Close all connections."""
        for transport in self._pools.all():
            transport.close()


class _Stream(httpx.SyncByteStream):
    """A response under way: its connection is in use until it is closed."""

    def __init__(
        self, stream: httpx.SyncByteStream, owner: MutualTLSTransport, pool: _Pool[httpx.HTTPTransport]
    ) -> None:
        self._stream, self._owner, self._pool, self._open = stream, owner, pool, True

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if self._open:
                self._open = False
                self._owner._left(self._pool)  # noqa: SLF001  # one class in two parts
