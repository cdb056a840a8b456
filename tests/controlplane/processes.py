"""Child processes that never outlive us, free ports, waiting."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TETHER: Final = Path(__file__).with_name("tether.py")

# The kernel ties a child to the *thread* that started it (prctl(2), PR_SET_PDEATHSIG), so one that lives as long as
# this process starts them all; a test may then restart a server from any thread of its own.
_spawner: Final = ThreadPoolExecutor(1, "spawner")
_ports_given: Final[set[int]] = set()


class NotReadyError(RuntimeError):
    """A process ended, or did not become ready in time."""


def free_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on, never the same twice. Raises NotReadyError if there is none.

    It lies below the ports that the kernel gives to outgoing connections: a server that is stopped for a while finds
    its port free again, and a client that keeps knocking meanwhile cannot end up connected to itself.
    """
    for _ in range(1000):
        port = random.randrange(10_000, _first_outgoing_port())
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in _ports_given:
                _ports_given.add(port)
                return port
    raise NotReadyError("no free port on 127.0.0.1")


def _first_outgoing_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 49_152  # RFC 6335 section 6: dynamic ports
    return first if first > 15_000 else 65_536


class Process:
    """One program with its log in a file. The kernel kills it when this Python process dies, however that happens.

    (On Linux; elsewhere it outlives a `kill -9` of its parent.)
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None = None,
        *,
        inherit: bool = True,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Prepare a program; as root, it may run as another user (user and group ID).

        Unless told not to `inherit`, it has our environment too.
        """
        self.name = name
        self.command = list(command)
        self.log = directory / f"{name}.log"
        self._environment = dict(environment) if environment else {}
        self._inherit = inherit
        self._cwd = cwd
        self._user = user
        self._stop_signal = stop_signal
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program; its output is appended to the log. Does nothing when it runs."""
        if not self.running:
            self._child = _spawner.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        user = ":".join(map(str, self._user)) if self._user else "-"
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), user, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=os.environ | self._environment if self._inherit else self._environment,
                start_new_session=True,  # Ctrl-C is for us alone; we decide in which order things end
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

    @property
    def exit_code(self) -> int | None:
        """How it ended: None while it runs or when it was never started, minus the signal's number when killed."""
        return None if self._child is None else self._child.poll()

    def terminate(self) -> None:
        """Ask the program to end; do not wait for it."""
        if self._child is not None and self.running:
            self._child.send_signal(self._stop_signal)

    def stop(self, timeout: float = 10) -> None:
        """Ask the program to end, and kill it when it has not done so after `timeout` seconds."""
        if self._child is None or not self.running:
            return
        self.terminate()
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the program, and whatever it started, at once."""
        kill_all([self])

    def wait_until(self, ready: Callable[[], bool], timeout: float = 60) -> None:
        """Return when `ready` says so. Raises NotReadyError with the end of the log when it never does."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise NotReadyError(f"{self.name} ended with {self.exit_code}:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"{self.name} was not ready within {timeout:.0f} s:\n{self.last_words()}")
            time.sleep(0.03)

    def last_words(self, lines: int = 30) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def kill_all(processes: Iterable[Process]) -> None:
    """Kill the programs at once, all of them before waiting for the first."""
    children = [process._child for process in processes if process._child is not None and process.running]
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # each is the leader of its own session
    for child in children:
        child.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that the block's clean-up runs; Ctrl-C is one already."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    untouched = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_DFL]
    for number in untouched:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in untouched:
            signal.signal(number, signal.SIG_DFL)
