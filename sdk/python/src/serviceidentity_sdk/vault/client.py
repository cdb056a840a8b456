"""The client that a service uses."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from serviceidentity_sdk.vault.connection import Connection, Requests, quoted
from serviceidentity_sdk.vault.errors import VaultMissingError
from serviceidentity_sdk.vault.logins import SERVICE_ACCOUNT_TOKEN, Logins
from serviceidentity_sdk.vault.secrets import Cached, LeasedSecret, SecretData, read_data

logger = logging.getLogger(__name__)

T = TypeVar("T")
CACHE_FOR: Final = 300.0
STALE_FOR: Final = 3600.0
_LOOK: Final = 30.0  # seconds between two looks at the clock, which stands still while a machine sleeps
_FAILED: Final = 5.0
_THREADS: Final = 4


class Vault:
    """Reads secrets of Vault or OpenBao as the Pod's service account; any thread may use it.

    Values are cached for `cache_for` seconds. When Vault does not answer, the last value serves for `stale_for` seconds
    more; when Vault says that it is gone or forbidden, no longer. A thread of its own renews logins and leases at
    75 % of what was granted. `close()`, or leaving a `with` block, revokes them.
    """

    def __init__(
        self,
        address: str,
        role: str,
        *,
        mount: str = "kubernetes",
        token_file: str | os.PathLike[str] = SERVICE_ACCOUNT_TOKEN,
        ca_file: str | None = None,
        namespace: str | None = None,
        cache_for: float = CACHE_FOR,
        stale_for: float = STALE_FOR,
        requests: Requests | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a client that logs in to `role` at auth/`mount` when something is asked of it.

        `token_file` is read at each login. `requests` and `clock` (seconds, never back) are for tests.
        """
        self._requests = requests or Connection(address, ca_file=ca_file, namespace=namespace)
        self._clock = clock
        self._cache_for = cache_for
        self._stale_for = stale_for
        self._logins = Logins(self._requests, role, mount, Path(token_file), clock, self._keep_alive)
        self._lock = threading.Lock()
        self._cached: dict[str, Cached] = {}
        self._leases: dict[str, LeasedSecret] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def read(self, path: str) -> SecretData:
        """Return what is under a path, from the cache if it is there. Raises VaultError."""
        where = quoted(path)
        return self._cell(where, lambda: SecretData(read_data(self._logins, where)))

    def kv(self, path: str, *, mount: str = "secret", version: int | None = None) -> SecretData:
        """Return a secret of a KV engine of version 2, the newest unless one is named. Raises VaultError."""
        where = f"{quoted(mount)}/data/{quoted(path)}" + (f"?version={int(version)}" if version is not None else "")

        def read() -> SecretData:
            values = read_data(self._logins, where).get("data")
            if not isinstance(values, dict):
                raise VaultMissingError("this version was deleted, or it is no KV engine of version 2")
            return SecretData(values)

        return self._cell(f"kv {where}", read)  # read() of the same path gives something else

    def lease(self, path: str) -> LeasedSecret:
        """Return the credentials of a path, such as `database/creds/order-service`; the same ones for every caller.

        Nothing is asked of Vault before `current()`.
        """
        where = quoted(path)
        with self._lock:
            if where not in self._leases:
                self._leases[where] = LeasedSecret(where, self._requests, self._logins, self._clock, self._keep_alive)
            return self._leases[where]

    def tick(self) -> float:
        """Do what is due about logins and leases, and return when something is due next; the thread calls it."""
        due = self._logins.keep()
        with self._lock:
            leases = tuple(self._leases.values())
        return min([due, *(lease.keep() for lease in leases)])

    def close(self, *, revoke: bool = True) -> None:
        """Stop renewing, and revoke the login with all of its leases. Use it when nothing uses the credentials."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if revoke:
            self._logins.revoke()
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _cell(self, key: str, read: Callable[[], SecretData]) -> SecretData:
        with self._lock:
            cell = self._cached.setdefault(key, Cached(read, self._clock, self._cache_for, self._stale_for))
        return cell.get()

    def _keep_alive(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="vault-renewal", daemon=True)
                self._thread.start()
                return
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            try:
                wait = self.tick() - self._clock()
            except Exception:
                logger.exception("renewing at Vault failed")
                wait = _FAILED
            self._wake.wait(min(max(wait, 0.05), _LOOK))


class AsyncVault:
    """The same for asyncio: nothing blocks the event loop. A few threads of its own wait for Vault."""

    def __init__(self, vault: Vault) -> None:
        """Use a client, which may be used from threads at the same time."""
        self._vault = vault
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vault")

    async def read(self, path: str) -> SecretData:
        """Return what is under a path. Raises VaultError."""
        return await self._run(lambda: self._vault.read(path))

    async def kv(self, path: str, *, mount: str = "secret", version: int | None = None) -> SecretData:
        """Return a secret of a KV engine of version 2. Raises VaultError."""
        return await self._run(lambda: self._vault.kv(path, mount=mount, version=version))

    async def lease(self, path: str) -> SecretData:
        """Return credentials of a path that work now. Raises VaultError."""
        return await self._run(lambda: self._vault.lease(path).current())

    def on_change(self, path: str, subscriber: Callable[[SecretData], None]) -> None:
        """Call `subscriber` on this event loop with each later credentials of a path."""
        loop = asyncio.get_running_loop()
        self._vault.lease(path).on_change(lambda data: _told(loop, subscriber, data))

    async def close(self, *, revoke: bool = True) -> None:
        """Close the client, as its own `close` does."""
        await self._run(lambda: self._vault.close(revoke=revoke))
        self._threads.shutdown(wait=False)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _told(loop: asyncio.AbstractEventLoop, subscriber: Callable[[SecretData], None], data: SecretData) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(subscriber, data)
