"""Child processes that never outlive us, free ports, waiting."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1


class NotReadyError(RuntimeError):
    """A process ended, or did not become ready in time."""


def free_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _die_with_parent() -> None:
    """Have the kernel kill this child when its parent dies, however that happens (Linux)."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # not Linux: the parent's own clean-up has to do


class Process:
    """One program with its log in a file. Must be started from a thread that lives as long as the program should."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment) if environment else None
        self.log = directory / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (self._environment or {}),
                preexec_fn=_die_with_parent,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process ID. Raises NotReadyError when it does not run."""
        if not self.running or self._child is None:
            raise NotReadyError(f"{self.name} does not run")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self._child is not None and self._child.poll() is None

    def stop(self, timeout: float = 10) -> None:
        """Ask the program to end, and kill it when it does not."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the program at once."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def wait_until(self, ready: Callable[[], bool], timeout: float = 60) -> None:
        """Return when `ready` says so. Raises NotReadyError with the end of the log when it never does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self.running:
                raise NotReadyError(f"{self.name} ended:\n{self.last_words()}")
            if ready():
                return
            time.sleep(0.05)
        raise NotReadyError(f"{self.name} was not ready within {timeout:.0f} s:\n{self.last_words()}")

    def last_words(self, lines: int = 30) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""
