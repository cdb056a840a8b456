"""What trust domains publish in the operator's own namespace, as the watches have seen it: served by a standby too."""

from collections.abc import Collection

from serviceidentity.domain import ownership
from serviceidentity.domain.bundle import BUNDLE_LABEL
from serviceidentity.domain.material import SecretView
from serviceidentity.domain.model import Key, trust_domain_key


class Published:
    """ConfigMaps of the operator's own namespace that are a TrustDomain's. Used from one event loop."""

    def __init__(self, authority_namespace: str) -> None:
        self._authority_namespace = authority_namespace
        self._found: dict[tuple[str, str], SecretView] = {}

    def put(self, view: SecretView) -> set[Key]:
        """Take in a ConfigMap that carries our label, if it is one that is served; return whom it concerns.

        What the operator writes it puts here itself, so the echo is no news.
        """
        location = (view.namespace, view.name)
        old = self._found.get(location)
        if old is not None and view.resource_version <= old.resource_version:
            return set()
        if self._concerns(view):
            self._found[location] = view
        else:
            self._found.pop(location, None)
        return self._owners(view) | (self._owners(old) if old is not None else set())

    def drop(self, namespace: str, name: str, uid: str) -> set[Key]:
        """Forget a ConfigMap that is gone, or that lost our label; one that was made anew meanwhile stays."""
        found = self._found.get((namespace, name))
        if found is None or found.uid != uid:
            return set()
        del self._found[namespace, name]
        return self._owners(found)

    def at(self, namespace: str, name: str) -> SecretView | None:
        """Return what is there."""
        return self._found.get((namespace, name))

    def in_ours(self, name: str) -> SecretView | None:
        """Return the ConfigMap of the operator's own namespace with that name: nobody else writes there."""
        return self.at(self._authority_namespace, name)

    def keep(self, listed: Collection[tuple[str, str]], as_of: int) -> set[Key]:
        """Forget what a complete list, read at version `as_of`, does not have."""
        gone = [v for at, v in self._found.items() if at not in listed and v.resource_version <= as_of]
        return {key for view in gone for key in self.drop(view.namespace, view.name, view.uid)}

    def _owners(self, view: SecretView) -> set[Key]:
        domain = view.labels.get(ownership.TRUST_DOMAIN_LABEL)
        return {trust_domain_key(domain)} if domain and view.namespace == self._authority_namespace else set()

    def _concerns(self, view: SecretView) -> bool:
        if BUNDLE_LABEL in view.labels:
            return False
        return view.namespace == self._authority_namespace and ownership.TRUST_DOMAIN_LABEL in view.labels
