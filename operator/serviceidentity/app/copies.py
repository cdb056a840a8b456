"""The published copies of trust bundles, as the watches have seen them, by trust domain.

A thousand namespaces hold the same text, so it is kept once.
"""

import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from serviceidentity.domain import ownership
from serviceidentity.domain.authority import ROLE_LABEL
from serviceidentity.domain.bundle import BUNDLE_LABEL, Place
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import Key, StoreKind, trust_domain_key


class Copies:
    """Copies by where they are. Used from one event loop."""

    def __init__(self) -> None:
        self.writing: dict[Place, Mapping[str, str]] = {}
        self._found: dict[Place, SecretView] = {}
        self._owners: dict[Place, str] = {}
        self._of_domain: defaultdict[str, set[Place]] = defaultdict(set)

    def concerns(self, kind: StoreKind, view: SecretView) -> bool:
        """Say whether an object is, or was, a copy. Authorities and what identities own never are."""
        if Place(kind, view.namespace, view.name) in self._found:
            return True
        return BUNDLE_LABEL in view.labels and not {ROLE_LABEL, ownership.IDENTITY_LABEL} & view.labels.keys()

    def put(self, kind: StoreKind, view: SecretView) -> set[Key]:
        """Take in a copy and return the trust domains to wake: none when it is what is being written just now."""
        target = Place(kind, view.namespace, view.name)
        old = self._found.get(target)
        if not self.concerns(kind, view) or (old is not None and view.resource_version <= old.resource_version):
            return set()
        self._found[target] = replace(view, data={key: sys.intern(value) for key, value in view.data.items()})
        owners = {self._owners.get(target), view.labels.get(BUNDLE_LABEL)} - {None}
        if owner := view.labels.get(BUNDLE_LABEL, self._owners.get(target)):
            self._of_domain[self._owners.get(target, owner)].discard(target)
            self._owners[target] = owner
            self._of_domain[owner].add(target)
        if self.writing.get(target) == view.data:
            return set()
        return {trust_domain_key(name) for name in owners if name}

    def drop(self, kind: StoreKind, namespace: str, name: str, uid: str | None = None) -> set[Key]:
        """Forget a copy that is gone or lost our label; one that was made anew meanwhile (another uid) stays."""
        target = Place(kind, namespace, name)
        old = self._found.get(target)
        if old is None or (uid is not None and old.uid != uid):
            return set()
        del self._found[target]
        owner = self._owners.pop(target)
        self._of_domain[owner].discard(target)
        return {trust_domain_key(owner)}

    def at(self, target: Place) -> SecretView | None:
        """Return what is there."""
        return self._found.get(target)

    def of(self, domain: str) -> dict[Place, SecretView]:
        """Return the copies that carry the trust domain's label."""
        return {target: self._found[target] for target in self._of_domain.get(domain, ())}

    def missing_from(self, kind: StoreKind, listed: Collection[tuple[str, str]], as_of: int) -> list[Place]:
        """Return the copies that a complete list, read at version `as_of`, does not have."""
        return [
            target
            for target, view in self._found.items()
            if target.kind is kind and (target.namespace, target.name) not in listed and view.resource_version <= as_of
        ]
