"""The records of leases, as the watches have seen them, by name and by the identity they were made for."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable

from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.model import Key, vault_lease_key
from serviceidentity.domain.ownership import VAULT_LEASE_LABEL
from serviceidentity.domain.vault.records import LeaseRecord, read_record

logger = logging.getLogger(__name__)


class LeaseRecords:
    """Records by name: Secrets with our label, in the operator's own namespace and nowhere else."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._views: dict[str, SecretView] = {}
        self._records: dict[str, LeaseRecord] = {}
        self._of_owner: defaultdict[Key, set[str]] = defaultdict(set)

    def concerns(self, view: SecretView) -> bool:
        """Say whether a Secret is the record of a lease. A label elsewhere is anybody's to set."""
        return view.namespace == self.namespace and VAULT_LEASE_LABEL in view.labels

    def has(self, namespace: str, name: str) -> bool:
        """Say whether there is a record at that place."""
        return namespace == self.namespace and name in self._views

    def put(self, view: SecretView) -> set[Key]:
        """Take in a record and return its key, unless it is as it was known before."""
        old = self._views.get(view.name)
        if old is not None and view.resource_version <= old.resource_version:
            return set()
        try:
            record = read_record(view)
        except MalformedError as error:
            logger.warning("Secret %s/%s: %s; it is left alone", view.namespace, view.name, error)
            return set()
        self._forget(view.name)
        self._views[view.name], self._records[view.name] = view, record
        self._of_owner[record.owner].add(view.name)
        return {vault_lease_key(view.name)}

    def drop(self, name: str, uid: str | None = None) -> set[Key]:
        """Forget a record that is gone; one that was made anew meanwhile (another uid) stays."""
        old = self._views.get(name)
        if old is None or (uid is not None and old.uid != uid):
            return set()
        self._forget(name)
        return {vault_lease_key(name)}

    def get(self, name: str) -> LeaseRecord | None:
        """Return a record by its name."""
        return self._records.get(name)

    def view(self, name: str) -> SecretView | None:
        """Return the Secret of a record."""
        return self._views.get(name)

    def keys_of(self, owners: Iterable[Key]) -> set[Key]:
        """Return the keys of the records that were made for these identities."""
        return {vault_lease_key(name) for owner in owners for name in self._of_owner.get(owner, ())}

    def missing_from(self, listed: Collection[tuple[str, str]], as_of: int) -> list[str]:
        """Return the records that a complete list, read at version `as_of`, does not have."""
        return [
            name
            for name, view in self._views.items()
            if (self.namespace, name) not in listed and view.resource_version <= as_of
        ]

    def __len__(self) -> int:
        return len(self._records)

    def _forget(self, name: str) -> None:
        self._views.pop(name, None)
        record = self._records.pop(name, None)
        if record is not None:
            self._of_owner[record.owner].discard(name)
            if not self._of_owner[record.owner]:
                del self._of_owner[record.owner]
