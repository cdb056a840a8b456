"""TCP from an address to one of several others, as kube-proxy does it; nobody looks into the bytes."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

Target = tuple[str, int]
CONNECT_TIMEOUT: Final = 5.0
BACKLOG: Final = 512


class Proxy:
    """Listens on one port; each new connection goes to the next of the targets that there are then.

    A connection keeps its target to its end, also when that is no target any more.
    """

    def __init__(self, targets: Callable[[], Sequence[Target]]) -> None:
        self._targets = targets
        self._next = 0
        self._server: asyncio.Server | None = None
        self._links: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> None:
        """Begin to listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Accepted(self), host, port, backlog=BACKLOG)

    def close(self) -> None:
        """Stop listening; who is connected stays so."""
        if self._server is not None:
            self._server.close()

    def cut(self) -> None:
        """Stop listening and cut off who is connected."""
        self.close()
        for task in self._connecting:
            task.cancel()
        for end in list(self._links):
            end.abort()

    def accepted(self, client: "_Accepted") -> None:
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: "_Accepted") -> None:
        """Connect a client to a target; who refuses is passed over. Without any, the client's connection is reset."""
        targets = list(self._targets())
        self._next += 1
        for offset in range(len(targets)):
            host, port = targets[(self._next + offset) % len(targets)]
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    source = client.source(host)
                    loop = asyncio.get_running_loop()
                    _, server = await loop.create_connection(_End, host, port, local_addr=source)
                self._join(client, server)
                return
        client.abort()

    def _join(self, client: "_End", server: "_End") -> None:
        for one, other in ((client, server), (server, client)):
            one.peer = other
            self._links.add(one)
            one.on_lost = self._links.discard
        if client.lost or server.lost:  # while the other one was being reached
            client.abort()
            server.abort()
        else:
            client.resume()


class _End(asyncio.Protocol):
    """One end of a connection: what it reads, its peer writes, no faster than that can send it on."""

    peer: "_End | None" = None
    on_lost: Callable[["_End"], None] | None = None
    ended = False  # it has sent all it had to say
    lost = False
    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.write(data)

    def eof_received(self) -> bool:
        """Half-close: the other direction goes on until its own end comes."""
        self.ended = True
        if self.peer is None or self.peer._transport is None or self.peer._transport.is_closing():
            return False
        self.peer._transport.write_eof()
        if self.peer.ended:
            self.peer._transport.close()
        return not self.peer.ended

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.on_lost is not None:
            self.on_lost(self)
        if self.peer is None or self.peer._transport is None:
            return
        if error is None:
            self.peer._transport.close()  # what is still to be sent goes out first
        else:
            self.peer.abort()

    def source(self, target: str) -> Target | None:
        """Return where the target sees it come from: its own address, as behind kube-proxy. None: as the system likes.

        All of 127.0.0.0/8 is this machine, so a client that calls from 127.1.0.7 is seen as that.
        """
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return (peer[0], 0) if peer and peer[0] != "127.0.0.1" and target.startswith("127.") else None

    def abort(self) -> None:
        """Reset the connection."""
        self.lost = True
        if self._transport is not None and not self._transport.is_closing():
            if raw := self._transport.get_extra_info("socket"):
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


class _Accepted(_End):
    """A client's end: nothing is read until its target is connected."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast("asyncio.Transport", transport).pause_reading()
        self._proxy.accepted(self)
