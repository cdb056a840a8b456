"""Keeps the token keys of trust domains: makes, rotates, stores, repairs and publishes them.

The Secret is written first, the ConfigMap next, the copies of the trust bundle last: a key that is in no published JWK
Set signs nothing (TokenIssuers), and one that replaces another signs only when all of them have had it for its lead.
"""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.jwt.issuers import TokenIssuers
from serviceidentity.app.jwt.publication import ForeignConfigMapError, JwksConfigMap
from serviceidentity.app.publisher import NOT_ASSEMBLED, Publisher
from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.writer import ForeignSecretError
from serviceidentity.domain import ownership, status
from serviceidentity.domain.authority import sealing
from serviceidentity.domain.jwt import authority, turning
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.jwt.authority import TokenKeys
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.jwt.turning import Change, Seen
from serviceidentity.domain.key_ring import Ring
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain
from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import (
    ConflictError,
    InvalidSpecError,
    MissingError,
    PortError,
    RejectedError,
    RetryableError,
)

logger = logging.getLogger(__name__)

UNREADABLE: Final = "TokenKeysUnreadable"
LOCKED: Final = "TokenKeysLocked"
LOOK_EVERY: Final = timedelta(seconds=30)  # at what is somebody else's: no watch tells of it


@dataclass(frozen=True, slots=True)
class Kept:
    """What a pass found and did. `jwks` is what the copies of the trust bundle are to have."""

    jwks: bytes = b""
    problem: Held | None = None


class TokenKeeper(Reconciler):
    """Takes the token keys of one trust domain a step further. Called in each pass over it."""

    def __init__(self, *parts: Any, issuers: TokenIssuers, publisher: Publisher, config_map: JwksConfigMap) -> None:
        super().__init__(*parts)
        self._issuers = issuers
        self._publisher = publisher
        self._config_map = config_map
        self._told: dict[Key, object] = {}  # what identities have been woken for

    def views(self, domain: TrustDomain) -> list[SecretView]:
        """Return the Secret whose keys have to be opened first, if there is one."""
        return self._issuers.views(domain)

    async def forget(self, key: Key) -> None:
        """Deal with a trust domain that is gone: when its keys are too, nothing they signed verifies. Raises PortError.

        The Secret goes by its owner reference; one that is retained keeps the JWK Set where it is.
        """
        self._told.pop(key, None)
        self._issuers.forget(key)
        location = (self._inventory.authority_namespace, authority.secret_name(key.name))
        if location not in self._inventory.secrets and self._inventory.token_keys is not None:
            with contextlib.suppress(ForeignConfigMapError):
                await self._config_map.put(key.name, None)

    async def advance(self, domain: TrustDomain, refused: Held | None, now: datetime) -> Kept:
        """Do what is due for the keys and publish them. With `refused` none are made.

        Raises RetryableError and ConflictError: the caller tries again soon.
        """
        self._told.setdefault(domain.key, _essence(self._issuers.of(domain.meta.name, now)))
        problem = await self._keep(domain, refused, now)
        while (jwks := self._jwks(domain)) and jwks != self._issuers.published(domain):
            problem = await self._publish(domain, jwks, problem)
            if problem is not None:
                break
            problem = await self._keep(domain, refused, now)  # what waited for the ConfigMap need not wait for a pass
        self._tell(domain, now)
        return Kept(jwks, problem)

    def observe(self, domain: TrustDomain, *, refused: bool = False) -> Seen:
        """Gather what decisions about the keys depend on."""
        view, keys = self._issuers.view(domain), self._read(domain)
        published = self._issuers.published(domain)
        if view is None:
            wanted = not refused and (domain.jwt.asked_for or self._somebody_asks(domain))
            return Seen(domain, wanted=wanted, earlier=authority.published_ids(published or b""))
        jwks = self._jwks(domain)
        missing = () if published == jwks else (f"ConfigMap {authority.CONFIG_MAP}",)
        waiting = tuple(self._publisher.waiting_for_keys(domain, jwks))
        if waiting == (NOT_ASSEMBLED,):
            return Seen(domain, view, keys, True, (*missing, *waiting))
        return Seen(domain, view, keys, True, missing, waiting)

    def conditions(self, seen: Seen, kept: Kept) -> list[tuple[str, bool, str, str]]:
        """Return the condition JWTReady, if there are keys, or are to be."""
        problem = kept.problem or self._defect(seen)
        if problem is not None:
            due = seen.view is not None and turning.revocation_is_due(seen.domain.meta, seen.view)
            more = "; until the revocation is done no key is published" if due else ""
            return [(turning.CONDITION, False, problem.reason, problem.message + more)]
        told = turning.summary(seen, self._issuers.issuer(seen.domain))
        return [(turning.CONDITION, True, turning.READY, told)] if told else []

    def report(self, seen: Seen, previous: dict[str, Any], now: datetime) -> dict[str, Any] | None:
        """Return `status.jwt`; what was there stays on record while the keys can't be read."""
        found = turning.report(seen, self._issuers.issuer(seen.domain), now)
        return previous.get("jwt") if found is None and isinstance(seen.keys, Held) else found

    def next_look(self, kept: Kept, now: datetime) -> datetime | None:
        """When to look again, beside what is planned: at what no watch tells of."""
        foreign = kept.problem is not None and kept.problem.reason in (status.CONFLICT, status.REJECTED)
        return earliest(kept.problem.retry if kept.problem else None, now + LOOK_EVERY if foreign else None)

    async def protect(self, domain: TrustDomain) -> str | None:
        """Store the private keys as they are to be stored now; say what was done.

        Raises SealingFailedError, ForeignSecretError and PortError.
        """
        keys = self._read(domain)
        if not isinstance(keys, TokenKeys) or keys.ring is None:
            return None
        due = sealing.due_for(keys.view, keys.kek, self._keys.current, domain.meta)
        if due is None:
            return None
        view = keys.view
        content = SecretContent(view.type, view.data, ownership.records_of(view))
        try:
            content = await self._keys.apply(due, domain, view, content)
        except PortError as error:
            raise SealingFailedError(str(error)) from None
        await self._store(domain, content)
        return f"{due.value} the keys in Secret {view.name}"

    def stored(self, domain: TrustDomain) -> dict[str, str | None]:
        """Return the name of the Secret, and of the key that its keys are encrypted with."""
        keys = self._read(domain)
        return {keys.view.name: keys.kek} if isinstance(keys, TokenKeys) else {}

    async def _keep(self, domain: TrustDomain, refused: Held | None, now: datetime) -> Held | None:
        try:
            await self._repair(domain)
            while (change := turning.next_change(self.observe(domain, refused=refused is not None), now)) is not None:
                await self._carry_out(domain, change)
        except ForeignSecretError as error:
            return Held(status.CONFLICT, str(error))
        except (RetryableError, ConflictError):
            raise
        except (RejectedError, MissingError) as error:
            return Held(status.REJECTED, f"Secret {authority.secret_name(domain.meta.name)}: {error}")
        except SealingFailedError as error:
            return Held(sealing.KEY_ENCRYPTION_FAILED, str(error))
        return refused if refused is not None and self._issuers.view(domain) is None and self._asked(domain) else None

    async def _carry_out(self, domain: TrustDomain, change: Change) -> None:
        content = await asyncio.to_thread(authority.content_of, change.ring, domain, change.records)
        retry = self._keys.retry(domain.meta.name)
        if retry is not None and self._clock() < retry:
            raise SealingFailedError(self._keys.trouble(domain.meta.name) or "encrypting failed")
        try:
            content = await self._keys.seal_token_keys(domain, content)
        except PortError as error:
            raise SealingFailedError(f"the token keys can't be encrypted: {error}") from None
        await self._store(domain, content)
        logger.info("%s: token keys: %s", domain.key, change.message)
        self._events.emit(domain.key, domain.meta.uid, change.reason, change.message, warning=change.warning)

    async def _repair(self, domain: TrustDomain) -> None:
        """Put back the Secret when it was edited or deleted; the first good look decides what is right."""
        keys = self._read(domain)
        if not isinstance(keys, TokenKeys) or keys.ring is None:
            return
        view = keys.view
        location = (view.namespace, view.name)
        found = self._inventory.secrets.get(location)
        if self._inventory.good(location) is None:
            self._inventory.remember(view)
        content = SecretContent(view.type, view.data, ownership.records_of(view))
        drifted = found is None or found.data != view.data
        if drifted or found is None or not ownership.satisfied(found, _metadata(domain, content)):
            await self._write(domain, content, found)
            reason, message = ("Drifted", "was put back") if drifted else ("MetadataChanged", "is labelled anew")
            self._events.emit(domain.key, domain.meta.uid, reason, f"{view.name} {message}", warning=drifted)

    async def _publish(self, domain: TrustDomain, jwks: bytes, problem: Held | None) -> Held | None:
        try:
            await self._config_map.put(domain.meta.name, jwks)
        except ForeignConfigMapError as error:
            return problem or Held(status.CONFLICT, str(error))
        except RejectedError as error:
            return problem or Held(status.REJECTED, f"ConfigMap {authority.CONFIG_MAP}: {error}")
        return problem

    async def _store(self, domain: TrustDomain, content: SecretContent) -> None:
        location = (self._inventory.authority_namespace, authority.secret_name(domain.meta.name))
        content = ownership.with_content_id(content, secrets.token_hex(8))
        await self._write(domain, content, self._inventory.secrets.get(location))

    async def _write(self, domain: TrustDomain, content: SecretContent, seen: SecretView | None) -> None:
        location = (self._inventory.authority_namespace, authority.secret_name(domain.meta.name))
        metadata = _metadata(domain, content)
        await self._writer.store(Kind.TRUST_DOMAIN, domain.meta, location, content, metadata, seen)

    def _read(self, domain: TrustDomain) -> TokenKeys | Held | None:
        try:
            return self._issuers.keys(domain)
        except MalformedError as error:
            message = (
                f"{error}; put it back as it was, or make new keys with the annotation {turning.REVOKE_ANNOTATION}"
            )
            return Held(UNREADABLE, message)

    def _jwks(self, domain: TrustDomain) -> bytes:
        """Return the JWK Set; while the Secret can't be read, what was published stays.

        While a revocation can't be carried out, because new keys can't be encrypted or stored, the old ones are in it
        no more. What they signed would be refused in the end anyway; until then it is the thief's as well.
        """
        keys, view = self._read(domain), self._issuers.view(domain)
        if view is not None and turning.revocation_is_due(domain.meta, view):
            return rings.jwks(Ring(()))
        return keys.jwks if isinstance(keys, TokenKeys) else (keys and self._issuers.published(domain)) or b""

    def _defect(self, seen: Seen) -> Held | None:
        if isinstance(seen.keys, TokenKeys) and seen.keys.ring is None:
            message = f"the keys in Secret {seen.keys.view.name} can't be decrypted: {seen.keys.locked}"
            return Held(LOCKED, message)
        return seen.keys if isinstance(seen.keys, Held) else None

    def _asked(self, domain: TrustDomain) -> bool:
        return domain.jwt.asked_for or self._somebody_asks(domain)

    def _somebody_asks(self, domain: TrustDomain) -> bool:
        keys = self._inventory.identities_of(domain.meta.name)
        entries = [entry for key in keys if not (entry := self._inventory.identities[key]).meta.deleting]
        policies = self._inventory.policies
        if policies.entries and any(policies.selecting(entry.meta) for entry in entries):
            return True  # they are signed with the same key
        specs = (entry.spec for entry in entries)
        valid = (spec for spec in specs if not isinstance(spec, InvalidSpecError))
        return any(spec.jwt is not None and spec.jwt.tokens and not spec.suspend for spec in valid)

    def _tell(self, domain: TrustDomain, now: datetime) -> None:
        """Wake the identities with tokens when these have to be signed anew, or can be at last."""
        essence = _essence(self._issuers.of(domain.meta.name, now))
        if essence == self._told.get(domain.key):
            return
        self._told[domain.key] = essence
        identities = self._inventory.identities_of(domain.meta.name)
        self._wake(self._inventory.policies.bundles_of(identities))
        for key in identities:
            spec = self._inventory.identities[key].spec
            if not isinstance(spec, InvalidSpecError) and spec.jwt is not None and spec.jwt.tokens:
                self._wake([key])


class SealingFailedError(Exception):
    """The keys can't be encrypted: better none than some that lie open."""


def _essence(issuer: TokenIssuer | Held) -> object:
    """Return what tokens depend on: not a key that is only prepared."""
    if isinstance(issuer, Held):
        return issuer
    prepared = {key.key_id for key in issuer.ring.keys if key.state == "Prepared"}
    return issuer.issuer, issuer.ring.active.key_id, issuer.ring.key_ids - prepared, issuer.longest_lifetime


def _metadata(domain: TrustDomain, content: SecretContent) -> ownership.Metadata:
    labels = {ownership.TRUST_DOMAIN_LABEL: domain.meta.name}
    name = authority.secret_name(domain.meta.name)
    return ownership.metadata_for(Kind.TRUST_DOMAIN, domain.meta, domain.deletion_policy, name, labels, content)
