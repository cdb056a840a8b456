"""Reading secrets, once for all who read the same one with the same login."""

import asyncio
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.ports import Clock
from serviceidentity.app.vault.breaker import BusyError
from serviceidentity.app.vault.ports import Login, VaultClient
from serviceidentity.domain import ownership
from serviceidentity.domain.model import Identity, Key
from serviceidentity.domain.schedule import earliest, jitter
from serviceidentity.domain.vault.spec import KvSource, StaticRoleSource, VaultSecretSpec
from serviceidentity.domain.vault.views import Reading
from serviceidentity.errors import PortError, RetryableError

SHORTEST_WAIT: Final = timedelta(seconds=1)
# After an error it is read again, later each time.
RETRY_FIRST: Final = timedelta(seconds=5)
RETRY_LIMIT: Final = timedelta(minutes=1)
PUT_OFF: Final = 2  # times that a reading is kept because there is no place to ask: that is nothing to tell anybody
# Vault rotates up to some seconds late; when its database is away, for as long as that is so.
LATE_ROTATION: Final = 10
LATE_LIMIT: Final = timedelta(seconds=30)
LONGEST_ROTATION: Final = 10 * 365 * 24 * 3600

Place = tuple[Login, KvSource | StaticRoleSource]


class Reader:
    """What was read, and when it is to be read again.

    A reading serves everybody who asks for the same source with the same login, each until its own `refreshEvery` has
    passed; so whoever has the shortest one reads for all. Those who ask at once wait for one request. What nobody asks
    for any more is forgotten.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[Place, Entry] = {}
        self._asks: dict[Key, dict[str, Ask]] = {}

    async def read(self, identity: Identity, secret: VaultSecretSpec, client: VaultClient) -> Reading:
        """Return the secret, as it was read `refreshEvery` ago at most. Raises PortError.

        A new value of the identity's rotate annotation has it read now. What Vault said is told to others for a while;
        that it can't be reached only to those who were waiting: it may be back for the next.
        """
        ask = self._ask(identity, secret, client.login)
        entry, source = ask.entry, ask.place[1]
        wanted = identity.meta.annotations.get(ownership.ROTATE_ANNOTATION)
        forced = wanted is not None and wanted != ask.rotated
        # A request that is under way may have been answered before the annotation was set.
        least = entry.finished + (2 if forced and entry.lock.locked() else 1)
        async with entry.lock:
            if entry.finished < least and (forced or not entry.serves(ask.wait, self._clock())):
                await self._fetch(entry, source, client, forced=forced)
        ask.rotated = wanted
        if entry.error is not None:
            raise entry.error.with_traceback(None)
        if entry.reading is None:
            raise LookupError("a finished request left neither a reading nor an error")
        return entry.reading

    def next_read(self, identity: Identity, secret: VaultSecretSpec) -> datetime | None:
        """When it has to be read again, for this identity; None when it was not asked for."""
        ask = self._asks.get(identity.key, {}).get(secret.name)
        return ask.entry.serves_until(ask.wait) if ask is not None else None

    def forget(self, key: Key, but: Collection[str] = ()) -> None:
        """Forget what an identity asked for, but for secrets of these names."""
        asks = self._asks.get(key, {})
        for name in [name for name in asks if name not in but]:
            self._leave(key, name, asks.pop(name))
        if not asks:
            self._asks.pop(key, None)

    def _ask(self, identity: Identity, secret: VaultSecretSpec, login: Login) -> "Ask":
        source = secret.source
        if not isinstance(source, KvSource | StaticRoleSource):
            raise TypeError("not a secret that is only read")
        place = (login, source)
        asks = self._asks.setdefault(identity.key, {})
        ask = asks.get(secret.name)
        if ask is None or ask.place != place:
            if ask is not None:
                self._leave(identity.key, secret.name, ask)
            entry = self._entries.setdefault(place, Entry())
            entry.askers.add((identity.key, secret.name))
            ask = asks[secret.name] = Ask(place, entry, identity.meta.annotations.get(ownership.ROTATE_ANNOTATION))
        seed = f"{identity.meta.uid}/{secret.name}"
        ask.wait = max(secret.refresh_every - jitter(secret.refresh_every, seed), SHORTEST_WAIT)
        return ask

    def _leave(self, key: Key, name: str, ask: "Ask") -> None:
        ask.entry.askers.discard((key, name))
        if not ask.entry.askers:
            self._entries.pop(ask.place, None)

    async def _fetch(
        self, entry: "Entry", source: KvSource | StaticRoleSource, client: VaultClient, *, forced: bool
    ) -> None:
        asked = self._clock()
        try:
            if isinstance(source, KvSource):
                found = await client.read_kv(source.mount, source.path, source.version)
                entry.succeeded(Reading(found.values, found.version), asked)
            else:
                values = await client.read(source.path)
                # It counts down, so it would be another content each time.
                reading = Reading({name: value for name, value in values.items() if name != "ttl"})
                entry.succeeded(reading, asked, _rotation(values, self._clock(), entry.late))
                entry.late = entry.late + 1 if values.get("ttl") == 0 else 0
        except BusyError as error:
            if forced or not entry.put_off(asked):
                entry.failed(error, asked)
        except PortError as error:
            entry.failed(error, asked)


@dataclass(slots=True)
class Entry:
    """What became of the last request for one source with one login."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    askers: set[tuple[Key, str]] = field(default_factory=set)
    finished: int = 0
    asked: datetime | None = None
    reading: Reading | None = None
    error: PortError | None = None
    failures: int = 0
    late: int = 0
    again: datetime | None = None

    def succeeded(self, reading: Reading, asked: datetime, rotation: datetime | None = None) -> None:
        """Take in what was read; `rotation` is when it will be another one."""
        self.reading, self.error, self.failures = reading, None, 0
        self.asked, self.again = asked, rotation
        self.finished += 1

    def failed(self, error: PortError, asked: datetime) -> None:
        """Take in why it was not read; what was read before is forgotten, the Secret still has it."""
        self.reading, self.error, self.failures = None, error, self.failures + 1
        self.asked, self.again = asked, asked + pause_after(self.failures)
        self.finished += 1

    def put_off(self, asked: datetime) -> bool:
        """Keep what was read though it could not be asked for anew: too many ask. Say False when that lasts."""
        if self.reading is None or self.failures >= PUT_OFF:
            return False
        self.failures += 1
        self.asked, self.again = asked, asked + RETRY_FIRST
        self.finished += 1
        return True

    def serves(self, wait: timedelta, now: datetime) -> bool:
        """Say whether it is good enough still for somebody who wants it anew after `wait`."""
        until = self.serves_until(wait)
        if self.asked is None or until is None or isinstance(self.error, RetryableError):
            return False
        return self.asked <= now < until  # not before, when the clock was put back

    def serves_until(self, wait: timedelta) -> datetime | None:
        """When it has to be asked for again by somebody who wants it anew after `wait`."""
        if self.asked is None:
            return None
        return self.again if self.error is not None else earliest(self.asked + wait, self.again)


@dataclass(slots=True)
class Ask:
    """That an identity asks for a secret, how long a reading is good enough for it, and which rotation it has seen."""

    place: Place
    entry: Entry
    rotated: str | None
    wait: timedelta = SHORTEST_WAIT


def pause_after(failures: int) -> timedelta:
    """Return how long to wait after so many failures in a row: some seconds at first, a minute at most, spread."""
    pause = min(RETRY_FIRST * 2 ** min(max(failures - 1, 0), 10), RETRY_LIMIT)
    spread = random.uniform(0.5, 1)  # noqa: S311  # not for secrets
    return timedelta(seconds=max(1, int(pause.total_seconds() * spread)))


def _rotation(values: Mapping[str, Any], now: datetime, late: int) -> datetime | None:
    """When a static role's password will be another one; soon, while it should be and is not yet."""
    left = values.get("ttl")
    if not isinstance(left, int) or isinstance(left, bool) or not 0 <= left <= LONGEST_ROTATION:
        return None
    if left:
        return now + timedelta(seconds=left + 1)
    return now + min(timedelta(seconds=2 ** min(max(late - LATE_ROTATION, 0), 10)), LATE_LIMIT)
