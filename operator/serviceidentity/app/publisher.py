"""Publishing a trust domain's bundle: the roots are gathered, assembled once, and kept in every selected namespace."""

import asyncio
import base64
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Secrets
from serviceidentity.domain import bundle as bundles
from serviceidentity.domain.authority import Trust
from serviceidentity.domain.bundle import Bundle, Foreign, Place, Publication, Remove, Root, Roots, Store, Trouble
from serviceidentity.domain.material import Held, MalformedError, SecretView
from serviceidentity.domain.model import BundleSpec, Key, RootSource, StoreKind, TrustDomain
from serviceidentity.domain.schedule import earliest
from serviceidentity.errors import AlreadyExistsError, ConflictError, MissingError, PortError, RejectedError

logger = logging.getLogger(__name__)

AT_ONCE: Final = 16  # writes at a time, so that a thousand namespaces leave connections for certificates
REMOVE_AGAIN_AFTER: Final = timedelta(seconds=10)
NOT_ASSEMBLED: Final = "the trust bundle"  # waited for, as it is not known yet what copies are to have
LOOK_AT_SOURCES_EVERY: Final = timedelta(seconds=15)  # they do not carry our label, so no watch tells of them


@dataclass(frozen=True, slots=True)
class More:
    """What is published beside the roots: the revocation lists in PEM, and the JWK Set that verifies tokens."""

    crl: bytes = b""
    jwks: bytes = b""


NOTHING_MORE: Final = More()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did: the report, if a bundle is asked for, and when to look again."""

    publication: Publication | None
    next_look: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Text:
    """What was read from a source: its PEM, or what is wrong with it."""

    at: datetime
    pem: bytes | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Assembled:
    """The last good bundle, and what it was made from."""

    inputs: tuple[object, ...]
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class _Right:
    """A copy as it was when it was found to be right, or was written; and what for."""

    view: SecretView
    data: Mapping[str, str]
    generation: int


class Publisher:
    """Keeps the copies of trust bundles as they should be. `served` names the namespaces of a namespaced operator."""

    def __init__(
        self, inventory: Inventory, stores: Mapping[StoreKind, Secrets], served: Collection[str] | None = None
    ) -> None:
        self._inventory = inventory
        self._stores = stores
        self._served = served
        self._assembled: dict[Key, _Assembled] = {}
        self._texts: dict[tuple[Key, int, str], _Text] = {}
        self._troubles: dict[Key, dict[Place, Trouble]] = {}
        self._right: dict[Key, dict[Place, _Right]] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def publish(
        self,
        domain: TrustDomain,
        trust: Trust | Held,
        recorded: Mapping[str, Any],
        now: datetime,
        more: More = NOTHING_MORE,
    ) -> Outcome:
        """Bring every copy to what it should be. `recorded` is the status' bundle, `more` goes out with the roots.

        What can't be written is in the outcome and does not raise: it holds up neither the other namespaces nor the
        life of authorities.
        """
        spec = domain.bundle
        if spec is None:
            self.forget(domain.key)
            return Outcome(None, await self._remove_leftovers(domain, None, now))
        bundle, problem = await self._bundle(domain, spec, trust, recorded, now, more)
        wanted = {Place(spec.kind, name, spec.name): name for name in self._selected(domain)}
        troubles = self._troubles.setdefault(domain.key, {})
        for known in (troubles, self._right.setdefault(domain.key, {})):
            for target in known.keys() - wanted.keys():
                del known[target]
        if bundle is not None:
            suspects = set(recorded.get("conflicts") or ())
            written = await asyncio.gather(*(self._keep(domain, bundle, one, suspects, now) for one in wanted))
            if any(written):
                logger.info("%s: wrote %d copies of trust bundle %d", domain.key, sum(written), bundle.sequence)
        retry = await self._remove_leftovers(domain, bundle, now)
        gone = {target for target, trouble in troubles.items() if trouble.reason == bundles.GONE}
        publication = Publication(
            spec,
            bundle,
            len(wanted) - len(gone),
            {wanted[target]: trouble for target, trouble in troubles.items() if target not in gone},
            problem,
        )
        look = LOOK_AT_SOURCES_EVERY if any(source.pem is None for source in spec.extra_roots) else None
        next_look = earliest(
            retry,
            now + look if look else None,
            bundle.roots.until if bundle and bundle.roots.until and bundle.roots.until > now else None,
            *(trouble.until for trouble in troubles.values()),
        )
        return Outcome(publication, next_look)

    def waiting_for(self, domain: TrustDomain, trust: Trust | Held) -> list[str]:
        """Name the namespaces whose copy does not have the trust domain's roots yet.

        One where somebody else's object has the name is not waited for: nobody there reads our bundle. The condition
        names it.
        """
        spec = domain.bundle
        if spec is None or spec.selector is None or isinstance(trust, Held):
            return []
        assembled = self._assembled.get(domain.key)
        published = {root.certificate for root in assembled.bundle.roots.own} if assembled else set()
        if assembled is None or published != set(trust.roots):
            return [NOT_ASSEMBLED]
        return self._without(domain, spec, lambda view: bundles.holds_roots(view, assembled.bundle))

    def waiting_for_keys(self, domain: TrustDomain, jwks: bytes) -> list[str]:
        """Name the namespaces whose copy does not have this JWK Set yet, as `waiting_for` does for the roots."""
        spec = domain.bundle
        if spec is None or spec.selector is None:
            return []
        assembled = self._assembled.get(domain.key)
        if assembled is None or assembled.bundle.jwks != jwks:
            return [NOT_ASSEMBLED]
        return self._without(domain, spec, lambda view: bundles.holds_jwks(view, assembled.bundle))

    def _without(self, domain: TrustDomain, spec: BundleSpec, holds: Callable[[SecretView | None], bool]) -> list[str]:
        troubles = self._troubles.get(domain.key, {})
        waiting = []
        for name in self._selected(domain):
            target = Place(spec.kind, name, spec.name)
            trouble = troubles.get(target)
            if trouble is not None and trouble.reason in (bundles.CONFLICT, bundles.GONE):
                continue
            if not holds(self._inventory.copies.at(target)):
                waiting.append(f"namespace {name}")
        return waiting

    def forget(self, key: Key) -> None:
        """Forget a trust domain that is gone, or that publishes nothing any more."""
        self._assembled.pop(key, None)
        self._troubles.pop(key, None)
        self._right.pop(key, None)
        self._texts = {known: text for known, text in self._texts.items() if known[0] != key}

    def _selected(self, domain: TrustDomain) -> list[str]:
        """Return the names of the namespaces that get the bundle. One that is being deleted takes nothing new."""
        selector = domain.bundle.selector if domain.bundle else None
        if selector is None:
            return []
        found = self._inventory.namespaces.items()
        return sorted(n for n, one in found if self._serves(n) and not one.terminating and selector.admits(one.labels))

    def _serves(self, namespace: str) -> bool:
        return self._served is None or namespace in self._served

    async def _bundle(
        self,
        domain: TrustDomain,
        spec: BundleSpec,
        trust: Trust | Held,
        recorded: Mapping[str, Any],
        now: datetime,
        more: More,
    ) -> tuple[Bundle | None, tuple[str, str] | None]:
        """Return what to publish, and what is wrong with it. Without a new one the last good one stays."""
        last = self._assembled.get(domain.key)
        if isinstance(trust, Held):
            return (last.bundle if last else None), (trust.reason, trust.message)
        extra, messages = await self._extra_roots(domain, spec, recorded, now)
        refused = [name for name, at_once in domain.tainted.items() if at_once]
        roots = bundles.merge(trust.roots, extra, now, refused)
        inputs = (domain.meta.uid, domain.meta.generation, roots.digest, more)
        if last is not None and last.inputs == inputs:
            bundle = replace(last.bundle, roots=roots)
        else:
            try:
                bundle = self._assemble(domain, spec, roots, recorded, more)
            except bundles.TooLargeError as error:
                return (last.bundle if last else None), (bundles.TOO_LARGE, str(error))
        self._assembled[domain.key] = _Assembled(inputs, bundle)
        return bundle, bundles.source_problem(messages)

    def _assemble(
        self, domain: TrustDomain, spec: BundleSpec, roots: Roots, recorded: Mapping[str, Any], more: More
    ) -> Bundle:
        known = [bundles.recorded_sequence(view.annotations) for view in self._copies(domain)]
        if (last := self._assembled.get(domain.key)) is not None:
            known.append((last.bundle.sequence, last.bundle.digest))
        digest = bundles.digest_of(roots, more.jwks)
        sequence = bundles.next_sequence(digest, recorded, [one for one in known if one is not None])
        return bundles.assemble(roots, spec, sequence, bundles.refresh_hint(domain.propagation), more.crl, more.jwks)

    def _copies(self, domain: TrustDomain) -> list[SecretView]:
        found = self._inventory.copies.of(domain.meta.name).values()
        return [view for view in found if bundles.is_ours(view, domain.meta)]

    async def _extra_roots(
        self, domain: TrustDomain, spec: BundleSpec, recorded: Mapping[str, Any], now: datetime
    ) -> tuple[list[Root], list[str]]:
        """Read the sources. From one that can't be read, what was last published stays."""
        roots: list[Root] = []
        broken: list[str] = []
        messages: list[str] = []
        for source in spec.extra_roots:
            text = await self._text(domain, source, now)
            try:
                if text.pem is None:
                    raise bundles.SourceError(text.message)  # noqa: TRY301  # one way to deal with it
                roots += bundles.read_roots(text.pem, str(source))
            except bundles.SourceError as error:
                broken.append(str(source))
                messages.append(str(error))
        if broken:
            last = self._assembled.get(domain.key)
            known = last.bundle.roots.extra if last else ()
            copies = {view.data.get(bundles.PEM_KEY) for view in self._copies(domain)}
            roots += bundles.recover(recorded, broken, known, _decoded(copies))
        return roots, messages

    async def _text(self, domain: TrustDomain, source: RootSource, now: datetime) -> _Text:
        if source.pem is not None:
            return _Text(now, source.pem.encode())
        known_as = (domain.key, domain.meta.generation, str(source))
        known = self._texts.get(known_as)
        if known is not None and now < known.at + LOOK_AT_SOURCES_EVERY:
            return known
        try:
            view = await self._stores[source.kind].read(self._inventory.authority_namespace, source.name)
            text = _Text(now, None, f"{source.kind} {source.name} does not exist")
            if view is not None:
                text = _Text(now, view.value(source.key))
        except MalformedError:
            text = _Text(now, None, f"{source}: there is no such key, or it can't be read")
        except PortError as error:
            text = known if known and known.pem is not None else _Text(now, None, f"{source} can't be read: {error}")
        self._texts = {one: text for one, text in self._texts.items() if one[0] != domain.key or one[1] == known_as[1]}
        self._texts[known_as] = text
        return text

    async def _keep(
        self, domain: TrustDomain, bundle: Bundle, target: Place, suspects: Collection[str], now: datetime
    ) -> bool:
        """Make one copy right, if it is not and it is time; say whether it was written."""
        troubles, generation = self._troubles[domain.key], domain.meta.generation
        seen, right = self._inventory.copies.at(target), self._right[domain.key].get(target)
        if right is not None and right.view is seen and right.data is bundle.data and right.generation == generation:
            return False  # nobody touched it since the last look: what most passes find in most namespaces
        before = troubles.get(target)
        verdict = self._decide(domain, bundle, target, seen)
        if verdict is None:
            self._found_right(domain, bundle, target)
            return False
        if before is not None and before.holds(generation, now):
            return False
        reason = bundles.CONFLICT
        if isinstance(verdict, Store):
            async with self._at_once:
                look = target.namespace in suspects or (before is not None and before.reason == bundles.CONFLICT)
                reason = await self._store(domain, bundle, verdict, look_first=look)
        if reason:
            troubles[target] = bundles.next_attempt(before, reason, now, generation)
        else:
            self._found_right(domain, bundle, target)
        return not reason

    def _found_right(self, domain: TrustDomain, bundle: Bundle, target: Place) -> None:
        self._troubles[domain.key].pop(target, None)
        if (view := self._inventory.copies.at(target)) is not None:
            self._right[domain.key][target] = _Right(view, bundle.data, domain.meta.generation)

    def _decide(
        self, domain: TrustDomain, bundle: Bundle, target: Place, seen: SecretView | None
    ) -> Store | Foreign | None:
        right = self._right[domain.key].get(target)
        return bundles.decide(domain, bundle, target, seen, right.view if right else None)

    async def _store(self, domain: TrustDomain, bundle: Bundle, verdict: Store, *, look_first: bool) -> str:
        """Write one copy; return the reason why not, or nothing."""
        target, seen = verdict.target, verdict.seen
        store, copies = self._stores[target.kind], self._inventory.copies
        copies.writing[target] = bundle.data
        try:
            if seen is None and look_first:
                seen = await store.read(target.namespace, target.name)
                if isinstance(self._decide(domain, bundle, target, seen), Foreign):
                    return bundles.CONFLICT
            view = await self._write(domain, bundle, target, seen)
        except AlreadyExistsError:
            # Something is there that no watch told of: without our label, or newer than the watch.
            return bundles.UNREACHABLE if look_first else await self._store(domain, bundle, verdict, look_first=True)
        except PortError as error:
            return await self._failed(target, seen, error)
        finally:
            copies.writing.pop(target, None)
        copies.put(target.kind, view)
        return ""

    async def _failed(self, target: Place, seen: SecretView | None, error: PortError) -> str:
        match error:
            case ConflictError():
                await self._refresh(target)
            case MissingError():
                self._inventory.copies.drop(target.kind, target.namespace, target.name)
                return bundles.GONE if seen is None else bundles.UNREACHABLE
            case RejectedError():
                return bundles.REJECTED
        return bundles.UNREACHABLE

    async def _refresh(self, target: Place) -> None:
        try:
            view = await self._stores[target.kind].read(target.namespace, target.name)
        except PortError:
            return
        if view is None:
            self._inventory.copies.drop(target.kind, target.namespace, target.name)
        else:
            self._inventory.copies.put(target.kind, view)

    async def _write(self, domain: TrustDomain, bundle: Bundle, target: Place, seen: SecretView | None) -> SecretView:
        assert domain.bundle is not None  # noqa: S101  # nothing is published without
        store, content = self._stores[target.kind], bundles.content_for(bundle, domain.bundle)
        metadata = bundles.metadata_for(domain, target, bundle)
        if seen is not None and not seen.immutable and seen.type == content.type:
            return await store.replace(seen, content, metadata)
        if seen is not None:
            await store.delete(seen)  # neither can be changed in place
        return await store.create(target.namespace, target.name, content, metadata)

    async def _remove_leftovers(self, domain: TrustDomain, bundle: Bundle | None, now: datetime) -> datetime | None:
        """Delete copies that nobody is to have any more; return when to try again."""
        spec, copies = domain.bundle, self._inventory.copies
        selected = set(self._selected(domain))
        due: list[Remove] = []
        for target, view in copies.of(domain.meta.name).items():
            namespace = self._inventory.namespaces.get(target.namespace)
            if namespace is None or namespace.terminating or not self._serves(target.namespace):
                continue
            successor = copies.at(Place(spec.kind, target.namespace, spec.name)) if spec else None
            there = bundle is not None and successor is not None and bundle.is_held_by(successor.data)
            removal = bundles.leftover(domain, target, view, served=there, selected=target.namespace in selected)
            due += [removal] if removal else []
        done = await asyncio.gather(*(self._remove(removal) for removal in due))
        return None if all(done) else now + REMOVE_AGAIN_AFTER

    async def _remove(self, removal: Remove) -> bool:
        target = removal.target
        try:
            async with self._at_once:
                await self._stores[target.kind].delete(removal.seen)
        except PortError as error:
            logger.warning("%s %s/%s is not removed yet: %s", target.kind, target.namespace, target.name, error)
            return False
        self._inventory.copies.drop(target.kind, target.namespace, target.name)
        return True


def _decoded(encoded: Iterable[str | None]) -> list[bytes]:
    """Return the texts that can be decoded."""
    texts = []
    for value in encoded:
        try:
            texts.append(base64.b64decode(value or "", validate=True))
        except ValueError:
            continue
    return texts
