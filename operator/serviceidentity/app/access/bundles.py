"""One pass over the bundle of one service: join the policies that select it, sign, store, and tell the policies."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.access.index import identity_of, keys_of
from serviceidentity.app.entries import Entry
from serviceidentity.app.jwt.issuers import NOT_MADE, TokenIssuers
from serviceidentity.app.ports import Secrets
from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.writer import ForeignSecretError, Writer
from serviceidentity.domain import status
from serviceidentity.domain.access import delivery
from serviceidentity.domain.access.bundle import TooLargeError, bundle_of, part_of
from serviceidentity.domain.access.spec import AccessPolicy
from serviceidentity.domain.credentials.base import Reason
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.material import Held, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Key, Kind, Meta, trust_domain_key
from serviceidentity.errors import InvalidSpecError, MissingError, RejectedError

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(seconds=30)  # at what is somebody else's: no watch tells of it
UNVERIFIABLE: Final = "LastBundleUnverifiable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a service's bundle: `held` None says that it has the policies in `versions`, as they are there."""

    held: Held | None
    versions: Mapping[str, tuple[str, int]]  # uid and generation of each policy, by its name


class BundleReconciler(Reconciler):
    """Keeps the ConfigMap with each service's bundle. What became of each is kept for the policies' status."""

    def __init__(
        self, *parts: Any, config_maps: Secrets, issuers: TokenIssuers, wake_later: Callable[[Key], None]
    ) -> None:
        super().__init__(*parts)
        self._issuers = issuers
        self._wake_later = wake_later
        self._maps = Writer(config_maps, self._inventory.policies.bundles, self._wake)
        self._outcomes: dict[Key, Outcome] = {}
        self._good: dict[Key, Mapping[str, Any]] = {}  # the bundles that were written or verified last

    def outcome(self, bundle: Key, policy: Meta) -> Outcome | None:
        """Return what became of a bundle; None while it was not looked at since the policy became what it is now."""
        found = self._outcomes.get(bundle)
        return found if found is not None and found.versions.get(policy.name) == _version(policy) else None

    async def reconcile(self, key: Key) -> datetime | None:
        """Do what is due; return when to look again. Raises RetryableError and ConflictError."""
        entry = self._inventory.identities.get(identity_of(key))
        if entry is None or entry.meta.deleting:
            self._outcomes.pop(key, None)
            self._good.pop(key, None)
            return None
        policies = self._inventory.policies.selecting(entry.meta)
        try:
            held = await self._deliver_to(key, entry.spec, policies)
        except MissingError:
            return None  # the namespace is on its way out, and the identity with it
        if not policies:
            self._outcomes.pop(key, None)
            return held.retry if held is not None else None
        self._note(key, Outcome(held, {one.meta.name: _version(one.meta) for one in policies}))
        for policy in keys_of(policies):
            self._wake_later(policy)
        return held.retry if held is not None else None

    def _note(self, key: Key, found: Outcome) -> None:
        before, held = self._outcomes.get(key), found.held
        told = (before.held.reason, before.held.message) if before and before.held else None
        if held is not None and told != (held.reason, held.message):
            level = logging.INFO if held == NOT_MADE else logging.WARNING  # that is over in a moment
            logger.log(level, "%s: %s: %s", key, held.reason, held.message)
        self._outcomes[key] = found

    async def _deliver_to(
        self, key: Key, identity: Identity | InvalidSpecError, entries: list[Entry[AccessPolicy]]
    ) -> Held | None:
        if isinstance(identity, InvalidSpecError):
            return Held(Reason.INVALID_SPEC, "its own spec can't be understood")
        if identity.suspend:
            return Held("Suspended", "it is suspended")
        specs = [entry.spec for entry in entries if not isinstance(entry.spec, InvalidSpecError)]
        try:
            return await self._deliver(key, identity, specs)
        except ForeignSecretError as error:
            return Held(status.CONFLICT, str(error), self._clock() + LOOK_EVERY)
        except RejectedError as error:
            return Held(status.REJECTED, str(error), self._clock() + LOOK_EVERY)

    async def _deliver(self, key: Key, identity: Identity, policies: list[AccessPolicy]) -> Held | None:
        maps, meta = self._inventory.policies.bundles, identity.meta
        name = delivery.config_map_name(meta.name)
        found, good = maps.of(key, meta).get(name), self._good.get(key)
        invalid = self._inventory.policies.invalid(meta.namespace)
        if not policies and (not invalid or (found is None and good is None)):
            await self._remove(key, found)
            return None
        issuer = self._issuers.of(identity.trust_domain, self._clock())
        if not isinstance(issuer, TokenIssuer):
            if issuer == NOT_MADE:
                self._wake_later(trust_domain_key(identity.trust_domain))
            return issuer
        stored = delivery.read(found, issuer.ring)
        last = stored[0] if stored is not None else good
        if last is None and found is not None and invalid:
            names = ", ".join(sorted(invalid))
            return Held(UNVERIFIABLE, f"the bundle in use can't be verified, and {names} can't be compiled")
        parts = [part_of(policy.rules) for policy in policies] + _carried(last, invalid)
        if not parts:
            await self._remove(key, found)
            return None
        try:
            bundle = bundle_of(identity.key, parts)
        except TooLargeError as error:
            return Held("BundleTooLarge", str(error))
        if found is None or stored != (bundle, issuer.ring.active.key_id) or not delivery.is_labelled(identity, found):
            await self._store(key, identity, delivery.signed(bundle, issuer.ring))
        self._good[key] = bundle
        return None

    async def _store(self, key: Key, identity: Identity, content: SecretContent) -> None:
        location = (identity.meta.namespace, delivery.config_map_name(identity.meta.name))
        metadata, seen = delivery.metadata_of(identity, content), self._inventory.policies.bundles.at(location)
        await self._maps.store(Kind.SERVICE_IDENTITY, identity.meta, location, content, metadata, seen)
        logger.info("%s: wrote ConfigMap %s", key, location[1])

    async def _remove(self, key: Key, found: SecretView | None) -> None:
        self._good.pop(key, None)
        if found is not None:
            await self._maps.remove(found)
            logger.info("%s: no policy selects it any more: removed ConfigMap %s", key, found.name)


def _carried(last: Mapping[str, Any] | None, invalid: frozenset[str]) -> list[Mapping[str, Any]]:
    """Return what stays of policies that can't be compiled now: as they were when they could be."""
    return [part for part in last["policies"] if part["name"] in invalid] if last is not None else []


def _version(policy: Meta) -> tuple[str, int]:
    return policy.uid, policy.generation
