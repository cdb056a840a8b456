"""One pass over one TrustDomain: make and retire its authorities, report."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.writer import ForeignSecretError
from serviceidentity.domain import authority, ownership, status
from serviceidentity.domain.authority import Authority, MakeAuthority, RetireAuthority
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import parse_time
from serviceidentity.domain.status import Failure
from serviceidentity.errors import InvalidSpecError, MissingError, RejectedError

logger = logging.getLogger(__name__)


class TrustDomainReconciler(Reconciler):
    """Makes and retires the authorities of a trust domain."""

    async def reconcile(self, key: Key) -> tuple[datetime | None, bool]:
        """Do what is due and return when to come back, and whether the authorities changed.

        Raises RetryableError and ConflictError: the caller tries again soon.
        """
        entry = self._inventory.domains.get(key)
        if entry is None or entry.meta.deleting:
            return None, True
        now = self._clock()
        if isinstance(entry.spec, InvalidSpecError):
            path, _, message = str(entry.spec).partition(": ")
            await self._report(key, entry, status.of_invalid(entry.meta, path, message, entry.status, now))
            return None, True
        domain = entry.spec
        problem: Held | Failure | None = next(iter(status.backing_off(entry.status, entry.meta, now).values()), None)
        authorities: tuple[Authority, ...] = ()
        changed = False
        if problem is None:
            try:
                changed = await self._advance(domain, _active_roots(entry.status), now)
            except Unresolved as error:
                problem = error.problem
        try:
            authorities = self._trust.authorities(domain)
        except MalformedError as error:
            problem = problem or Held(authority.AUTHORITY_UNREADABLE, str(error))
        if problem is None:
            trust = self._trust.of(domain.meta.name, now)
            problem = trust if isinstance(trust, Held) else None
        deadline = authority.deadline(domain, authorities, now)
        wanted = status.of_trust_domain(domain, authorities, problem, deadline, entry.status, now)
        was_ready = (entry.status.get("conditions") or [{}])[0].get("status")
        await self._report(key, entry, wanted)
        ready = wanted["conditions"][0]
        if ready["status"] != was_ready or changed:
            self._events.emit(
                key, entry.meta.uid, ready["reason"], ready["message"], warning=ready["status"] == "False"
            )
        text = wanted.get("nextActionTime")
        return parse_time(text) if text else None, changed or ready["status"] != was_ready

    async def _advance(self, domain: TrustDomain, recorded: frozenset[str], now: datetime) -> bool:
        """Carry out the plan step by step. Raises Unresolved with what stands in the way."""
        changed = False
        while True:
            try:
                authorities = self._trust.authorities(domain)
            except MalformedError as error:
                raise Unresolved(Held(authority.AUTHORITY_UNREADABLE, str(error))) from None
            action = authority.plan(domain, authorities, now, recorded)
            match action:
                case None:
                    return await self._repair(domain, authorities) or changed
                case Held():
                    raise Unresolved(action)
                case MakeAuthority():
                    await self._make(domain, authorities, action, now)
                case RetireAuthority():
                    view = self._inventory.secrets.get((self._inventory.authority_namespace, action.secret_name))
                    if view is not None:
                        await self._writer.remove(view)
                    else:
                        self._inventory.forget_secret((self._inventory.authority_namespace, action.secret_name))
            logger.info("%s: %s %s (%s)", domain.key, type(action).__name__, action.secret_name, action.reason)
            changed = True

    async def _make(
        self, domain: TrustDomain, authorities: tuple[Authority, ...], action: MakeAuthority, now: datetime
    ) -> None:
        root = authority.newest(authorities, authority.Role.ROOT)
        try:
            content = await asyncio.to_thread(authority.issue, domain, action, root, now)
            metadata = self._metadata(domain, action.role, action.generation, content)
            location = (self._inventory.authority_namespace, action.secret_name)
            await self._writer.store(Kind.TRUST_DOMAIN, domain.meta, location, content, metadata, seen=None)
        except ForeignSecretError as error:
            raise Unresolved(Failure(status.CONFLICT, str(error))) from None
        except PkiError as error:
            raise Unresolved(Failure(status.ISSUE_FAILED, str(error))) from None
        except (RejectedError, MissingError) as error:
            raise Unresolved(Failure(status.REJECTED, str(error))) from None

    async def _repair(self, domain: TrustDomain, authorities: tuple[Authority, ...]) -> bool:
        """Put back an authority's Secret that was edited or deleted; the first good look decides what is right."""
        repaired = False
        for item in authorities:
            location = (item.view.namespace, item.view.name)
            found = self._inventory.secrets.get(location)
            content = SecretContent(item.view.type, item.view.data, _records(item.view))
            metadata = self._metadata(domain, item.role, item.generation, content)
            if location not in self._inventory.remembered:
                self._inventory.remember(item.view)
            if found is None or found.data != item.view.data or not ownership.satisfied(found, metadata):
                try:
                    await self._writer.store(Kind.TRUST_DOMAIN, domain.meta, location, content, metadata, found)
                except ForeignSecretError as error:
                    raise Unresolved(Failure(status.CONFLICT, str(error))) from None
                except (RejectedError, MissingError) as error:
                    raise Unresolved(Failure(status.REJECTED, str(error))) from None
                repaired = True
        return repaired

    def _metadata(
        self, domain: TrustDomain, role: authority.Role, generation: int, content: SecretContent
    ) -> ownership.Metadata:
        labels = {
            ownership.TRUST_DOMAIN_LABEL: domain.meta.name,
            authority.ROLE_LABEL: role.value,
            authority.GENERATION_LABEL: str(generation),
        }
        name = authority.authority_name(domain.meta.name, role, generation)
        return ownership.metadata_for(Kind.TRUST_DOMAIN, domain.meta, domain.deletion_policy, name, labels, content)


class Unresolved(Exception):  # noqa: N818  # not an error: a problem to report
    """What stands in the way of a trust domain."""

    def __init__(self, problem: Held | Failure) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _active_roots(recorded: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the Secrets of the roots that a status lists as Active."""
    return frozenset(
        item["secretName"]
        for item in recorded.get("authorities") or ()
        if item.get("role") == authority.Role.ROOT and item.get("state") == authority.AuthorityState.ACTIVE
    )


def _records(view: SecretView) -> dict[str, str]:
    return {name: value for name, value in view.annotations.items() if name.startswith("serviceidentity.dev/")}
