"""The ConfigMaps that identities own, as the watches have seen them: the public halves of their signing keys."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from serviceidentity.domain import ownership
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import Key, Kind, Meta, identity_key

Location = tuple[str, str]


class JwksIndex:
    """Part of the inventory. Each `put` and `drop` returns the keys to wake."""

    what = "ConfigMap"

    def __init__(self, owner_key: Callable[[str, str], Key] = identity_key) -> None:
        """`owner_key` makes the key to wake out of the namespace and name of an owner."""
        self._owner_key = owner_key
        self.writing: dict[Location, Mapping[str, str]] = {}
        self._found: dict[Location, SecretView] = {}
        self._owned: defaultdict[Key, set[Location]] = defaultdict(set)
        self._remembered: dict[Location, SecretView] = {}

    def concerns(self, view: SecretView) -> bool:
        """Say whether a ConfigMap is, or was, an identity's."""
        return (view.namespace, view.name) in self._found or bool(self._named(view))

    def put(self, view: SecretView) -> set[Key]:
        """Take in a ConfigMap; nobody is woken by an old version, or by what is being written just now."""
        location = (view.namespace, view.name)
        old = self._found.get(location)
        if old is not None and view.resource_version <= old.resource_version:
            return set()
        woken = self._owners_of(location) | self._named(view)
        self._found[location] = view
        for key in woken:
            self._owned[key].add(location)
        return set() if view.data == self.writing.get(location) else woken

    def drop(self, location: Location, uid: str | None = None) -> set[Key]:
        """Forget a ConfigMap that is gone, or lost our label; one that was made anew meanwhile (another uid) stays."""
        old = self._found.get(location)
        if old is None or (uid is not None and old.uid != uid):
            return set()
        owners = self._owners_of(location)
        del self._found[location]
        if location not in self._remembered:
            self._disown(owners, location)
        return owners

    def at(self, location: Location) -> SecretView | None:
        """Return what is there."""
        return self._found.get(location)

    def of(self, key: Key, meta: Meta) -> dict[str, SecretView]:
        """Return the ConfigMaps of an identity by their names."""
        found = (self._found[location] for location in self._owned.get(key, ()) if location in self._found)
        return {view.name: view for view in found if self.owns(view, Kind.SERVICE_IDENTITY, meta)}

    def owns(self, view: SecretView, kind: Kind, meta: Meta) -> bool:
        """Say whether a ConfigMap is the object's: by what it says of itself, or as the very one that was written here.

        Labels and references that somebody took off are drift, and are put back.
        """
        remembered = self._remembered.get((view.namespace, view.name))
        ours = remembered is not None and remembered.uid == view.uid and ownership.is_owned(remembered, kind, meta)
        return ours or ownership.is_owned(view, kind, meta)

    def remember(self, view: SecretView) -> None:
        """Take note that this ConfigMap was written here."""
        location = (view.namespace, view.name)
        self._remembered[location] = view
        for key in self._named(view):
            self._owned[key].add(location)

    def forget(self, location: Location) -> None:
        """A ConfigMap of ours was removed on purpose."""
        owners = self._owners_of(location)
        self._found.pop(location, None)
        self._remembered.pop(location, None)
        self._disown(owners, location)

    def forget_owner(self, key: Key) -> None:
        """The identity is gone: what was written for it is nobody's business any more."""
        for location in list(self._owned.get(key, ())):
            self._remembered.pop(location, None)
            if location not in self._found:
                self._disown({key}, location)

    def concerned(self, view: SecretView) -> set[Key]:
        """Return the owners."""
        return self._named(view)

    def sharing(self, view: SecretView) -> set[Key]:
        """Nobody but its owner waits for what is published."""
        return set()

    def missing_from(self, listed: Collection[Location], as_of: int) -> list[Location]:
        """Return what a complete list, read at version `as_of`, does not have."""
        return [at for at, view in self._found.items() if at not in listed and view.resource_version <= as_of]

    def _owners_of(self, location: Location) -> set[Key]:
        """Return whose the ConfigMap is, or was before somebody took its labels off."""
        views = (self._found.get(location), self._remembered.get(location))
        return {key for view in views if view is not None for key in self._named(view)}

    def _disown(self, keys: Collection[Key], location: Location) -> None:
        for key in keys:
            self._owned[key].discard(location)
            if not self._owned[key]:
                del self._owned[key]

    def _named(self, view: SecretView) -> set[Key]:
        """Return whose a ConfigMap says it is."""
        names = {view.labels.get(ownership.IDENTITY_LABEL), view.annotations.get(ownership.ADOPT_ANNOTATION)}
        names |= {str(owner.get("name")) for owner in view.owners if owner.get("kind") == Kind.SERVICE_IDENTITY}
        return {self._owner_key(view.namespace, name) for name in names if name}
