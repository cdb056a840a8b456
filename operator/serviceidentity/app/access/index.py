"""The AccessPolicies that there are, and the ConfigMaps with the bundles that identities get of them."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from serviceidentity.app.entries import Entry, is_older, read_entry
from serviceidentity.app.jwks import JwksIndex
from serviceidentity.domain import ownership
from serviceidentity.domain.access.delivery import CREDENTIAL
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.access.spec import AccessPolicy
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import Key, Kind, Meta, access_policy_key, policy_bundle_key
from serviceidentity.domain.policy.spec import Compile
from serviceidentity.errors import InvalidSpecError

MetasOf = Callable[[str], Iterable[Meta]]  # the identities of a namespace


class BundleMaps(JwksIndex):
    """The ConfigMaps with bundles, told by their label from those with the public keys of identities."""

    def __init__(self) -> None:
        super().__init__(policy_bundle_key)

    def concerns(self, view: SecretView) -> bool:
        """Say whether a ConfigMap is, or was, one with a bundle."""
        known = (view.namespace, view.name) in self._found
        return known or (view.labels.get(ownership.CREDENTIAL_LABEL) == CREDENTIAL and bool(self._named(view)))

    def owns(self, view: SecretView, kind: Kind, meta: Meta) -> bool:
        """Say whether it is a bundle of the identity: not another ConfigMap of the same one."""
        return view.labels.get(ownership.CREDENTIAL_LABEL) in (CREDENTIAL, None) and super().owns(view, kind, meta)

    def has(self, bundle: Key) -> bool:
        """Say whether there is, or is to be, a ConfigMap with this bundle."""
        return bundle in self._owned

    def owners_in(self, namespace: str) -> set[Key]:
        """Return the keys of the bundles that there are in a namespace."""
        return {key for key in self._owned if key.namespace == namespace}


class PolicyIndex:
    """Part of the inventory. Each `put` and `drop` returns the keys to wake."""

    def __init__(self, compile_access: Compile) -> None:
        self.read = partial(access_policy, compile_rule=compile_access)
        self.entries: dict[Key, Entry[AccessPolicy]] = {}
        self.bundles = BundleMaps()
        self._of_namespace: defaultdict[str, set[Key]] = defaultdict(set)

    def put(self, body: Mapping[str, Any], identities: MetasOf) -> set[Key]:
        """Take in an AccessPolicy as the API has it."""
        meta = body["metadata"]
        key = access_policy_key(meta["namespace"], meta["name"])
        old = self.entries.get(key)
        if is_older(body, old):
            return set()
        new = self.entries[key] = read_entry(body, self.read, old)
        self._of_namespace[key.namespace].add(key)
        if old is not None and new.meta == old.meta:
            return set() if new.status == old.status else {key}
        return {key} | self._touched(key.namespace, identities, old, new)

    def drop(self, namespace: str, name: str, uid: str | None, identities: MetasOf) -> set[Key]:
        """Forget a deleted AccessPolicy; one re-created meanwhile (another uid) stays."""
        key = access_policy_key(namespace, name)
        old = self.entries.get(key)
        if old is None or (uid is not None and old.meta.uid != uid):
            return set()
        del self.entries[key]
        self._of_namespace[namespace].discard(key)
        if not self._of_namespace[namespace]:
            del self._of_namespace[namespace]
        return {key} | self._touched(namespace, identities, old)

    def selecting(self, identity: Meta) -> list[Entry[AccessPolicy]]:
        """Return the valid policies that select an identity, by name."""
        valid = (self.entries[key] for key in sorted(self._of_namespace.get(identity.namespace, ())))
        return [entry for entry in valid if _selects(entry, identity)]

    def invalid(self, namespace: str) -> frozenset[str]:
        """Return the names of the policies of a namespace that can't be understood now."""
        entries = (self.entries[key] for key in self._of_namespace.get(namespace, ()))
        return frozenset(e.meta.name for e in entries if isinstance(e.spec, InvalidSpecError) and not e.meta.deleting)

    def concerned(self, before: Meta | None, identity: Meta) -> set[Key]:
        """Return whom a change of an identity concerns: nobody, where there are no policies."""
        if identity.namespace not in self._of_namespace:
            return set()
        entries = [self.entries[key] for key in self._of_namespace[identity.namespace]]
        metas = [identity] if before is None else [before, identity]
        touched = {access_policy_key(e.meta.namespace, e.meta.name) for e in entries for m in metas if _selects(e, m)}
        key = policy_bundle_key(identity.namespace, identity.name)
        return touched | {key} if touched or self.bundles.has(key) else set()

    def forget_identity(self, identity: Meta) -> set[Key]:
        """Take note that an identity is gone, and its bundle with it."""
        woken = self.concerned(None, identity)
        self.bundles.forget_owner(policy_bundle_key(identity.namespace, identity.name))
        return woken

    def bundles_of(self, identities: Iterable[Key]) -> set[Key]:
        """Return the keys of the bundles that identities may get: none where there are no policies."""
        if not self._of_namespace:
            return set()
        return {policy_bundle_key(key.namespace, key.name) for key in identities if key.namespace in self._of_namespace}

    def _touched(self, namespace: str, identities: MetasOf, *entries: Entry[AccessPolicy] | None) -> set[Key]:
        """Return the bundles in which policies are or were, or are to be."""
        found = [entry for entry in entries if entry is not None]
        selected = (meta for meta in identities(namespace) if any(_selects(entry, meta) for entry in found))
        return {policy_bundle_key(namespace, meta.name) for meta in selected} | self.bundles.owners_in(namespace)


def identity_of(bundle: Key) -> Key:
    """Return the identity that gets a bundle."""
    return Key(Kind.SERVICE_IDENTITY, bundle.namespace, bundle.name)


def keys_of(entries: Collection[Entry[AccessPolicy]]) -> list[Key]:
    """Return the keys of policies."""
    return [access_policy_key(entry.meta.namespace, entry.meta.name) for entry in entries]


def _selects(entry: Entry[AccessPolicy], identity: Meta) -> bool:
    return not entry.meta.deleting and not isinstance(entry.spec, InvalidSpecError) and entry.spec.selects(identity)
