"""One pass over one VaultConnection: look whether it is of use, report."""

import logging
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.app.reconciler import Reconciler
from serviceidentity.app.vault.connections import Connections
from serviceidentity.domain import status
from serviceidentity.domain.model import Key
from serviceidentity.domain.vault.connection_status import AWAY, READY, Found, of_connection
from serviceidentity.domain.vault.spec import ConnectionSpec
from serviceidentity.errors import InvalidSpecError

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(seconds=30)  # while a server is away its breaker looks, and wakes the connection


class ConnectionReconciler(Reconciler):
    """Tells in the status of each connection whether it is of use, and wakes its identities when it is again."""

    def __init__(self, *parts: Any, connections: Connections) -> None:
        super().__init__(*parts)
        self._connections = connections
        self._told: dict[str, str] = {}  # the reason of each, as it was found in the last pass

    async def reconcile(self, key: Key) -> datetime | None:
        """Look and report; return when to look again. Raises RetryableError: the caller tries again soon."""
        entry = self._inventory.connections.entries.get(key.name)
        if entry is None or entry.meta.deleting:
            return await self._without_object(key)
        now = self._clock()
        if isinstance(entry.spec, InvalidSpecError):
            message = str(entry.spec).partition(": ")[2]
            wanted = status.of_invalid(entry.meta, entry.spec.path, message, entry.status, now)
            self._connections.forget(key.name)
            self._told.pop(key.name, None)
            await self._report(key, entry, wanted)
            return None
        found = await self._look(key, entry.spec.spec)
        if found is not None:
            before = _ready(entry.status)
            wanted = of_connection(entry.meta, found, entry.status, self._clock())
            ready = wanted["conditions"][0]
            await self._report(key, entry, wanted)
            if (ready["status"], ready["reason"]) != (before.get("status"), before.get("reason")):
                warning = ready["status"] == "False"
                self._events.emit(key, entry.meta.uid, ready["reason"], ready["message"], warning=warning)
        return self._clock() + LOOK_EVERY

    async def _without_object(self, key: Key) -> datetime | None:
        """Look after the connection of the environment, if this is it; else the connection is gone."""
        spec = self._connections.spec(key.name)
        if not isinstance(spec, ConnectionSpec) or not self._connections.is_of_environment(key.name):
            self._connections.forget(key.name)
            self._told.pop(key.name, None)
            return None
        await self._look(key, spec)
        return self._clock() + LOOK_EVERY

    async def _look(self, key: Key, spec: ConnectionSpec) -> Found | None:
        """Look whether a connection is of use; log it when that is new, and wake its identities when it is again."""
        found = await self._connections.examine(key.name, spec)
        if found is None:
            return None
        reason, before = found.problem.reason if found.problem else READY, self._told.get(key.name)
        self._told[key.name] = reason
        if reason != before and found.problem is not None:
            logger.warning("%s: %s: %s", key, reason, found.problem.message)
        elif reason != before:
            logger.info("%s: ready, version %s", key, found.version)
            if before is not None and before not in AWAY:  # else its breaker calls back whom it turned away
                self._connections.call_back_users(key.name)
        return found


def _ready(stored: status.Json) -> status.Json:
    return next((one for one in stored.get("conditions") or () if one.get("type") == READY), {})
