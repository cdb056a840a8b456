"""Following mounted files: what was made of them last, and telling whoever uses it.

The kubelet announces nothing; a look at one symlink costs microseconds. So the files are looked at every few seconds,
without inotify, which misses changes on some volumes and needs a watch that has to be renewed at each swap.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from serviceidentity_sdk.credentials.directory import Directory
from serviceidentity_sdk.credentials.errors import CredentialError

T = TypeVar("T")
A = TypeVar("A")
_LOG: Final = logging.getLogger("serviceidentity_sdk.credentials")
_INTERVAL: Final = 5.0  # seconds; the kubelet itself is about a minute behind


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class State:
    """How a watch is doing, for health checks and metrics. `error` is None when the files are as they should be."""

    loaded_at: datetime
    changes: int
    error: CredentialError | None = None
    failing_since: datetime | None = None


class Watch(Generic[T]):
    """What is made of one or several mounted directories, and always the last that was good.

    `parse` takes a snapshot of each directory and returns what a service uses, or raises CredentialError; it has to
    check that the files belong together. What it returns should compare equal when nothing is new. The first read
    happens here: with bad files a service does not start, with CredentialError. Later, files that are bad leave
    `current` as it is, are logged once and given to `on_error` (in the thread that looks), and are tried again at each
    look.

    `with watch:` looks every `interval` seconds in a thread, `async with watch:` in a task of the running loop;
    `check()` looks once. After a fork, each worker starts its own.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        parse: Callable[..., T],
        *,
        interval: float = _INTERVAL,
        on_error: Callable[[CredentialError], None] | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._directories = tuple(directories)
        self._parse = parse
        self._interval = interval
        self._on_error = on_error
        self._clock = clock
        self._looking = threading.Lock()
        self._subscribers: list[Callable[[T], None]] = []
        self._seen = self._versions()
        self._current = self._load()
        self._state = State(loaded_at=clock(), changes=0)
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = threading.Event()

    @property
    def current(self) -> T:
        """The last that was good."""
        return self._current

    @property
    def state(self) -> State:
        """How the last look went."""
        return self._state

    def subscribe(self, subscriber: Callable[[T], None]) -> Callable[[], None]:
        """Call `subscriber` with everything new from now on; return what ends that.

        It is called in the watch's thread, or in the event loop with `async with`. What it raises is logged by type and
        keeps nothing from the others.
        """
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._subscribers.remove(subscriber)

        return unsubscribe

    def check(self) -> bool:
        """Look once; say whether there is something new, after telling the subscribers. Raises nothing."""
        found = self._look()
        if found is None:
            return False
        self._tell(found[0])
        return True

    def _versions(self) -> tuple[object, ...]:
        return tuple(directory.version() for directory in self._directories)

    def _load(self) -> T:
        return self._parse(*(directory.read() for directory in self._directories))

    def _look(self) -> tuple[T] | None:
        """Read the files if they may have changed, or were bad; a tuple of one is something new."""
        with self._looking:
            try:
                versions = self._versions()  # before the files: what changes in between is seen at the next look
                if versions == self._seen and self._state.error is None:
                    return None
                made = self._load()
            except CredentialError as error:
                self._failed(error)
                return None
            except Exception as error:  # noqa: BLE001
                # A parser that does not know these files is no reason to stop following them; its text may quote them.
                self._failed(CredentialError(f"the files can't be used: {type(error).__name__}"))
                return None
            changed = made != self._current
            self._seen = versions
            if self._state.error is not None:
                _LOG.info("mounted credentials are good again: %s", self._names())
            if changed:
                self._current = made
            self._state = State(loaded_at=self._clock(), changes=self._state.changes + changed)
            return (made,) if changed else None

    def _failed(self, error: CredentialError) -> None:
        known = self._state.error
        self._state = State(
            self._state.loaded_at, self._state.changes, error, self._state.failing_since or self._clock()
        )
        if known is not None and str(known) == str(error):
            return
        _LOG.warning("mounted credentials are not used, the last good ones stay: %s", error)
        if self._on_error is not None:
            self._call(self._on_error, error)

    def _tell(self, made: T) -> None:
        for subscriber in tuple(self._subscribers):
            self._call(subscriber, made)

    @staticmethod
    def _call(callback: Callable[[A], None], argument: A) -> None:
        """One callback's fault is neither the others' nor the watch's. The text of its error may quote the argument."""
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001
            _LOG.error("a subscriber to mounted credentials failed: %s", type(error).__name__)

    def _names(self) -> str:
        return ", ".join(directory.path for directory in self._directories)

    # In a thread.

    def start(self) -> None:
        """Look every `interval` seconds in a thread of this process."""
        self._idle()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="credentials", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.check()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.stop()

    # In an event loop.

    async def __aenter__(self) -> Self:
        self._idle()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            found = await asyncio.to_thread(self._look)  # reading and parsing keeps no request waiting
            if found is not None:
                self._tell(found[0])

    def _idle(self) -> None:
        if (self._thread is not None and self._thread.is_alive()) or self._task is not None:
            raise RuntimeError("the watch has been started already")
