"""Keeping leases alive: what is known of each, looking after it, renewing it and the token that it hangs on.

The token always outlives its lease: when it ends, Vault revokes the lease with it. So it is renewed first, and what it
can't be renewed to is the end of the lease, too.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.ports import Clock
from serviceidentity.app.vault.ports import Grant, LeaseToken, VaultClient
from serviceidentity.domain.material import Held
from serviceidentity.domain.schedule import earliest, upcoming
from serviceidentity.domain.vault import lease as rules
from serviceidentity.domain.vault.records import Bond, LeaseRecord
from serviceidentity.domain.vault.views import Lease
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RetryableError

logger = logging.getLogger(__name__)

UNAVAILABLE: Final = "VaultUnavailable"
RENEWAL_FAILED: Final = "RenewalFailed"
# Long enough to read credentials; what outlives it is asked for when it is known how long the lease is. A token that is
# never used, because the operator died before it was on record, is gone that soon.
TOKEN_TTL: Final = timedelta(minutes=5)
# How much longer than its lease a token is to live, and how little of that is enough.
TOKEN_LEAD: Final = timedelta(minutes=5)
_TOKEN_LEAST: Final = timedelta(minutes=1)
GONE: Final = "the lease is gone from Vault: it was revoked, or has ended"
NO_TOKEN: Final = "Vault refuses the token of the lease: it was revoked, or has ended"  # noqa: S105  # not a token


@dataclass(slots=True)
class Watch:
    """What this process knows of a lease. `token_ends` None: the token never ends."""

    lease: Lease
    token_ends: datetime | None
    look_at: datetime
    retry_at: datetime | None = None
    token_fixed: bool = False


class LeaseKeeper:
    """Leases by the name of their record."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watches: dict[str, Watch] = {}

    def known(self, record: str) -> Lease | None:
        """Return a lease as it was last seen by this process."""
        watch = self._watches.get(record)
        return watch.lease if watch else None

    def longest_end(self, record: str) -> datetime | None:
        """Return when nothing of a lease can be left, if that is known."""
        watch = self._watches.get(record)
        if watch is None or watch.token_ends is None:
            return None
        return max(watch.token_ends, watch.lease.ends)

    def forget(self, record: str) -> None:
        """The lease is over, or someone else's business."""
        self._watches.pop(record, None)

    def next_look(self, record: str) -> datetime | None:
        """When to look after a lease next: never in the past, also when nobody may ask or nothing may be issued."""
        watch = self._watches.get(record)
        if watch is None or watch.lease.lost is not None:
            return None
        at, now = watch.retry_at or earliest(watch.look_at, rules.deadline(watch.lease)), self._clock()
        return rules.retry_time(watch.lease, now) if at is None or at <= now else at

    async def begin(
        self, record: LeaseRecord, lease_id: str, grant: Grant, token: LeaseToken, asked: datetime, client: VaultClient
    ) -> Lease:
        """Take in a lease that was granted to a request of `asked`, and see to it that its token outlives it.

        Raises PortError when the token can't be asked about: then the lease is not worth having.
        """
        lease = Lease(lease_id, asked, asked, grant.duration, grant.duration, grant.renewable)
        ends = None if token.grant is None else asked + token.grant.duration
        watch = Watch(lease, ends, asked)
        if token.grant is not None and not token.grant.renewable:
            watch.token_fixed = True
        elif token.shared:
            watch.token_ends = None  # the login is renewed by whoever logged in
        await self._let_token_outlive(watch, token, client, grant.duration)
        first = _bounded(grant.duration, watch, asked)
        watch.lease = replace(lease, duration=first, first=first)
        self._watches[record.name] = watch
        return watch.lease

    async def keep(
        self,
        bond: Bond,
        record: LeaseRecord,
        client: VaultClient,
        told: Mapping[str, Any],
        look_every: timedelta,
    ) -> Lease:
        """Return a lease as it is now, renewed if that is due, and looked up in Vault once in `look_every`.

        What fails in passing is tried again soon and is the lease's `trouble`; its credentials stay as they are.
        """
        now = self._clock()
        watch = self._watches.get(record.name)
        if watch is not None and watch.lease.lost is not None:
            return watch.lease
        if watch is not None and watch.retry_at is not None and now < watch.retry_at:
            return watch.lease
        try:
            if watch is None:
                watch = await self._found_again(bond, record, client, told)
                watch.look_at = now + look_every
            elif now >= watch.look_at and not rules.may_renew(watch.lease, now):
                left = (await client.lookup(bond.lease_id, await token_of(record, client))).duration
                if left < watch.lease.ends - now:  # somebody shortened it
                    watch.lease = rules.rebuilt(bond.begun(now), left, None, rules.report(watch.lease))
                watch.look_at = now + look_every
            if rules.may_renew(watch.lease, now):
                await self._renew(bond.lease_id, record, client, watch, bond.first)
                watch.look_at = now + look_every
        except (MissingError, ForbiddenError) as error:
            lost = GONE if isinstance(error, MissingError) else NO_TOKEN
            watch = watch or Watch(rules.rebuilt(bond.begun(now), None, None, told), None, now)
            watch.lease, watch.retry_at = replace(watch.lease, lost=lost, trouble=None), None
        except PortError as error:
            reason = UNAVAILABLE if isinstance(error, RetryableError) else RENEWAL_FAILED
            self._postpone(bond, record, told, Held(reason, f"the lease can't be looked after: {error}"))
            return self._watches[record.name].lease
        else:
            watch.retry_at = None
            watch.lease = replace(watch.lease, trouble=None)
        self._watches[record.name] = watch
        return watch.lease

    def look_again(self, record: str) -> None:
        """Look a lease up in Vault at the next occasion, whatever was known of it."""
        if (watch := self._watches.get(record)) is not None:
            watch.look_at = self._clock()

    def unattended(self, bond: Bond, record: LeaseRecord, told: Mapping[str, Any], held: Held) -> Lease:
        """Return a lease as it was last known, while nobody may ask Vault about it."""
        watch = self._watches.get(record.name)
        now = self._clock()
        lease = watch.lease if watch else rules.rebuilt(bond.begun(now), None, None, told)
        return replace(lease, trouble=held)

    async def extend(self, bond: Bond, record: LeaseRecord, client: VaultClient, until: datetime) -> Lease | None:
        """Have a lease live until then, as far as Vault grants that; None when it is no more. Raises PortError."""
        now = self._clock()
        watch = self._watches.get(record.name)
        try:
            if watch is None:
                watch = await self._found_again(bond, record, client, {})
                self._watches[record.name] = watch
            if watch.lease.lost is not None or watch.lease.ends <= now:
                return None
            if watch.lease.ends < until and watch.lease.renewable:
                await self._renew(bond.lease_id, record, client, watch, until - now)
        except (MissingError, ForbiddenError):
            return None
        return watch.lease

    async def _found_again(
        self, bond: Bond, record: LeaseRecord, client: VaultClient, told: Mapping[str, Any]
    ) -> Watch:
        """Return what is to be known of a lease after a restart. Its token lives as long, and is renewed with it."""
        now = self._clock()
        token = await token_of(record, client)
        grant = await client.lookup(bond.lease_id, token)
        lease = rules.rebuilt(bond.begun(now), grant.duration, grant.renewable, told)
        return Watch(lease, None if token.shared else lease.ends, now)

    async def _renew(
        self, lease_id: str, record: LeaseRecord, client: VaultClient, watch: Watch, wanted: timedelta
    ) -> None:
        token = await token_of(record, client)
        await self._let_token_outlive(watch, token, client, wanted)
        now = self._clock()
        grant = await client.renew(lease_id, wanted, token)
        duration = _bounded(grant.duration, watch, now)
        renewable = watch.lease.renewable and grant.renewable
        watch.lease = replace(watch.lease, granted=now, duration=duration, renewable=renewable)

    async def _let_token_outlive(self, watch: Watch, token: LeaseToken, client: VaultClient, wanted: timedelta) -> None:
        """Renew the token if it would end before, or shortly after, a lease that is granted `wanted` now."""
        now = self._clock()
        if token.shared and token.grant is not None and not token.grant.renewable:
            watch.token_ends, watch.token_fixed = now + token.grant.duration, True
        if watch.token_ends is None or watch.token_fixed or watch.token_ends >= now + wanted + _TOKEN_LEAST:
            return
        try:
            grant = await client.renew_token(token, wanted + TOKEN_LEAD)
        except (MissingError, ForbiddenError, RetryableError):
            raise
        except PortError:
            watch.token_fixed = True  # it can't be renewed: its end is the lease's
        else:
            watch.token_ends = now + grant.duration
            watch.token_fixed = not grant.renewable

    def _postpone(self, bond: Bond, record: LeaseRecord, told: Mapping[str, Any], trouble: Held) -> None:
        now = self._clock()
        watch = self._watches.get(record.name)
        if watch is None:
            lease = rules.rebuilt(bond.begun(now), None, None, told)
            watch = self._watches[record.name] = Watch(lease, None if record.shared else lease.ends, now)
        watch.retry_at = earliest(rules.retry_time(watch.lease, now), upcoming(now, rules.deadline(watch.lease)))
        if rules.may_renew(watch.lease, now) or now >= watch.lease.ends:
            watch.lease = replace(watch.lease, trouble=trouble)


async def token_of(record: LeaseRecord, client: VaultClient) -> LeaseToken:
    """Return the token that a lease hangs on. Raises MissingError when that is no longer the login, as it was."""
    if record.token is not None:
        return LeaseToken(record.token, record.accessor, shared=False, grant=None)
    token = await client.lease_token(TOKEN_TTL, str(record.owner))
    if not token.shared:  # the login may make tokens by now
        await client.revoke(token, "")
        raise MissingError("the lease hangs on a login that others use as well")
    return token


def _bounded(granted: timedelta, watch: Watch, now: datetime) -> timedelta:
    """Return how long a lease really lives: not longer than its token."""
    if watch.token_ends is None:
        return granted
    return max(min(granted, watch.token_ends - now), timedelta(0))
