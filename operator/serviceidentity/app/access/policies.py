"""One pass over one AccessPolicy: report whether it could be compiled, and which services have it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serviceidentity.app.access.bundles import BundleReconciler
from serviceidentity.app.reconciler import Reconciler
from serviceidentity.domain.access.status import of_invalid_policy, of_policy
from serviceidentity.domain.model import Key, policy_bundle_key
from serviceidentity.errors import InvalidSpecError


class PolicyReconciler(Reconciler):
    """Tells in the status of each policy what became of it."""

    def __init__(self, *parts: Any, bundles: BundleReconciler) -> None:
        super().__init__(*parts)
        self._bundles = bundles

    async def reconcile(self, key: Key) -> datetime | None:
        """Report, once it is known of every service that the policy selects. Raises RetryableError."""
        entry = self._inventory.policies.entries.get(key)
        if entry is None or entry.meta.deleting:
            return None
        now = self._clock()
        if isinstance(entry.spec, InvalidSpecError):
            wanted = of_invalid_policy(entry.meta, str(entry.spec), entry.status, now)
        else:
            spec, identities = entry.spec, self._inventory.identities
            selected = [
                one.meta.name
                for at, one in identities.items()
                if at.namespace == key.namespace and not one.meta.deleting and spec.selects(one.meta)
            ]
            found = {
                name: self._bundles.outcome(policy_bundle_key(key.namespace, name), entry.meta) for name in selected
            }
            outcomes = {name: outcome.held for name, outcome in found.items() if outcome is not None}
            if len(outcomes) < len(selected):
                return None  # a bundle that was not looked at yet: who does wakes this key
            absent = sorted(spec.names - outcomes.keys())
            wanted = of_policy(entry.meta, outcomes, absent, entry.status, now)
        before = _ready(entry.status)
        await self._report(key, entry, wanted)
        ready = _ready(wanted)
        if (ready.get("status"), ready.get("reason")) != (before.get("status"), before.get("reason")):
            warning = ready["status"] == "False"
            self._events.emit(key, entry.meta.uid, ready["reason"], ready["message"], warning=warning)
        return None


def _ready(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((one for one in stored.get("conditions") or () if one.get("type") == "Ready"), {})
