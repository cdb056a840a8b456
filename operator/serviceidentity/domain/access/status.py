"""The status of an AccessPolicy, computed anew each time from what was found. At rest it stays the same text."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain.credentials.base import Reason
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import Meta
from serviceidentity.domain.status import POLICY_FIELDS, Json, as_conditions

READY: Final = "Ready"
COMPILED: Final = "Compiled"
DELIVERED: Final = "Delivered"
NO_SERVICE: Final = "NoServiceSelected"
MOST_NAMED: Final = 256
_NAMED_IN_MESSAGE: Final = 4

Outcome = Held | None  # None: the service has it


def of_policy(
    meta: Meta, outcomes: Mapping[str, Outcome], absent: Sequence[str], previous: Mapping[str, Any], now: datetime
) -> Json:
    """Return the whole status: `outcomes` of the services it selects, and those named that do not exist."""
    have = sorted(name for name, outcome in outcomes.items() if outcome is None)
    waiting = {name: outcome for name, outcome in sorted(outcomes.items()) if outcome is not None}
    compiled = (COMPILED, True, COMPILED, "every expression could be compiled")
    if waiting:
        first = next(iter(waiting.values()))
        delivered = (DELIVERED, False, first.reason, f"{_listed(list(waiting))}: {first.message}")
    elif not outcomes:
        there = f"there is no ServiceIdentity {_listed(absent)}" if absent else "no ServiceIdentity has these labels"
        delivered = (DELIVERED, False, NO_SERVICE, there)
    else:
        rest = f"; there is no ServiceIdentity {_listed(absent)}" if absent else ""
        delivered = (DELIVERED, True, DELIVERED, f"services that have it: {_listed(have)}{rest}")
    ready = (READY, *delivered[1:3], delivered[3])
    return {
        "observedGeneration": meta.generation,
        "conditions": as_conditions([ready, compiled, delivered], previous, meta.generation, now),
        "services": have[:MOST_NAMED],
        "selected": len(outcomes),
        "delivered": len(have),
    }


def of_invalid_policy(meta: Meta, message: str, previous: Mapping[str, Any], now: datetime) -> Json:
    """Return the status of a policy that can't be compiled: services keep what they have of it."""
    told = [
        (READY, False, Reason.INVALID_SPEC, message),
        (COMPILED, False, Reason.INVALID_SPEC, message),
    ]
    kept = {name: previous[name] for name in POLICY_FIELDS if name in previous}
    conditions = as_conditions(told, previous, meta.generation, now)
    return {"observedGeneration": meta.generation, "conditions": conditions, **kept}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_IN_MESSAGE} more" if len(names) > _NAMED_IN_MESSAGE else ""
    return ", ".join(names[:_NAMED_IN_MESSAGE]) + more
