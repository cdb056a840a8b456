"""The keys of encrypted values: read, made at first use, rotated, published, and handed to whoever decrypts."""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Secrets, Wake
from serviceidentity.domain import ownership
from serviceidentity.domain.encryption import ring as rings
from serviceidentity.domain.encryption.opening import Opened, ValueKeys, key_id_of, open_values, parse_master_keys
from serviceidentity.domain.encryption.ring import EMPTY, PUBLIC_NAME, SECRET_NAME, KeyRing, Lost
from serviceidentity.domain.material import Held, KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Key
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import InvalidSpecError, PortError, RetryableError, SettingsError

logger = logging.getLogger(__name__)

UNREADABLE: Final = f"Secret {SECRET_NAME} can't be read: put it back as it was"
LOOK_EVERY: Final = timedelta(seconds=30)  # at what no watch tells of: it does not carry our label


class MasterKeys(Protocol):
    """Where master keys come from."""

    async def read(self) -> tuple[KeyMaterial, ...]:
        """Return the keys, the newest first. Raises PortError with a fixed message."""
        ...


class MasterKeySecret:
    """Master keys from a key of a Secret in the operator's namespace."""

    def __init__(self, secrets: Secrets, namespace: str, name: str, key: str) -> None:
        self._secrets = secrets
        self._at = namespace, name
        self._key = key

    async def read(self) -> tuple[KeyMaterial, ...]:
        view = await self._secrets.read(*self._at)
        try:
            text = view.value(self._key).decode() if view is not None else None
            if text is None:
                raise SettingsError(f"Secret {self._at[1]} does not exist")
            return parse_master_keys(text)
        except UnicodeDecodeError:
            raise SettingsError(f"Secret {self._at[1]}, key {self._key}: it is no text") from None
        except (MalformedError, PkiError) as error:
            raise SettingsError(f"Secret {self._at[1]}, key {self._key}: {error}") from None


@dataclass(frozen=True, slots=True)
class EncryptionSettings:
    """`namespaces` may use symmetric values, None means all; a new key pair is made `every` so often, None: never."""

    masters: MasterKeys | None = None
    namespaces: frozenset[str] | None = None
    every: timedelta | None = None


class EncryptionKeys:
    """Keeps the key ring and its published half, and opens values. Used from one event loop.

    What was read last stays in use while the Secret is gone or can't be read.
    """

    def __init__(
        self,
        inventory: Inventory,
        secrets: Secrets,
        config_maps: Secrets,
        clock: Clock,
        wake: Wake,
        settings: EncryptionSettings | None,
    ) -> None:
        """Without `settings` there are no keys, and nothing is made. `wake` gets who waits for keys that came."""
        self._inventory = inventory
        self._secrets = secrets
        self._config_maps = config_maps
        self._clock = clock
        self._wake = wake
        self._settings = settings
        self._conflict = False
        allowed = settings.namespaces if settings else None
        self._keys = ValueKeys(master_namespaces=allowed, known=False)

    @property
    def enabled(self) -> bool:
        """Whether there are to be keys."""
        return self._settings is not None

    def open(self, identity: Identity) -> Opened | Held:
        """Decrypt an identity's values with the keys as they are known now."""
        texts = identity.encrypted.values if identity.encrypted else {}
        return open_values(texts, identity.meta.namespace, identity.meta.name, self._keys)

    async def load(self) -> None:
        """Read what is there ahead of the first work, and write nothing. Raises PortError."""
        if self._settings is None:
            return
        await self._read_masters(self._settings)
        stored = self._read_ring(await self._secret())
        if stored is None or stored.pairs:
            self._set(stored or EMPTY, None if stored else UNREADABLE)
            return
        lost = rings.lost(self._earlier_ids(await self._public()))
        self._set(EMPTY, lost.message if lost else None)  # if nothing is lost, the first pass makes a ring

    async def reconcile(self) -> datetime | None:
        """Make, rotate and publish what is due; return when to come back. Raises PortError: the caller tries again."""
        settings = self._settings
        if settings is None:
            return None
        await self._read_masters(settings)
        now, view, public = self._clock(), await self._secret(), await self._public()
        stored = self._read_ring(view)
        if stored is None:
            self._set(self._keys.ring, UNREADABLE)
            return self._next_look(settings)
        asked = public.annotations.get(ownership.ROTATE_ANNOTATION) if public is not None else None
        served = view.annotations.get(ownership.ROTATED_ANNOTATION) if view is not None else None
        wanted = rings.next_ring(
            stored,
            self._keys.ring,
            earlier=self._earlier_ids(public) if not stored.pairs else (),
            requested=asked is not None and asked != served,
            every=settings.every,
            now=now,
        )
        if isinstance(wanted, Lost):
            self._set(EMPTY, wanted.message)
            return self._next_look(settings)
        content = rings.content_of(wanted, asked or served)
        if view is None or wanted != stored or not ownership.satisfied(view, rings.metadata_of(content)):
            await self._store(view, content)
        self._set(wanted, None)
        await self._publish(public, wanted)
        return self._next_look(settings)

    def _next_look(self, settings: EncryptionSettings) -> datetime | None:
        unwatched = settings.masters is not None or self._keys.trouble or self._conflict
        look = self._clock() + LOOK_EVERY if unwatched else None
        return earliest(rings.rotation_time(self._keys.ring, settings.every), look)

    def _set(self, ring: KeyRing, trouble: str | None) -> None:
        if trouble is not None and trouble != self._keys.trouble:
            logger.error("encrypted values: %s", trouble)
        self._use(replace(self._keys, ring=ring, trouble=trouble, known=True))

    def _use(self, keys: ValueKeys) -> None:
        """From now on decrypt with these keys; whoever waited for one looks again."""
        before, self._keys = self._keys, keys
        if keys != before:
            self._wake(key for key, _ in self._specs())

    async def _read_masters(self, settings: EncryptionSettings) -> None:
        if settings.masters is None:
            return
        try:
            masters, trouble = await settings.masters.read(), None
        except PortError as error:
            if isinstance(error, RetryableError) and not self._keys.masters:
                raise  # over in a moment; until then nobody is told that there are none
            # A key that was read once still decrypts: nothing that works is to stop.
            masters, trouble = self._keys.masters, str(error)
        if trouble is not None and trouble != self._keys.master_trouble:
            logger.warning("master keys of encrypted values: %s", trouble)
        self._use(replace(self._keys, masters=masters, master_trouble=trouble))

    async def _secret(self) -> SecretView | None:
        """Return the Secret; one that was restored without our label is in no watch."""
        at = self._inventory.authority_namespace, SECRET_NAME
        return self._inventory.secrets.get(at) or await self._secrets.read(*at)

    async def _public(self) -> SecretView | None:
        return self._inventory.public_key or await self._config_maps.read(
            self._inventory.authority_namespace, PUBLIC_NAME
        )

    def _read_ring(self, view: SecretView | None) -> KeyRing | None:
        """Return the ring in the Secret, EMPTY without one; None when it can't be read."""
        if view is None:
            return EMPTY
        try:
            return rings.from_json(view.value(rings.KEYS))
        except MalformedError:
            return None

    async def _store(self, view: SecretView | None, content: SecretContent) -> None:
        metadata = rings.metadata_of(content)
        if view is None:
            new = await self._secrets.create(self._inventory.authority_namespace, SECRET_NAME, content, metadata)
        else:
            kept = SecretContent(view.type, content.data, content.annotations)  # the type can't be changed in place
            new = await self._secrets.replace(view, kept, metadata)
        self._inventory.put_secret(new)
        logger.info("encrypted values: wrote the key ring to Secret %s", SECRET_NAME)

    async def _publish(self, public: SecretView | None, ring: KeyRing) -> None:
        content = rings.public_content_of(ring)
        metadata = rings.metadata_of(content)
        if public is None:
            self._inventory.put_config_map(
                await self._config_maps.create(self._inventory.authority_namespace, PUBLIC_NAME, content, metadata)
            )
            return
        if dict(public.data) == dict(content.data) and metadata.labels.items() <= public.labels.items():
            return
        if public.labels.get(ownership.MANAGED_BY_LABEL) != ownership.MANAGED_BY:
            if not self._conflict:
                logger.error("ConfigMap %s belongs to someone else: the public key is not published", PUBLIC_NAME)
            self._conflict = True
            return
        self._conflict = False
        self._inventory.put_config_map(await self._config_maps.replace(public, content, metadata))

    def _earlier_ids(self, public: SecretView | None) -> set[str]:
        """Return the IDs of keys that there were, as the ConfigMap and the identities' values tell."""
        texts = (text for _, spec in self._specs() if spec.encrypted for text in spec.encrypted.values.values())
        used = {key_id for text in texts if (key_id := key_id_of(text)) is not None}
        return used | set(rings.published_ids(public))

    def _specs(self) -> list[tuple[Key, Identity]]:
        entries = ((key, entry.spec) for key, entry in self._inventory.identities.items())
        specs = ((key, spec) for key, spec in entries if not isinstance(spec, InvalidSpecError))
        return [(key, spec) for key, spec in specs if spec.encrypted is not None]
