"""Decisions with the policies of this moment, each of them told."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from serviceidentity_sdk.policy.decisions import Decision, Policies
from serviceidentity_sdk.principal import Principal
from serviceidentity_sdk.source import Source

_LOG: Final = logging.getLogger("serviceidentity_sdk.policy")
_NOTHING: Final[Mapping[str, Any]] = {}
OnDecision = Callable[[Principal | None, str, Decision], None]


def _now() -> datetime:
    return datetime.now(UTC)


class PolicyEngine:
    """Decides with what `source` has: `PolicyEngine(Watch([Directory(...), Directory(...)], reader("shop/orders")))`.

    A denial is logged at INFO, an allowance at DEBUG, with caller, action, rule and reason; the resource is not.
    `on_decision` gets each of them, for an audit. If it raises, so does `decide`: what can't be recorded is not done.
    """

    def __init__(
        self,
        source: Source[Policies],
        *,
        on_decision: OnDecision | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._source = source
        self._on_decision = on_decision
        self._clock = clock

    def decide(
        self,
        principal: Principal | None,
        action: str,
        resource: Mapping[str, Any] = _NOTHING,
        context: Mapping[str, Any] = _NOTHING,
    ) -> Decision:
        """Decide whether the caller may do `action`; see `Policies.decide`."""
        decision = self._source.current.decide(principal, action, resource, context, now=self._clock())
        level = logging.DEBUG if decision.allowed else logging.INFO
        if _LOG.isEnabledFor(level):
            who = principal.subject if principal is not None else None
            by = f"{decision.policy}/{decision.rule}" if decision.rule else None
            verdict = "allowed" if decision.allowed else "denied"
            _LOG.log(level, "%s: %r for %r by %s: %s", verdict, action, who, by, decision.reason)
        if self._on_decision is not None:
            self._on_decision(principal, action, decision)
        return decision
