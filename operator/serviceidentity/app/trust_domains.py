"""One pass over one TrustDomain: take the next steps in the life of its authorities, report."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from serviceidentity.app.crl_registry import CrlRegistry
from serviceidentity.app.crls import CrlFailure, CrlIssuer
from serviceidentity.app.entries import Entry
from serviceidentity.app.jwt.federation import CONDITION as FEDERATION_CONDITION
from serviceidentity.app.jwt.federation import Condition, Federation
from serviceidentity.app.jwt.keeper import Kept, SealingFailedError, TokenKeeper
from serviceidentity.app.ports import Pki
from serviceidentity.app.publisher import More, Outcome, Publisher
from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.sources import LOOK_EVERY, UNAVAILABLE, Sources
from serviceidentity.app.usage import usage_of
from serviceidentity.app.writer import ForeignSecretError
from serviceidentity.domain import authority, ownership, status
from serviceidentity.domain.authority import (
    Authority,
    Hierarchy,
    ImportAuthority,
    Locked,
    MakeAuthority,
    MarkAuthority,
    RetireAuthority,
    Role,
    Source,
    Trust,
    Upstream,
    Usage,
    crls,
    sealing,
)
from serviceidentity.domain.authority.crls import Lists
from serviceidentity.domain.authority.sealing import Sealing
from serviceidentity.domain.bundle import CONDITION as BUNDLE_CONDITION
from serviceidentity.domain.jwt import turning
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import earliest, format_time, parse_time
from serviceidentity.domain.status import Failure
from serviceidentity.errors import InvalidSpecError, MissingError, PortError, RejectedError, RetryableError

logger = logging.getLogger(__name__)


class TrustDomainReconciler(Reconciler):
    """Makes or copies, activates and retires the authorities of a trust domain; publishes whom to trust, whom not."""

    def __init__(
        self,
        *parts: Any,
        publisher: Publisher,
        crls: CrlRegistry,
        tokens: TokenKeeper,
        federation: Federation,
        pki: Pki | None = None,
    ) -> None:
        super().__init__(*parts)
        self._federation = federation
        self._publisher = publisher
        self._tokens = tokens
        self._crls = CrlIssuer(self._inventory, crls, self._writer)
        self._sources = Sources(self._secrets, self._inventory.authority_namespace, pki)
        self._source: dict[Key, Source | Held] = {}  # as read in the last pass
        self._told: dict[Key, Trust | Held] = {}  # what identities have been woken for

    async def reconcile(self, key: Key) -> tuple[datetime | None, bool]:
        """Do what is due and return when to come back, and whether identities have to look again.

        Raises RetryableError and ConflictError: the caller tries again soon.
        """
        entry = self._inventory.domains.get(key)
        if entry is None or entry.meta.deleting:
            known = self._told.pop(key, None) is not None
            self._publisher.forget(key)
            self._federation.forget(key)
            self._keys.forget(key.name)
            await self._tokens.forget(key)
            return None, known
        now = self._clock()
        if isinstance(entry.spec, InvalidSpecError):
            path, _, message = str(entry.spec).partition(": ")
            await self._report(key, entry, status.of_invalid(entry.meta, path, message, entry.status, now))
            return None, self._told.pop(key, None) is not None
        domain = entry.spec
        done = await self._work(domain, entry, now)
        problem = done.problem or _nobody_signs(self._trust.of(domain.meta.name, now), done.seen)
        publication, signing = done.outcome.publication, self._tokens.observe(domain)
        due = earliest(authority.deadline(done.seen, now), turning.deadline(signing, now))
        more = self._keys_condition(done.seen) + self._tokens.conditions(signing, done.tokens)
        more += [done.federation[0]] if done.federation[0] else []
        jwt = self._tokens.report(signing, entry.status, now)
        wanted = status.of_trust_domain(
            done.seen, problem, due, entry.status, now, publication, done.lists, done.crl_problem, more, jwt
        )
        was_ready = (entry.status.get("conditions") or [{}])[0].get("status")
        self._complain(key, entry, wanted)
        recorded = _active_roots(entry.status)
        await self._report(key, entry, wanted)
        if recorded != _active_roots(wanted):
            self._wake({key})  # a root that is on record as active is not removed before the record says otherwise
        ready = wanted["conditions"][0]
        if ready["status"] != was_ready:
            self._events.emit(
                key, entry.meta.uid, ready["reason"], ready["message"], warning=ready["status"] == "False"
            )
        text = wanted.get("nextActionTime")
        # Looking at keys and sources again is not in the status: it happens all the time and changes nothing as a rule.
        looks = [done.outcome.next_look, authority.last_use(done.seen, now), self._keys.next_look(key.name)]
        looks += [now + LOOK_EVERY if domain.root_is_elsewhere else None, self._tokens.next_look(done.tokens, now)]
        looks.append(done.federation[1])
        next_look = earliest(parse_time(text) if text else None, *looks)
        return next_look, ready["status"] != was_ready

    async def _publish(
        self, domain: TrustDomain, trust: Trust | Held, recorded: Mapping[str, Any], now: datetime, more: More
    ) -> Outcome:
        """Publish the bundle. When others are waited for than before, the life of a new root or token key may go on."""
        before = self._waiting_for(domain, trust, more)
        outcome = await self._publisher.publish(domain, trust, recorded.get("bundle") or {}, now, more)
        if self._waiting_for(domain, trust, more) != before:
            self._wake({domain.key})
        return outcome

    def _waiting_for(self, domain: TrustDomain, trust: Trust | Held, more: More) -> tuple[list[str], list[str]]:
        keys = self._publisher.waiting_for_keys(domain, more.jwks) if more.jwks else []
        return self._publisher.waiting_for(domain, trust), keys

    def _complain(self, key: Key, entry: Entry[TrustDomain], wanted: Mapping[str, Any]) -> None:
        """One Event when a bundle, a revocation list or a source gets into trouble, or into another one."""
        kinds = (status.CRL_READY, status.SOURCE_READY, turning.CONDITION, FEDERATION_CONDITION)
        for type_ in (BUNDLE_CONDITION, *kinds):
            old, new = _condition(entry.status, type_), _condition(wanted, type_)
            if new.get("status") == "False" and new["reason"] != old.get("reason"):
                self._events.emit(key, entry.meta.uid, new["reason"], new["message"], warning=True)

    async def _work(self, domain: TrustDomain, entry: Entry[TrustDomain], now: datetime) -> "Done":
        """Do what is due for the authorities and their revocation lists, each unless it is backing off, and publish."""
        blocked = status.backing_off(entry.status, entry.meta, now)
        in_use = self._name_in_use(domain)
        problem = blocked.get("Ready") or in_use
        done = Done(Hierarchy(domain, ()), problem=problem, crl_problem=blocked.get(status.CRL_READY))
        told = self._told.setdefault(domain.key, self._trust.of(domain.meta.name, now))
        await self._keys.open(domain, [*self._trust.views(domain), *self._tokens.views(domain)])
        await self._look_elsewhere(domain, now)
        done.seen = Hierarchy(domain, (), source=self._source.get(domain.key))
        if done.problem is None:
            try:
                await self._advance(domain, entry, blocked.get(status.CRL_READY), now)
            except Unresolved as error:
                done.problem = error.problem
            except CrlFailure as error:
                done.crl_problem = error.failure
        done.tokens = await self._tokens.advance(domain, in_use, now)
        if done.problem is None:
            try:
                await self._protect(domain)
            except Unresolved as error:
                done.problem = error.problem
        trust = self._trust.of(domain.meta.name, now)
        if trust != told:
            self._told[domain.key] = trust
            # Before the bundle goes to a thousand namespaces.
            self._wake(self._inventory.identities_of(domain.meta.name))
        with contextlib.suppress(MalformedError):  # told below; without trust the last bundle stays
            done.lists = await self._bring_lists_up_to_date(domain, entry, done, now)
        crl = crls.published(done.lists, now) if done.lists is not None else b""
        done.outcome = await self._publish(domain, trust, entry.status, now, More(crl, done.tokens.jwks))
        done.federation = await self._federation.keep(domain, entry.status, now)
        try:
            done.seen = self._observe(domain, _active_roots(entry.status), now)
        except MalformedError as error:
            done.problem = Held(authority.AUTHORITY_UNREADABLE, str(error))  # whatever else there is to say
        return done

    async def _look_elsewhere(self, domain: TrustDomain, now: datetime) -> None:
        """Read the authority that is not made here, if there is one."""
        source = await self._sources.read(domain, now)
        if source is None:
            self._source.pop(domain.key, None)
        else:
            self._source[domain.key] = source

    async def _bring_lists_up_to_date(
        self, domain: TrustDomain, entry: Entry[TrustDomain], done: "Done", now: datetime
    ) -> Lists:
        """Issue the revocation lists that are due; return them as they are then. Raises MalformedError."""
        lists = self._crls.observe(self._observe(domain, _active_roots(entry.status), now), entry.status, now)
        if done.crl_problem is None:
            try:
                await self._issue_lists(lists, entry, now)
            except CrlFailure as error:
                done.crl_problem = error.failure
        return self._crls.again(lists)

    async def _issue_lists(self, lists: Lists, entry: Entry[TrustDomain], now: datetime) -> None:
        """Do what is due for the revocation lists. Raises CrlFailure."""
        revoked, problem = await self._crls.advance(lists, now)
        if revoked:
            message = f"{revoked} more on the revocation lists"
            self._events.emit(lists.hierarchy.domain.key, entry.meta.uid, "Revoked", message)
        if problem is not None:
            raise CrlFailure(problem)

    async def _list_what_goes(
        self, seen: Hierarchy, entry: Entry[TrustDomain], crl_problem: Failure | None, now: datetime
    ) -> None:
        """Put tainted intermediates on the lists of their roots. Raises CrlFailure when one of them is on none.

        Once an authority is gone, nobody knows any more that it belongs there.
        """
        lists = self._crls.observe(seen, entry.status, now)
        if not crls.unlisted(lists, now):
            return
        if crl_problem is not None:
            raise CrlFailure(crl_problem)
        try:
            await self._issue_lists(lists, entry, now)
        except CrlFailure:
            if crls.unlisted(self._crls.again(lists), now):
                raise

    def _keys_condition(self, seen: Hierarchy) -> list[tuple[str, bool, str, str]]:
        """Return how private keys are stored, where they are to be encrypted."""
        tokens = self._tokens.stored(seen.domain)
        if not self._keys.encrypts or not (tokens or any(item.key_is_here for item in seen.authorities)):
            return []
        return [sealing.report(seen.authorities, self._keys.current, self._keys.trouble(seen.domain.meta.name), tokens)]

    def _name_in_use(self, domain: TrustDomain) -> Held | None:
        """Say whether another TrustDomain has this SPIFFE trust domain already, with authorities or by its age.

        Two of them could issue the same SPIFFE ID. One that has authorities goes on with them, whoever else came since.
        """
        if self._inventory.locations_of(domain.key):
            return None
        for key, entry in sorted(self._inventory.domains.items()):
            other = entry.spec
            if key == domain.key or isinstance(other, InvalidSpecError) or other.trust_domain != domain.trust_domain:
                continue
            if self._inventory.locations_of(key) or (entry.meta.created, key) < (domain.meta.created, domain.key):
                return Held(
                    "TrustDomainInUse", f"spec.trustDomain: {domain.trust_domain} belongs to TrustDomain {key.name}"
                )
        return None

    def _observe(self, domain: TrustDomain, recorded: frozenset[str], now: datetime) -> Hierarchy:
        """Gather what decisions about the authorities depend on. Raises MalformedError."""
        authorities = self._trust.authorities(domain)
        trust = self._trust.of(domain.meta.name, now)
        usage = Usage()
        if isinstance(trust, Trust):
            self._inventory.set_awaited(domain.meta.name, waiting=trust.waiting)
            unpublished = self._publisher.waiting_for(domain, trust)
            usage = usage_of(self._inventory, domain, trust.bundle, now, unpublished)
        source = authority.judged(self._source.get(domain.key), authorities, domain.tainted)
        return Hierarchy(domain, authorities, usage, recorded, source)

    async def _advance(
        self, domain: TrustDomain, entry: Entry[TrustDomain], crl_problem: Failure | None, now: datetime
    ) -> None:
        """Carry out the plan step by step. Raises Unresolved or CrlFailure with what stands in the way."""
        while True:
            try:
                seen = self._observe(domain, _active_roots(entry.status), now)
            except MalformedError as error:
                raise Unresolved(Held(authority.AUTHORITY_UNREADABLE, str(error))) from None
            step = authority.plan(seen, now)
            match step:
                case None:
                    await self._repair(domain, seen.authorities)
                    return
                case Held():
                    raise Unresolved(step)
                case MakeAuthority() | ImportAuthority():
                    await self._add(seen, step, now)
                case MarkAuthority():
                    await self._mark(seen, step, now)
                case RetireAuthority():
                    await self._list_what_goes(seen, entry, crl_problem, now)
                    await self._remove(step.secret_name)
            logger.info("%s: %s %s (%s)", domain.key, type(step).__name__, step.secret_name, step.reason)
            self._events.emit(domain.key, domain.meta.uid, step.reason, f"{step.secret_name}: {step.message}")

    async def _add(self, seen: Hierarchy, step: MakeAuthority | ImportAuthority, now: datetime) -> None:
        """Make or copy an authority, and store it with its private key, if it has one, as keys are to be stored."""
        root = next((a for a in seen.authorities if a.view.name == step.signer), None)
        if isinstance(step, MakeAuthority):
            content = await self._make(seen, step, root, now)
        else:
            content = authority.copy_of(step.source, seen.domain, step.role, now, root, activate=step.activate)
        try:
            if "tls.key" in content.data:
                content = await self._keys.seal(seen.domain, step.role, step.secret_name, content)
        except PortError as error:
            message = f"the key of {step.secret_name} can't be encrypted: {error}"
            raise Unresolved(Held(sealing.KEY_ENCRYPTION_FAILED, message)) from None
        content = ownership.with_content_id(content, secrets.token_hex(8))
        await self._store(seen.domain, step.role, step.generation, content, None)

    async def _make(self, seen: Hierarchy, step: MakeAuthority, root: Authority | None, now: datetime) -> SecretContent:
        try:
            if isinstance(seen.source, Upstream) and step.role is Role.INTERMEDIATE and root is not None:
                return await self._sources.sign(seen.domain, step, root, seen.source, now)
            return await asyncio.to_thread(authority.issue, seen.domain, step, root, now)
        except PkiError as error:
            raise Unresolved(Failure(status.ISSUE_FAILED, str(error))) from None
        except RetryableError as error:
            raise Unresolved(Held(UNAVAILABLE, f"{step.secret_name} could not be signed: {error}")) from None
        except PortError as error:
            message = f"{step.secret_name} was not signed: {error}"
            raise Unresolved(Failure(status.ISSUE_FAILED, message)) from None

    async def _mark(self, seen: Hierarchy, step: MarkAuthority, now: datetime) -> None:
        (item,) = (a for a in seen.authorities if a.view.name == step.secret_name)
        content = SecretContent(
            item.view.type, item.view.data, {**ownership.records_of(item.view), step.annotation: format_time(now)}
        )
        content = ownership.with_content_id(content, secrets.token_hex(8))
        found = self._inventory.secrets.get((item.view.namespace, item.view.name))
        await self._store(seen.domain, item.role, item.generation, content, found)

    async def _remove(self, name: str) -> None:
        location = (self._inventory.authority_namespace, name)
        view = self._inventory.secrets.get(location)
        if view is not None:
            await self._writer.remove(view)
        else:
            self._inventory.forget_secret(location)

    async def _repair(self, domain: TrustDomain, authorities: tuple[Authority, ...]) -> None:
        """Put back an authority's Secret that was edited or deleted; the first good look decides what is right."""
        for item in authorities:
            if isinstance(item.key, Locked):
                continue  # nobody knows yet whether it is what it should be
            location = (item.view.namespace, item.view.name)
            found = self._inventory.secrets.get(location)
            content = SecretContent(item.view.type, item.view.data, ownership.records_of(item.view))
            metadata = self._metadata(domain, item.role, item.generation, content)
            if self._inventory.good(location) is None:
                self._inventory.remember(item.view)
            drifted = found is None or found.data != item.view.data
            if drifted or found is None or not ownership.satisfied(found, metadata):
                await self._store(domain, item.role, item.generation, content, found)
                # Without drift another policy of deletion, or another TrustDomain of this name, is no reason for alarm.
                reason, message = ("Drifted", "was put back") if drifted else ("MetadataChanged", "is labelled anew")
                self._events.emit(domain.key, domain.meta.uid, reason, f"{item.view.name} {message}", warning=drifted)

    async def _protect(self, domain: TrustDomain) -> None:
        """Store private keys as they are to be stored now. The keys stay the same: nothing is issued for it."""
        retry = self._keys.retry(domain.meta.name)
        if retry is not None and self._clock() < retry:
            return
        asked, name = domain.meta.annotations.get(sealing.REWRAP_ANNOTATION), domain.meta.name
        newer = await self._keys.check(name, asked)
        dues = [sealing.sealing_due(item, self._keys.current, domain.meta) for item in self._trust.authorities(domain)]
        stored = self._tokens.stored(domain)
        dues += [Sealing.REWRAP for kek in stored.values() if kek is not None and kek != self._keys.current]
        if not newer and Sealing.REWRAP in dues:
            # Another operator may know of a newer key than this one has heard of: not its work back and forth.
            newer = await self._keys.check(name, asked, at_once=True)
        if newer:
            self._wake(list(self._inventory.domains))
        if self._keys.encrypts and self._keys.current is None:
            return  # not known yet
        done: list[str] = []
        try:
            await self._store_as_due(domain, done)
        except SealingFailedError:
            pass  # the guard knows what is wrong, and when to try again
        else:
            self._keys.settled(name)
        if done:
            logger.info("%s: %s", domain.key, "; ".join(done))
            self._events.emit(domain.key, domain.meta.uid, sealing.KEYS_STORED, "; ".join(done))

    async def _store_as_due(self, domain: TrustDomain, done: list[str]) -> None:
        """Store every private key as is due; add what was done to `done`. Raises SealingFailedError and Unresolved."""
        for item in self._trust.authorities(domain):
            due = sealing.sealing_due(item, self._keys.current, domain.meta)
            if due is None or isinstance(item.key, Locked):
                continue
            content = SecretContent(item.view.type, item.view.data, ownership.records_of(item.view))
            try:
                content = await self._keys.apply(due, domain, item.view, content)
            except PortError as error:
                raise SealingFailedError(str(error)) from None
            content = ownership.with_content_id(content, secrets.token_hex(8))
            found = self._inventory.secrets.get((item.view.namespace, item.view.name))
            await self._store(domain, item.role, item.generation, content, found)
            done.append(f"{due.value} the key in Secret {item.view.name}")
        try:
            told = await self._tokens.protect(domain)
        except (ForeignSecretError, RejectedError, MissingError) as error:
            raise Unresolved(Failure(status.REJECTED, str(error))) from None
        done += [told] if told else []

    async def _store(
        self, domain: TrustDomain, role: Role, generation: int, content: SecretContent, seen: SecretView | None
    ) -> None:
        metadata = self._metadata(domain, role, generation, content)
        location = (
            self._inventory.authority_namespace,
            authority.authority_name(domain.meta.name, role, generation),
        )
        try:
            await self._writer.store(Kind.TRUST_DOMAIN, domain.meta, location, content, metadata, seen)
        except ForeignSecretError as error:
            raise Unresolved(Failure(status.CONFLICT, str(error))) from None
        except (RejectedError, MissingError) as error:
            raise Unresolved(Failure(status.REJECTED, str(error))) from None

    def _metadata(self, domain: TrustDomain, role: Role, generation: int, content: SecretContent) -> ownership.Metadata:
        labels = {
            ownership.TRUST_DOMAIN_LABEL: domain.meta.name,
            authority.ROLE_LABEL: role.value,
            authority.GENERATION_LABEL: str(generation),
        }
        name = authority.authority_name(domain.meta.name, role, generation)
        return ownership.metadata_for(Kind.TRUST_DOMAIN, domain.meta, domain.deletion_policy, name, labels, content)


@dataclass(slots=True)
class Done:
    """What one pass has seen and done: the authorities and their lists as they are now, and what stands in the way."""

    seen: Hierarchy
    lists: Lists | None = None
    tokens: Kept = field(default_factory=Kept)
    outcome: Outcome = field(default_factory=lambda: Outcome(None, None))
    problem: Held | Failure | None = None
    crl_problem: Failure | Held | None = None
    federation: tuple[Condition | None, datetime | None] = (None, None)


class Unresolved(Exception):  # noqa: N818  # not an error: a problem to report
    """What stands in the way of a trust domain."""

    def __init__(self, problem: Held | Failure) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _nobody_signs(trust: Trust | Held, seen: Hierarchy) -> Held | None:
    """Return why nobody signs, if so: what is wrong with an authority that is kept elsewhere says more."""
    signer = trust.signer if isinstance(trust, Trust) else trust
    if not isinstance(signer, Held):
        return None
    return seen.source if isinstance(seen.source, Held) else signer


def _active_roots(recorded: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the Secrets of the roots that a status lists as Active."""
    return frozenset(
        item["secretName"]
        for item in recorded.get("authorities") or ()
        if item.get("role") == Role.ROOT and item.get("state") == authority.AuthorityState.ACTIVE
    )


def _condition(shown: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    return next((one for one in shown.get("conditions") or () if one.get("type") == type_), {})
