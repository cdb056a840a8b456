"""Watching from outside: when each object becomes Ready, what the operator's process uses."""

import asyncio
import contextlib
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class ReadyWatch:
    """Follows all ServiceIdentities of a namespace; `ready` has the moment (perf_counter) each became Ready."""

    url: str
    headers: dict[str, str]
    tls: ssl.SSLContext
    ready: dict[str, float] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    following: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ReadyWatch"]:
        """Watch until the block is left; the list has been read when it is entered."""
        async with aiohttp.ClientSession(headers=self.headers, read_bufsize=2**21) as session:
            async with session.get(f"{self.url}?limit=1", ssl=self.tls) as answer:
                version = (await answer.json())["metadata"]["resourceVersion"]
            self.following = asyncio.create_task(self._follow(session, version))
            self.following.add_done_callback(lambda _: self.changed.set())
            try:
                yield self
            finally:
                self.following.cancel()
                await asyncio.gather(self.following, return_exceptions=True)

    async def _follow(self, session: aiohttp.ClientSession, version: str) -> None:
        """Watch, and go on from the last event when the stream ends: the server drops who does not read fast enough."""
        timeout = aiohttp.ClientTimeout(total=None)
        while True:
            query = f"{self.url}?watch=true&resourceVersion={version}"
            async with session.get(query, ssl=self.tls, timeout=timeout) as stream:
                stream.raise_for_status()
                async for line in stream.content:
                    # Parsing every event would cost the operator's cores; a look for name, version and Ready does.
                    found = _NAME.search(line)
                    if found is None:
                        raise RuntimeError("the watch can't go on from where it was")
                    name, version = found.group(1).decode(), found.group(2).decode()
                    if b'"reason":"Ready"' in line and name not in self.ready:
                        self.ready[name] = time.perf_counter()
                        self.changed.set()

    async def wait_for(self, names: Iterable[str], timeout: float) -> None:
        """Return when all are Ready; raises TimeoutError, and whatever ended the watch."""
        missing = set(names)
        async with asyncio.timeout(timeout):
            while missing := {name for name in missing if name not in self.ready}:
                if self.following is not None and self.following.done():
                    self.following.result()
                self.changed.clear()
                await self.changed.wait()


_NAME = re.compile(rb'"managedFields":\[.*?\],"name":"([^"]+)","namespace":"[^"]+","resourceVersion":"(\d+)"')


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and the most memory so far in MiB, of a process."""

    cpu: float
    peak: float


def usage(pid: int) -> Usage:
    """Read a process's usage from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, int(peak.group(1)) / 1024 if peak else 0.0)


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
