"""Taking leases back: those that were replaced, whose identity is gone, or that nobody ever got to see.

Each record is a key of the queue. What becomes of its lease is decided in domain/vault/strays.py from what there is; so
after a crash at whatever moment the next start finds and ends what is left over. Deleting an identity never waits for
this: the record stays until Vault has the revocation in hand, or until nothing of the lease can be left.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.app.entries import Entry
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Events, Secrets
from serviceidentity.app.vault.connections import Connections
from serviceidentity.app.vault.lease_keeper import token_of
from serviceidentity.app.vault.leases import Leases
from serviceidentity.app.vault.ports import Login, VaultClient
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import Identity, Key, Kind
from serviceidentity.domain.ownership import STORED_AS_ANNOTATION
from serviceidentity.domain.schedule import earliest, format_time
from serviceidentity.domain.vault import records, strays
from serviceidentity.domain.vault.records import Bond, LeaseRecord, Replaced
from serviceidentity.errors import MissingError, PortError

logger = logging.getLogger(__name__)

PAUSE_FIRST: Final = timedelta(seconds=2)
PAUSE_LIMIT: Final = timedelta(minutes=5)  # who was turned away because Vault is away is called back before
TEND_EVERY: Final = timedelta(minutes=5)
# The longest that Vault grants anything unless it is told otherwise (max_lease_ttl): the end that is not known is
# not later.
LONGEST_LIFE: Final = timedelta(hours=768)
PENDING, REVOKED, EXPIRED = "LeaseRevocationPending", "LeaseRevoked", "LeaseLeftToExpire"


class LeaseCollector:
    """Ends what is not needed any more, one record a pass."""

    def __init__(
        self,
        inventory: Inventory,
        store: Secrets,
        events: Events,
        clock: Clock,
        connections: Connections,
        leases: Leases,
        served: Collection[str] | None = None,
    ) -> None:
        """`served` names the namespaces whose identities are watched; None means all."""
        self._inventory = inventory
        self._records = inventory.leases
        self._store = store
        self._events = events
        self._clock = clock
        self._connections = connections
        self._leases = leases
        self._keeper = leases.keeper
        self._served = served
        self._first_seen: dict[str, datetime] = {}
        self._failures: dict[str, int] = {}

    async def reconcile(self, key: Key) -> datetime | None:
        """Do what is due for one lease and return when to come back. Raises PortError: the caller tries again."""
        record = self._records.get(key.name)
        if record is None:
            self._forget(key.name)
            return None
        now = self._clock()
        match strays.decide(self._seen(record, now), now):
            case strays.Keep(until):
                return until
            case strays.Tend(bond):
                return await self._tend(key, record, bond)
            case strays.Drain(replaced):
                return await self._drain(key, record, replaced, now)
            case strays.RunOut(bond):
                return await self._run_out(key, record, bond, now)
            case strays.Revoke(why):
                return await self._end(key, record, why, now)

    def _seen(self, record: LeaseRecord, now: datetime) -> strays.Seen:
        entry = self._inventory.identities.get(record.owner)
        usable = entry is not None and not entry.meta.deleting and isinstance(entry.spec, Identity)
        return strays.Seen(
            record=record,
            served=self._served is None or record.owner.namespace in self._served,
            present=entry is not None,
            identity=entry.spec if entry is not None and usable and isinstance(entry.spec, Identity) else None,
            secrets=tuple(self._secrets_of(record.owner)),
            in_flight=record.name in self._leases.in_flight,
            first_seen=self._first_seen.setdefault(record.name, now),
        )

    def _secrets_of(self, owner: Key) -> list[SecretView]:
        """Return the identity's Secrets, as they are and as they should be: either names a lease that is in use."""
        inventory = self._inventory
        entry = inventory.identities.get(owner)
        places = sorted(inventory.locations_of(owner))
        found = (view for place in places for view in (inventory.good(place), inventory.secrets.get(place)))
        return [view for view in found if view is not None and self._belongs(view, entry)]

    def _belongs(self, view: SecretView, entry: Entry[Identity] | None) -> bool:
        if entry is not None:
            return self._inventory.owns(view, Kind.SERVICE_IDENTITY, entry.meta)
        return view.annotations.get(STORED_AS_ANNOTATION, view.name) == view.name  # a copy is its maker's

    async def _tend(self, key: Key, record: LeaseRecord, bond: Bond) -> datetime | None:
        """Renew what is in use, though its identity is not worked on."""
        client = await self._client(key, record)
        if isinstance(client, Held):
            return self._clock() + PAUSE_LIMIT
        await self._keeper.keep(bond, record, client, {}, TEND_EVERY)
        return self._keeper.next_look(record.name)

    async def _drain(self, key: Key, record: LeaseRecord, replaced: Replaced, now: datetime) -> datetime | None:
        """Let those who still use the old credentials do so until then; nobody can if Vault does not grant it."""
        client = await self._client(key, record)
        if isinstance(client, Held):
            return min(replaced.until, now + PAUSE_LIMIT)
        bond = Bond(record.name, replaced.lease_id, record.created, replaced.until - now, renewable=True)
        try:
            lease = await self._keeper.extend(bond, record, client, replaced.until)
        except PortError as error:
            logger.info("%s: %s: the lease that was replaced can't be renewed now: %s", record.owner, key, error)
            known = self._keeper.known(record.name)
            ends = known.ends if known is not None and known.ends > now else None
            return earliest(replaced.until, ends, self._pause(record.name, now))
        if lease is None:
            return await self._end(key, record, "it was replaced, and is over", now)
        return max(min(lease.ends, replaced.until), now + timedelta(seconds=1))

    async def _run_out(self, key: Key, record: LeaseRecord, bond: Bond, now: datetime) -> datetime | None:
        """Let a lease live as long as it does; its record goes when it is over."""
        ends = self._keeper.longest_end(record.name)
        lease = self._keeper.known(record.name)
        if lease is None or ends is None or lease.ends <= now:
            client = await self._client(key, record)
            if isinstance(client, Held):
                return await self._not_yet(key, record, "its identity was deleted", now, client.message)
            try:
                left = (await client.lookup(bond.lease_id, await token_of(record, client))).duration
            except (MissingError, PortError) as error:
                if isinstance(error, MissingError):
                    return await self._end(key, record, "its identity was deleted, and it has run out", now)
                return await self._not_yet(key, record, "its identity was deleted", now, str(error))
            return now + max(left, timedelta(seconds=1))
        return max(lease.ends, now + timedelta(seconds=1))

    async def _end(self, key: Key, record: LeaseRecord, why: str, now: datetime) -> datetime | None:
        """Take a lease back, and forget it when Vault has that in hand."""
        if await self._is_named_after_all(record):
            return now + timedelta(seconds=1)
        client = await self._client(key, record)
        if isinstance(client, Held):
            return await self._not_yet(key, record, why, now, client.message)
        try:
            await client.revoke(await token_of(record, client), record.lease_id)
        except MissingError:
            pass  # there is nothing any more
        except PortError as error:
            return await self._not_yet(key, record, why, now, str(error))
        await self._delete(record)
        logger.info("%s: the lease of %s was revoked: %s", record.owner, record.path, why)
        if record.ends is not None:
            self._tell(record, REVOKED, f"the lease of {record.path} was revoked: {why}")
        self._forget(key.name)
        return None

    async def _not_yet(self, key: Key, record: LeaseRecord, why: str, now: datetime, trouble: str) -> datetime | None:
        """Revoking failed: say so once, and try again until nothing of the lease can be left."""
        if record.ends is not None and now >= record.ends:
            await self._delete(record)
            message = f"the lease of {record.path} could not be revoked ({trouble}) and has ended by itself"
            logger.warning("%s: %s", record.owner, message)
            self._tell(record, EXPIRED, message, warning=True)
            self._forget(key.name)
            return None
        if record.ends is None:
            ends = self._keeper.longest_end(record.name) or now + LONGEST_LIFE
            message = (
                f"the lease of {record.path} is revoked as soon as Vault can be asked, or ends by itself at "
                f"{format_time(ends)} at the latest ({why}; {trouble})"
            )
            record = await self._note_end(record, max(ends, now))
            logger.warning("%s: %s", record.owner, message)
            self._tell(record, PENDING, message, warning=True)
        return min(self._pause(record.name, now), max(record.ends or now, now + timedelta(seconds=1)))

    async def _note_end(self, record: LeaseRecord, ends: datetime) -> LeaseRecord:
        """Write down when nothing of the lease can be left, for a start that finds Vault still away."""
        view, noted = self._records.view(record.name), replace(record, ends=ends)
        if view is not None:
            content = records.content_of(noted)
            self._records.put(await self._store.replace(view, content, records.metadata_of(content)))
        return noted

    async def _is_named_after_all(self, record: LeaseRecord) -> bool:
        """Read the Secret once more before the one step that can't be undone: another instance may have written it."""
        if record.owner not in self._inventory.identities:
            return False
        view = await self._store.read(record.owner.namespace, record.secret_name)
        known = self._inventory.secrets.get((record.owner.namespace, record.secret_name))
        if view is None or (known is not None and known.resource_version >= view.resource_version):
            return False
        if self._inventory.put_secret(view):
            bond = records.bond_of(view)
            return bond is not None and bond.record == record.name
        return False

    async def _client(self, key: Key, record: LeaseRecord) -> VaultClient | Held:
        login = Login(record.connection, record.role, record.login_namespace, record.service_account)
        return await self._connections.client_of(login, key)

    async def _delete(self, record: LeaseRecord) -> None:
        view = self._records.view(record.name)
        if view is not None:
            await self._store.delete(view)
            self._records.drop(record.name, view.uid)

    def _pause(self, name: str, now: datetime) -> datetime:
        failures = self._failures.get(name, 0)
        self._failures[name] = failures + 1
        pause: timedelta = PAUSE_FIRST * 2 ** min(failures, 10)
        return now + min(pause, PAUSE_LIMIT)

    def _tell(self, record: LeaseRecord, reason: str, message: str, *, warning: bool = False) -> None:
        self._events.emit(record.owner, record.uid, reason, message, warning=warning)

    def _forget(self, name: str) -> None:
        self._first_seen.pop(name, None)
        self._failures.pop(name, None)
        self._keeper.forget(name)
