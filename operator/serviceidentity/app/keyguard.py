"""Private keys of authorities: opened once, kept in memory, encrypted before they are stored.

What is stored is an envelope (domain/pki/envelope.py); who holds the key-encryption keys is behind the port
`KeyEncryption`. Reading is synchronous, because every decision reads; opening is not, so it is a step of its own, at
the start and in each pass over a trust domain. What was opened stays usable while a key-encryption key is out of reach.
"""

import asyncio
import logging
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from serviceidentity.app.ports import Clock
from serviceidentity.domain import authority
from serviceidentity.domain.authority import Locked, Role
from serviceidentity.domain.authority.sealing import Sealing, with_key
from serviceidentity.domain.jwt import authority as token_keys
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import envelope
from serviceidentity.domain.pki.envelope import Binding, WrappedKey
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import MissingError, PortError, RetryableError

logger = logging.getLogger(__name__)

RETRY_LIMIT: Final = timedelta(seconds=15)
MADE_UP_FOR: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a Secret private keys are, and what they belong to."""

    binding: Binding
    field: str


def slot_of(view: SecretView, domain: TrustDomain) -> Slot:
    """Return where private keys are in an authority's Secret, or that of the token keys. Raises MalformedError."""
    if view.name == token_keys.secret_name(domain.meta.name):
        return Slot(token_keys.binding_of(view, domain), token_keys.KEYS_KEY)
    return Slot(authority.binding_of(view, domain), "tls.key")


class KeyEncryption(Protocol):
    """Key-encryption keys of one kind. Every method raises only subclasses of PortError, with fixed messages."""

    check_every: timedelta

    def knows(self, kek: str) -> bool:
        """Say whether a key of this name would be found here."""
        ...

    async def current(self) -> str:
        """Return the name, with its version, of the key that wraps now."""
        ...

    async def wrap(self, data_key: KeyMaterial, context: bytes) -> WrappedKey:
        """Wrap a data key with the current key, bound to `context` where that is possible."""
        ...

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        """Unwrap a data key."""
        ...

    async def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """Wrap the same data key with the current key."""
        ...


@dataclass(frozen=True, slots=True)
class KeyEncryptionKeys:
    """`sealing` encrypts; None means that private keys are stored in plain. Each of `opening` decrypts."""

    sealing: KeyEncryption | None = None
    opening: tuple[KeyEncryption, ...] = ()


@dataclass(frozen=True, slots=True)
class _Failed:
    """An envelope that could not be opened."""

    locked: Locked
    attempts: int
    retry: datetime
    passing: bool


@dataclass(slots=True)
class _Trouble:
    """Something that does not work, and when it is tried again."""

    message: str | None = None
    attempts: int = 0
    retry: datetime | None = None

    def failed(self, message: str, now: datetime) -> None:
        self.attempts += 1
        if message != self.message:
            logger.warning("%s", message)
        self.message, self.retry = message, now + _pause(self.attempts)

    def over(self) -> None:
        self.message, self.attempts, self.retry = None, 0, None


@dataclass(slots=True)
class _Domain:
    """What is known of the keys of one trust domain, by what is stored (binding and text)."""

    opened: dict[tuple[Binding, str], KeyMaterial] = field(default_factory=dict)
    failed: dict[tuple[Binding, str], _Failed] = field(default_factory=dict)
    followed: str | None = None  # value of the annotation that asked for a look at the current key
    sealing: _Trouble = field(default_factory=_Trouble)


class KeyGuard:
    """Opens and seals the private keys of authorities. Used from one event loop."""

    def __init__(self, keys: KeyEncryptionKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._domains: dict[str, _Domain] = {}
        self._current: str | None = None
        self._looking = _Trouble()
        self._next_check: datetime | None = None
        self._looked: datetime | None = None
        # Grows whenever the answer of `key_of` may have changed.
        self.epoch = 0

    @property
    def encrypts(self) -> bool:
        """Whether private keys are to be stored encrypted."""
        return self._keys.sealing is not None

    @property
    def current(self) -> str | None:
        """Name of the key that wraps now, as far as that is known."""
        return self._current

    def trouble(self, domain: str) -> str | None:
        """What went wrong when a key-encryption key was used last."""
        return self._domains.get(domain, _Domain()).sealing.message or self._looking.message

    def retry(self, domain: str) -> datetime | None:
        """When encrypting, which has failed, may be tried again; None when it has not."""
        return self._domains.get(domain, _Domain()).sealing.retry

    def settled(self, domain: str) -> None:
        """Say that nothing is left to encrypt: what failed was not needed any more."""
        self._domains.setdefault(domain, _Domain()).sealing.over()

    def key_of(self, domain: TrustDomain, view: SecretView) -> KeyMaterial | Locked:
        """Return the private key that is encrypted in an authority's Secret, if it has been opened.

        An envelope that another operator has written anew since holds the same key, as long as the certificate is the
        same; it is opened all the same, and only trusted blindly until then. Raises MalformedError.
        """
        slot = slot_of(view, domain)
        binding, stored = slot.binding, view.data[slot.field]
        known = self._domains.get(domain.meta.name, _Domain())
        if (found := known.opened.get((binding, stored))) is not None:
            return found
        failed = known.failed.get((binding, stored))
        if failed is None or failed.passing:
            before = next((key for (bound, _), key in known.opened.items() if bound == binding), None)
            if before is not None:
                return before
        return failed.locked if failed is not None else Locked("it is encrypted, and has not been decrypted yet")

    async def open(self, domain: TrustDomain, views: Iterable[SecretView]) -> None:
        """Decrypt the keys in these Secrets, all of a trust domain's, as far as that was not done before.

        What stands in the way is what `key_of` returns; `next_look` says when to try again.
        """
        now = self._now()
        known = self._domains.setdefault(domain.meta.name, _Domain())
        wanted: dict[tuple[Binding, str], bytes] = {}
        for view in views:
            try:
                slot = slot_of(view, domain)
                stored = view.value(slot.field)
                if envelope.is_sealed(stored):
                    wanted[slot.binding, view.data[slot.field]] = stored
            except MalformedError:
                continue  # whoever reads it will say so
        due = [
            at for at in wanted if at not in known.opened and (at not in known.failed or known.failed[at].retry <= now)
        ]
        await asyncio.gather(*(self._open(known, at, wanted[at]) for at in due))
        self._forget_all_but(known, set(wanted))

    def forget(self, domain: str) -> None:
        """Drop the keys of a trust domain that is gone."""
        self._domains.pop(domain, None)

    async def check(self, domain: str, asked: str | None, *, at_once: bool = False) -> bool:
        """Find out which key wraps now: if it is time for that, `at_once`, or for who `asked` and had no answer yet.

        Returns whether it is another one than before.
        """
        known, now = self._domains.setdefault(domain, _Domain()), self._now()
        is_new = asked is not None and asked != known.followed
        known.followed = asked
        sealing = self._keys.sealing
        if sealing is None or not (at_once or is_new or self._next_check is None or now >= self._next_check):
            return False
        before = self._current
        try:
            self._current = await sealing.current()
        except PortError as error:
            self._looking.failed(f"the key that encrypts can't be looked up: {error}", now)
            self._next_check = self._looking.retry
        else:
            self._looking.over()
            self._next_check = now + sealing.check_every
        return before is not None and before != self._current

    def next_look(self, domain: str) -> datetime | None:
        """When something about the keys of a trust domain has to be tried again, or checked; always to come.

        A time may pass while a pass is under way, or with something else in the way: it is made up for, at leisure.
        """
        known, now = self._domains.get(domain, _Domain()), self._clock()
        first = earliest(self._next_check, known.sealing.retry, *(failed.retry for failed in known.failed.values()))
        return None if first is None else first if first > now else now + MADE_UP_FOR

    async def seal(self, domain: TrustDomain, role: Role, name: str, content: SecretContent) -> SecretContent:
        """Return the content of a new authority's Secret with its private key as it is to be stored.

        Raises PortError: better no authority than one whose key lies open.
        """
        if self._keys.sealing is None:
            return content
        chain, plain = (b64decode(content.data[key]) for key in ("tls.crt", "tls.key"))
        slot = Slot(authority.binding_for(role, name, domain.trust_domain, chain), "tls.key")
        return await self._sealed(self._keys.sealing, domain, slot, content, KeyMaterial(plain))

    async def seal_token_keys(self, domain: TrustDomain, content: SecretContent) -> SecretContent:
        """Return the content of the Secret of the token keys with these as they are to be stored. Raises PortError."""
        if self._keys.sealing is None:
            return content
        slot = Slot(token_keys.binding_for(domain, content), token_keys.KEYS_KEY)
        return await self._sealed(self._keys.sealing, domain, slot, content, KeyMaterial(content.value(slot.field)))

    async def apply(self, due: Sealing, domain: TrustDomain, view: SecretView, content: SecretContent) -> SecretContent:
        """Return the content of a Secret of private keys with these stored as `due` says. Raises PortError."""
        sealing, slot = self._keys.sealing, slot_of(view, domain)
        plain, binding = self._plain(domain, view, slot), slot.binding
        if due is Sealing.DECRYPT or sealing is None:
            return with_key(content, plain.reveal(), domain.meta, slot.field)
        if due is not Sealing.REWRAP:
            return await self._sealed(sealing, domain, slot, content, plain)
        found = envelope.decode(view.value(slot.field))
        try:
            wrapped = await self._rewrapped(sealing, found.wrapped, binding.encoded())
        except RetryableError as error:
            self._sealing(domain).failed(f"wrapping the data keys anew failed: {error}", self._clock())
            raise
        except PortError as error:
            # The old key was taken away too early. The private key is at hand still: after a restart it would be lost.
            logger.warning("a new data key for Secret %s: the old one is out of reach: %s", binding.secret_name, error)
            return await self._sealed(sealing, domain, slot, content, plain)
        return self._stored(domain, slot, replace(found, wrapped=wrapped), plain, content)

    def _now(self) -> datetime:
        """Return the time. When the clock was put back, what was to be tried again in seconds is tried now."""
        now = self._clock()
        if self._looked is not None and now < self._looked:
            self._next_check = None
            for known in self._domains.values():
                known.sealing.retry = None
                known.failed = {at: replace(failed, retry=now) for at, failed in known.failed.items()}
        self._looked = now
        return now

    def _sealing(self, domain: TrustDomain) -> _Trouble:
        return self._domains.setdefault(domain.meta.name, _Domain()).sealing

    async def _rewrapped(self, sealing: KeyEncryption, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        if sealing.knows(wrapped.kek):
            return await sealing.rewrap(wrapped, context)
        return await sealing.wrap(await self._unwrap(wrapped, context), context)

    async def _sealed(
        self, sealing: KeyEncryption, domain: TrustDomain, slot: Slot, content: SecretContent, plain: KeyMaterial
    ) -> SecretContent:
        data_key, binding = envelope.new_data_key(), slot.binding
        try:
            wrapped = await sealing.wrap(data_key, binding.encoded())
        except PortError as error:
            self._sealing(domain).failed(f"encrypting failed: {error}", self._clock())
            raise
        return self._stored(domain, slot, envelope.seal(plain, data_key, wrapped, binding), plain, content)

    def _stored(
        self,
        domain: TrustDomain,
        slot: Slot,
        made: envelope.Envelope,
        plain: KeyMaterial,
        content: SecretContent,
    ) -> SecretContent:
        """Remember the key under what will be stored, so that it need not be opened again."""
        self._sealing(domain).over()
        self._current = made.wrapped.kek  # it may have changed since it was looked up
        new = with_key(content, made.encode(), domain.meta, slot.field)
        self._domains.setdefault(domain.meta.name, _Domain()).opened[slot.binding, new.data[slot.field]] = plain
        self.epoch += 1
        return new

    def _plain(self, domain: TrustDomain, view: SecretView, slot: Slot) -> KeyMaterial:
        stored = view.value(slot.field)
        if not envelope.is_sealed(stored):
            return KeyMaterial(stored)
        key = self.key_of(domain, view)
        if isinstance(key, Locked):
            raise MissingError(key.message)
        return key

    async def _open(self, known: _Domain, at: tuple[Binding, str], stored: bytes) -> None:
        binding, _ = at
        passing = False
        try:
            found = envelope.decode(stored)
            data_key = await self._unwrap(found.wrapped, binding.encoded())
            known.opened[at] = envelope.unseal(found, data_key, binding)
        except (PkiError, PortError) as error:
            message, passing = str(error), isinstance(error, RetryableError)
        else:
            known.failed.pop(at, None)
            self.epoch += 1
            return
        before = known.failed.get(at)
        attempts = before.attempts + 1 if before else 1
        known.failed[at] = _Failed(Locked(message), attempts, self._clock() + _pause(attempts), passing)
        if before is None or before.locked.message != message:
            self.epoch += 1
            logger.warning("the key in Secret %s can't be decrypted: %s", binding.secret_name, message)

    async def _unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        keys = next((keys for keys in self._keys.opening if keys.knows(wrapped.kek)), None)
        if keys is None:
            raise MissingError(f"it is encrypted with {wrapped.kek}, which this operator was not given")
        return await keys.unwrap(wrapped, context)

    def _forget_all_but(self, known: _Domain, stored: set[tuple[Binding, str]]) -> None:
        """Keep what is stored now, and of what could not be opened yet the key that its authority had before."""
        waiting = {binding for binding, text in stored if (binding, text) not in known.opened}
        known.opened = {at: key for at, key in known.opened.items() if at in stored or at[0] in waiting}
        known.failed = {at: failed for at, failed in known.failed.items() if at in stored}


def _pause(attempts: int) -> timedelta:
    """Seconds between tries: a server that is back is found soon, and hardly anyone asks."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 10)), RETRY_LIMIT)
