"""What was read from Vault: cached values, and credentials that are kept alive."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from serviceidentity_sdk.vault.connection import Json, Requests, data_of, grant_of
from serviceidentity_sdk.vault.errors import VaultAwayError, VaultError, VaultRefusedError
from serviceidentity_sdk.vault.lease import SHORTEST_PAUSE, Grant, Step, next_step, next_time
from serviceidentity_sdk.vault.logins import Login, Logins

logger = logging.getLogger(__name__)

_PAUSE: Final = 10.0  # seconds in which a server that did not answer is not asked again for the same


class SecretData(Mapping[str, Any]):
    """Values by name. They show in no repr."""

    __slots__ = ("__values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self.__values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__values)

    def __len__(self) -> int:
        return len(self.__values)

    def __repr__(self) -> str:
        return "<SecretData: redacted>"


class Cached:
    """One value: read by one thread at a time, kept for a while, and for longer while Vault does not answer."""

    def __init__(self, read: Callable[[], SecretData], clock: Callable[[], float], keep: float, stale: float) -> None:
        """Read with `read`; keep what was read for `keep` seconds, and while Vault is away for `stale` more."""
        self._read = read
        self._clock = clock
        self._keep = keep
        self._stale = stale
        self._lock = threading.Lock()
        self._held: tuple[SecretData, float] | None = None  # and since when
        self._ask_again = 0.0

    def get(self) -> SecretData:
        """Return the value. Raises VaultError."""
        if (found := self._usable(self._keep)) is not None:
            return found
        old = self._usable(self._keep + self._stale)
        if old is not None and self._clock() < self._ask_again:
            return old
        if not self._lock.acquire(blocking=old is None):
            assert old is not None  # noqa: S101  # else this waited
            return old  # another thread is asking
        try:
            found = self._usable(self._keep)  # another thread may have read it meanwhile
            return self._refreshed(old) if found is None else found
        finally:
            self._lock.release()

    def _refreshed(self, old: SecretData | None) -> SecretData:
        asked = self._clock()
        try:
            found = self._read()
        except VaultAwayError as error:
            self._ask_again = self._clock() + _PAUSE
            if old is None:
                raise
            logger.warning("Vault is away, an older value is used: %s", error)
            return old
        except VaultError:
            self._held = None  # gone, or not for this service any more
            raise
        self._held = (found, asked)
        return found

    def _usable(self, seconds: float) -> SecretData | None:
        held = self._held
        return held[0] if held is not None and self._clock() < held[1] + seconds else None


@dataclass(frozen=True, slots=True)
class _Lease:
    data: SecretData = field(repr=False)
    lease_id: str
    grant: Grant
    login: Login


class LeasedSecret:
    """Credentials that Vault made for this service, such as a database user. They are kept alive, or replaced in time.

    Those that were replaced live on until their lease ends, so that connections which use them can be closed in peace.
    """

    def __init__(
        self, path: str, requests: Requests, logins: Logins, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        """Take the quoted `path` to read; `changed` is told when there is a new deadline."""
        self._path = path
        self._requests = requests
        self._logins = logins
        self._clock = clock
        self._changed = changed
        self._lock = threading.RLock()
        self._lease: _Lease | None = None
        self._ask_again = 0.0
        self._subscribers: list[Callable[[SecretData], None]] = []

    def current(self) -> SecretData:
        """Return credentials that work now, made now if there are none. Raises VaultError."""
        lease = self._lease
        if lease is not None and self._lives(lease):
            return lease.data
        with self._lock:
            lease = self._lease
            if lease is not None and self._lives(lease):
                return lease.data
            if self._clock() < self._ask_again:
                raise VaultAwayError("Vault did not answer a moment ago")
            try:
                issued = self._issue()
            except VaultAwayError:
                self._ask_again = self._clock() + SHORTEST_PAUSE
                raise
        self._changed()
        if lease is not None:
            self._tell(issued.data)
        return issued.data

    def on_change(self, subscriber: Callable[[SecretData], None]) -> None:
        """Call `subscriber` with each later credentials, in a thread of this client's own."""
        self._subscribers.append(subscriber)

    def keep(self) -> float:
        """Renew the lease if it is time, or replace it. Return when to come again; never raises VaultError."""
        with self._lock:
            before = self._lease
            if before is None:
                return float("inf")
            now = self._clock()
            try:
                self._advance(before, now)
            except VaultError as error:
                logger.warning("credentials of Vault are not renewed: %s", error)
                left = self._lease or before  # renewed once more, maybe, and not replaced
                self._lease = replace(left, grant=left.grant.failed(now))
            after = self._lease or before
        if after.data is not before.data:
            self._tell(after.data)
        return next_time(after.grant)

    def _lives(self, lease: _Lease) -> bool:
        return self._clock() < min(lease.grant.ends, self._logins.ends(lease.login))

    def _advance(self, lease: _Lease, now: float) -> None:
        if now < lease.grant.retry:
            return
        # What hangs on a former token ends with it, whatever was granted.
        step = next_step(lease.grant, now) if self._logins.is_current(lease.login) else Step.REPLACE
        if step is Step.RENEW and not self._renewed(lease, now):
            step = Step.REPLACE
        if step is Step.REPLACE:
            self._issue()

    def _renewed(self, lease: _Lease, now: float) -> bool:
        """Ask for as much as at first. False: there must be others, because it is gone or granted less than half."""
        body = {"lease_id": lease.lease_id, "increment": int(lease.grant.first)}
        try:
            answer = self._requests.send("put", "sys/leases/renew", body, lease.login.token)
        except VaultRefusedError:
            return False
        duration, renewable = grant_of(answer)
        self._lease = replace(lease, grant=lease.grant.renewed(now, duration, renewable=renewable))
        return next_step(self._lease.grant, now) is not Step.REPLACE

    def _issue(self) -> _Lease:
        now = self._clock()
        answer, login = self._logins.send("get", self._path)
        lease_id = answer.get("lease_id")
        if not isinstance(lease_id, str) or not lease_id:
            raise VaultRefusedError("it has no lease: read it with read() or kv()")
        duration, renewable = grant_of(answer)
        data = SecretData(data_of(answer))
        self._lease = _Lease(data, lease_id, Grant(now, duration, duration, renewable), login)
        return self._lease

    def _tell(self, data: SecretData) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(data)
            except Exception:
                logger.exception("a subscriber to new credentials failed")


def read_data(logins: Logins, path: str) -> Json:
    """Return the data under a quoted path. Raises VaultError."""
    answer, _ = logins.send("get", path)
    if answer.get("lease_id"):
        raise VaultRefusedError("it has a lease: ask for it with lease()")
    return data_of(answer)
