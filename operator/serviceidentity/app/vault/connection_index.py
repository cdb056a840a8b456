"""The VaultConnections that there are, and which identities use which."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from serviceidentity.app.entries import Entry, is_older, read_entry
from serviceidentity.domain.model import Identity, Key, vault_connection_key
from serviceidentity.domain.vault.connection_parse import vault_connection
from serviceidentity.domain.vault.spec import VaultConnection
from serviceidentity.errors import InvalidSpecError


class ConnectionIndex:
    """Part of the inventory. Each `put` and `drop` returns the keys to wake."""

    def __init__(self) -> None:
        self.read = vault_connection
        self.entries: dict[str, Entry[VaultConnection]] = {}
        self._users: defaultdict[str, set[Key]] = defaultdict(set)

    def put(self, body: Mapping[str, Any]) -> set[Key]:
        """Take in a VaultConnection as the API has it; its users are woken when it says something else than before."""
        name = body["metadata"]["name"]
        old = self.entries.get(name)
        if is_older(body, old):
            return set()
        new = self.entries[name] = read_entry(body, self.read, old)
        if old is not None and new.meta == old.meta:
            return set() if new.status == old.status else {vault_connection_key(name)}
        same = old is not None and old.meta.deleting == new.meta.deleting and _spec(old) == _spec(new)
        return {vault_connection_key(name)} | (set() if same else self.users(name))

    def drop(self, name: str, uid: str | None = None) -> set[Key]:
        """Forget a deleted VaultConnection; one re-created meanwhile (another uid) stays."""
        old = self.entries.get(name)
        if old is None or (uid is not None and old.meta.uid != uid):
            return set()
        del self.entries[name]
        return {vault_connection_key(name)} | self.users(name)

    def users(self, name: str) -> set[Key]:
        """Return the identities that use a connection, whether or not it exists."""
        return set(self._users.get(name, ()))

    def add_user(self, key: Key, identity: Identity) -> None:
        """Take note of which connection an identity uses."""
        if identity.vault is not None:
            self._users[identity.vault.connection].add(key)

    def remove_user(self, key: Key, identity: Identity) -> None:
        """Take note that an identity is gone, or says something else now."""
        if identity.vault is None:
            return
        users = self._users[identity.vault.connection]
        users.discard(key)
        if not users:
            del self._users[identity.vault.connection]


def _spec(entry: Entry[VaultConnection]) -> object:
    return str(entry.spec) if isinstance(entry.spec, InvalidSpecError) else entry.spec.spec
