"""What the reconcilers share: their ports, and writing a status when it differs."""

from collections.abc import Mapping
from typing import Any

from serviceidentity.app.entries import Entry
from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Events, Secrets, Statuses, Wake
from serviceidentity.app.trust_registry import TrustRegistry
from serviceidentity.app.writer import SecretWriter
from serviceidentity.domain.model import Key, Kind
from serviceidentity.domain.status import merge_patch
from serviceidentity.errors import MissingError


class Reconciler:
    """Base of the reconcilers."""

    def __init__(
        self,
        inventory: Inventory,
        trust: TrustRegistry,
        secrets: Secrets,
        statuses: Statuses,
        events: Events,
        clock: Clock,
        wake: Wake,
    ) -> None:
        self._inventory = inventory
        self._trust = trust
        self._keys = trust.keys
        self._secrets = secrets
        self._writer = SecretWriter(secrets, inventory, wake)
        self._wake = wake
        self._statuses = statuses
        self._events = events
        self._clock = clock

    async def _report(self, key: Key, entry: Entry[Any], wanted: Mapping[str, Any]) -> None:
        """Write the status if it is another one than is stored. An object that is gone is forgotten.

        The new status is noted before it is sent: its echo may be here before the answer, and must wake nobody.
        """
        patch = merge_patch(entry.status, wanted)
        if not patch:
            return
        before, entry.status = entry.status, dict(wanted)
        try:
            entry.resource_version = max(entry.resource_version, await self._statuses.patch(key, patch))
        except MissingError:
            if key.kind is Kind.SERVICE_IDENTITY:
                self._inventory.drop_identity(key.namespace, key.name, entry.meta.uid)
            elif key.kind is Kind.VAULT_CONNECTION:
                self._inventory.drop_vault_connection(key.name, entry.meta.uid)
            elif key.kind is Kind.ACCESS_POLICY:
                self._inventory.drop_access_policy(key.namespace, key.name, entry.meta.uid)
            else:
                self._inventory.drop_trust_domain(key.name, entry.meta.uid)
        except Exception:
            entry.status = before
            raise
