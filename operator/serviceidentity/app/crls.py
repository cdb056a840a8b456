"""The revocation lists of a trust domain's authorities: what is revoked is gathered, what is due is issued."""

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from serviceidentity.app.crl_registry import CrlRegistry
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.writer import ForeignSecretError, SecretWriter
from serviceidentity.domain import ownership, status
from serviceidentity.domain.authority import Authority, Hierarchy, Role, crls
from serviceidentity.domain.authority.crl_records import Revocation
from serviceidentity.domain.authority.crls import IssueCrl, Lists, RemoveCrl
from serviceidentity.domain.credentials import revocation
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain, spiffe_id
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.status import Failure
from serviceidentity.errors import InvalidSpecError, MissingError, RejectedError, ServiceIdentityError

logger = logging.getLogger(__name__)


class CrlFailure(ServiceIdentityError):  # noqa: N818  # not an error: a problem to report
    """What stands in the way of a revocation list."""

    def __init__(self, failure: Failure | Held) -> None:
        super().__init__(failure.message)
        self.failure = failure


class CrlIssuer:
    """Issues the revocation lists of trust domains."""

    def __init__(self, inventory: Inventory, registry: CrlRegistry, writer: SecretWriter) -> None:
        self._inventory = inventory
        self._registry = registry
        self._writer = writer

    def observe(self, seen: Hierarchy, recorded: Mapping[str, Any], now: datetime) -> Lists:
        """Gather what decisions about the lists depend on; `recorded` is the trust domain's status."""
        found, broken = self._registry.read(seen.domain, seen.authorities)
        return Lists(seen, found, broken, self._asked(seen, now), _recorded(recorded))

    def again(self, seen: Lists) -> Lists:
        """Return the same with the lists as they are now."""
        found, broken = self._registry.read(seen.hierarchy.domain, seen.hierarchy.authorities)
        return replace(seen, found=found, broken=broken)

    async def advance(self, seen: Lists, now: datetime) -> tuple[int, Failure | Held | None]:
        """Carry out what is due. Return how many certificates are newly revoked, and what stands in the way of a list.

        One that can't be written holds up none of the others. Raises RetryableError and ConflictError: the caller
        tries again soon.
        """
        domain, added = seen.hierarchy.domain, 0
        problems: list[Failure | Held] = []
        for step in crls.plan(seen, now):
            try:
                match step:
                    case IssueCrl():
                        await self._issue(domain, step, now)
                        added += step.added
                    case RemoveCrl():
                        await self._remove(step)
            except CrlFailure as error:
                problems.append(error.failure)
                continue
            name = type(step).__name__
            logger.info("%s: %s %s (%s: %s)", domain.key, name, step.secret_name, step.reason, step.message)
        try:
            await self._repair(domain)
        except CrlFailure as error:
            problems.append(error.failure)
        if (held := crls.waiting(seen, now)) is not None:
            problems.append(held)
        return added, problems[0] if problems else None

    def _asked(self, seen: Hierarchy, now: datetime) -> tuple[Revocation, ...]:
        """Return what is to be on a list: what the spec says, and what identities ask for or have been revoked for."""
        domain = seen.domain
        listed = [
            Revocation(item.serial_number, item.revoked_at or now, item.reason, item.issuer) for item in domain.revoked
        ]
        issuers = [one for one in seen.of(Role.INTERMEDIATE) if one.key_is_here]
        for key in self._inventory.identities_of(domain.meta.name):
            listed += self._owed(key, domain, issuers, now)
        return tuple(listed)

    def _owed(self, key: Key, domain: TrustDomain, issuers: Sequence[Authority], now: datetime) -> list[Revocation]:
        entry = self._inventory.identities[key]
        marked = [view for view in self._contents(key) if revocation.has_revocations(entry.meta, view)]
        if not marked or isinstance(entry.spec, InvalidSpecError) or entry.spec.certificate is None:
            return []
        own = spiffe_id(domain.trust_domain, key.namespace, "")
        views = revocation.secrets_of(marked, entry.spec.certificate.secret_name)
        ours = (view for view in views if self._inventory.owns(view, Kind.SERVICE_IDENTITY, entry.meta))
        return [item for view in ours for item in revocation.owed(entry.meta, view, own, issuers, now)]

    def _contents(self, key: Key) -> Iterable[SecretView]:
        for location in self._inventory.locations_of(key):
            view = self._inventory.good(location) or self._inventory.secrets.get(location)
            if view is not None:
                yield view

    async def _issue(self, domain: TrustDomain, step: IssueCrl, now: datetime) -> None:
        try:
            content = await asyncio.to_thread(crls.issue, domain, step, now)
        except PkiError as error:
            raise CrlFailure(Failure(status.ISSUE_FAILED, str(error))) from None
        content = ownership.with_content_id(content, secrets.token_hex(8))
        location = (self._inventory.authority_namespace, step.secret_name)
        await self._store(domain, content, self._inventory.secrets.get(location), step.secret_name)

    async def _remove(self, step: RemoveCrl) -> None:
        location = (self._inventory.authority_namespace, step.secret_name)
        view = self._inventory.secrets.get(location)
        if view is not None:
            await self._writer.remove(view)
        else:
            self._inventory.forget_secret(location)

    async def _repair(self, domain: TrustDomain) -> None:
        """Put back a list's Secret that was edited or deleted."""
        for view in self._registry.views(domain).values():
            location = (view.namespace, view.name)
            found = self._inventory.secrets.get(location)
            if self._inventory.good(location) is None:
                self._inventory.remember(view)
            content = SecretContent(view.type, view.data, ownership.records_of(view))
            metadata = _metadata(domain, view.name, content)
            if found is None or found.data != view.data or not ownership.satisfied(found, metadata):
                await self._store(domain, content, found, view.name)

    async def _store(self, domain: TrustDomain, content: SecretContent, seen: SecretView | None, name: str) -> None:
        location = (self._inventory.authority_namespace, name)
        metadata = _metadata(domain, name, content)
        try:
            await self._writer.store(Kind.TRUST_DOMAIN, domain.meta, location, content, metadata, seen)
        except ForeignSecretError as error:
            raise CrlFailure(Failure(status.CONFLICT, str(error))) from None
        except (RejectedError, MissingError) as error:
            raise CrlFailure(Failure(status.REJECTED, f"Secret {name}: {error}")) from None


def _metadata(domain: TrustDomain, name: str, content: SecretContent) -> ownership.Metadata:
    labels = {ownership.TRUST_DOMAIN_LABEL: domain.meta.name}
    return ownership.metadata_for(Kind.TRUST_DOMAIN, domain.meta, domain.deletion_policy, name, labels, content)


def _recorded(recorded: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the number and length of each list as the status has them, by the fingerprint of its authority."""
    return {
        item["fingerprint"]: (int(item["crl"]["number"]), int(item["crl"]["revoked"]))
        for item in recorded.get("authorities") or ()
        if "crl" in item
    }
