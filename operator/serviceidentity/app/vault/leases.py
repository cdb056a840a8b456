"""Leases: issued on a record, renewed in time, given back when they are not needed any more."""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Secrets, Wake
from serviceidentity.app.vault.lease_keeper import TOKEN_TTL, LeaseKeeper, token_of
from serviceidentity.app.vault.ports import Leased, LeaseToken, Login, VaultClient
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import Identity, Key, vault_lease_key
from serviceidentity.domain.schedule import earliest
from serviceidentity.domain.vault import records
from serviceidentity.domain.vault.records import Bond, LeaseRecord, bond_of
from serviceidentity.domain.vault.spec import LeaseSource, VaultSecretSpec
from serviceidentity.domain.vault.strays import GRACE
from serviceidentity.domain.vault.views import Answer, Lease, Open
from serviceidentity.errors import ForbiddenError, PortError, RejectedError, ServiceIdentityError, UnansweredError

logger = logging.getLogger(__name__)

RECORD_MISSING: Final = "the record of its lease is gone"


class LeaseNotRecordedError(ServiceIdentityError):
    """The API server did not take the record of a lease, so no credentials are read; `cause` is what it said."""

    def __init__(self, cause: PortError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class NotForOrphansError(ForbiddenError):
    """Vault does not let a token without parent read the credentials: it may let a login of its own."""


class Leases:
    """The leases of identities.

    Credentials hang on a token that is made for them alone, and the token is on record before they are read. So
    whenever this process ends, what it leaves behind is found by the next one: see LeaseCollector.
    """

    def __init__(
        self, inventory: Inventory, store: Secrets, clock: Clock, wake: Wake, keeper: LeaseKeeper | None = None
    ) -> None:
        self.keeper = keeper or LeaseKeeper(clock)
        self.in_flight: set[str] = set()
        self._inventory = inventory
        self._records = inventory.leases
        self._store = store
        self._clock = clock
        self._wake = wake
        self._need_own_login: set[Login] = set()
        self._looked_after: defaultdict[Key, dict[str, str]] = defaultdict(dict)

    async def look(
        self, identity: Identity, secret: VaultSecretSpec, client: VaultClient, view: SecretView | None
    ) -> Lease | Open:
        """Return the lease behind a Secret as it is now, after renewing it if that is due.

        Open: there is none. What fails in passing is told in the lease.
        """
        found = self._bond(identity, secret, view)
        if not isinstance(found, tuple):
            return found
        bond, record = found
        self._looked_after[identity.key][secret.name] = record.name
        return await self.keeper.keep(bond, record, client, self._told(identity.key, secret), secret.refresh_every)

    def unattended(
        self, identity: Identity, secret: VaultSecretSpec, view: SecretView | None, held: Held
    ) -> Lease | Held:
        """Return the lease behind a Secret as it was last known, while nobody can be asked about it."""
        found = self._bond(identity, secret, view)
        if not isinstance(found, tuple):
            return found if isinstance(found, Lease) else held
        bond, record = found
        return self.keeper.unattended(bond, record, self._told(identity.key, secret), held)

    async def issue(self, identity: Identity, secret: VaultSecretSpec, client: VaultClient) -> Answer:
        """Have new credentials made, on record before they are. Raises PortError and LeaseNotRecordedError."""
        source = secret.source
        if not isinstance(source, LeaseSource):
            raise TypeError(secret.name)
        own_login = client.login in self._need_own_login
        try:
            return await self._issue(identity, secret, source, client, own_login=own_login)
        except NotForOrphansError as refused:
            # A token without parent has the login's policies, but not those of the login's entity and groups.
            try:
                answer = await self._issue(identity, secret, source, client, own_login=True)
            except RejectedError:
                raise refused from None
            self._need_own_login.add(client.login)
            return answer

    async def _issue(
        self, identity: Identity, secret: VaultSecretSpec, source: LeaseSource, client: VaultClient, *, own_login: bool
    ) -> Answer:
        name = f"{identity.meta.namespace}/{identity.meta.name}/{secret.name}"
        token = await client.lease_token(TOKEN_TTL, name, own_login=own_login)
        record = _new_record(identity, secret, client.login, token, self._clock())
        self.in_flight.add(record.name)
        try:
            if not token.shared:
                await self._put_on_record(record)
            asked = self._clock()
            leased = await _read(source, token, client, own_login=own_login)
            record = replace(record, lease_id=leased.lease_id)
            if token.shared:
                await self._put_on_record(record)
            lease = await self.keeper.begin(record, leased.lease_id, leased.grant, token, asked, client)
        except (asyncio.CancelledError, UnansweredError):
            # A read may be under way, and what it brings would outlive a token that is revoked before: it is taken back
            # after a while, or by the next start.
            self.in_flight.discard(record.name)
            self._wake([vault_lease_key(record.name)])
            raise
        except BaseException:
            await self._give_back(record, token, client)
            raise
        return Answer(values=leased.values, lease=lease, record=record.name)

    async def stored(self, identity: Identity, answer: Answer) -> None:
        """Take note that they are in their Secret. Those that they replaced are looked at."""
        self.in_flight.discard(answer.record)
        if answer.lease is not None and self._clock() - answer.lease.issued > GRACE / 2:
            self.keeper.look_again(answer.record)  # another instance may have taken it for a stray by now
        self._wake(self._records.keys_of([identity.key]))

    async def abandoned(self, identity: Identity, answer: Answer, client: VaultClient | None = None) -> None:
        """Give back what could not be stored; what can't be given back now is left to the collector."""
        record = self._records.get(answer.record)
        if record is None or client is None:
            self.in_flight.discard(answer.record)
            self._wake([vault_lease_key(answer.record)])
            return
        record = replace(record, lease_id=answer.lease.lease_id if answer.lease else "")
        try:
            token = await token_of(record, client)
        except PortError:
            self.in_flight.discard(record.name)
            self._wake([vault_lease_key(record.name)])
        else:
            await self._give_back(record, token, client)

    def forget(self, key: Key) -> None:
        """The identity is gone, or can't be understood: its leases are the collector's business."""
        self._looked_after.pop(key, None)

    def next_look(self, identity: Identity) -> datetime | None:
        """When a lease of the identity has to be looked after."""
        wanted = {secret.name for secret in identity.vault.secrets} if identity.vault is not None else set()
        looked_after = self._looked_after.get(identity.key, {})
        return earliest(*(self.keeper.next_look(record) for name, record in looked_after.items() if name in wanted))

    def _bond(
        self, identity: Identity, secret: VaultSecretSpec, view: SecretView | None
    ) -> tuple[Bond, LeaseRecord] | Lease | Open:
        bond = bond_of(view) if view is not None else None
        if bond is None:
            return Open()
        record = self._records.get(bond.record)
        if record is None or record.owner != identity.key:  # whoever edits a Secret must not get at others' leases
            return replace(bond.begun(bond.issued), lost=RECORD_MISSING)
        return bond, record

    def _told(self, key: Key, secret: VaultSecretSpec) -> Mapping[str, Any]:
        """Return what the status says of the lease."""
        entry = self._inventory.identities.get(key)
        listed = entry.status.get("vault") if entry is not None else None
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict) and item.get("name") == secret.name and isinstance(item.get("lease"), dict):
                return dict(item["lease"])
        return {}

    async def _put_on_record(self, record: LeaseRecord) -> None:
        content = records.content_of(record)
        try:
            view = await self._store.create(self._records.namespace, record.name, content, records.metadata_of(content))
        except PortError as error:
            raise LeaseNotRecordedError(error) from error
        self._records.put(view)

    async def _give_back(self, record: LeaseRecord, token: LeaseToken, client: VaultClient) -> None:
        """Revoke what nobody can use, and forget it; what fails is the collector's work."""
        self.keeper.forget(record.name)
        try:
            await client.revoke(token, record.lease_id)
            if (view := self._records.view(record.name)) is not None:
                await self._store.delete(view)
                self._records.drop(record.name)
        except PortError as error:
            logger.warning("%s: a lease could not be given back yet: %s", record.owner, error)
        finally:
            self.in_flight.discard(record.name)
            self._wake([vault_lease_key(record.name)])


async def _read(source: LeaseSource, token: LeaseToken, client: VaultClient, *, own_login: bool) -> Leased:
    try:
        leased = await client.issue(source.path, source.method, dict(source.parameters), token)
    except ForbiddenError as error:
        if own_login or token.shared:
            raise
        raise NotForOrphansError(str(error)) from error
    if not leased.lease_id or leased.grant.duration <= timedelta(0):
        raise RejectedError("the answer has no lease; what has none is not for database or lease")
    return leased


def _new_record(
    identity: Identity, secret: VaultSecretSpec, login: Login, token: LeaseToken, now: datetime
) -> LeaseRecord:
    return LeaseRecord(
        name=f"vault-lease-{secrets.token_hex(10)}",
        connection=login.connection,
        role=login.role,
        login_namespace=login.namespace,
        service_account=login.service_account,
        owner=identity.key,
        uid=identity.meta.uid,
        secret=secret.name,
        secret_name=secret.secret_name,
        path=str(secret.source),
        created=now,
        token=None if token.shared else token.token,
        accessor=token.accessor,
    )
