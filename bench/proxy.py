"""A proxy in front of a server of HTTP/1.1, which counts requests and those that wait for an answer."""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class CountingProxy:
    """Forwards what comes. Requests for the server's health are counted apart."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.address = ""
        self.requests, self.probes = 0, 0
        self.in_flight, self.most_in_flight = 0, 0
        self.by_second: Counter[int] = Counter()

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["CountingProxy"]:
        """Listen until the block is left."""
        serving: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            serving.add(task)
            task.add_done_callback(serving.discard)

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    def begin(self) -> None:
        """Count from now on."""
        self.requests = self.probes = 0
        self.most_in_flight = self.in_flight
        self.by_second.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            back_reader, back_writer = await asyncio.open_connection(*self._to)
            try:
                while True:
                    request = await _message(reader)
                    is_probe = b"/sys/health" in request.split(b"\r\n", 1)[0]
                    with self._counted(is_probe=is_probe):
                        back_writer.write(request)
                        writer.write(await _message(back_reader))
                        await writer.drain()
            finally:
                back_writer.close()
        writer.close()

    @contextlib.contextmanager
    def _counted(self, *, is_probe: bool) -> Iterator[None]:
        if is_probe:
            self.probes += 1
            yield
            return
        self.requests += 1
        self.by_second[int(time.monotonic())] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one request or answer as it is."""
    head = await reader.readuntil(b"\r\n\r\n")
    if found := _LENGTH.search(head):
        return head + await reader.readexactly(int(found.group(1)))
    if not _CHUNKED.search(head):
        return head
    body = bytearray()
    while True:
        size = await reader.readuntil(b"\r\n")
        length = int(size.split(b";")[0], 16)
        body += size + await reader.readexactly(length + 2)
        if not length:
            return head + bytes(body)
