"""Whether a caller may do something: the rules of each policy in order, and a denial of one policy outweighs the rest.

The SDK does the same, in the services; both are tested with the same cases.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from serviceidentity.domain.access.permissions import granted_by
from serviceidentity.domain.access.spec import Effect, Rules
from serviceidentity.domain.policy.spec import ExpressionError

NO_MATCH: Final = "No matching policy"
NO_PRINCIPAL: Final = "Not authenticated"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the credential that was verified says; `kind` is certificate, signature or token."""

    subject: str
    kind: str = "token"
    spiffe_id: str = ""
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: may this caller do this with that. `resource` and `context` are as JSON has them."""

    principal: Principal | None
    action: str
    resource: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, with the policy and rule that gave it, and the rules on the way that said Continue."""

    allowed: bool
    reason: str
    policy: str | None = None
    rule: str | None = None
    continued: tuple[str, ...] = ()


def evaluate(policies: Iterable[Rules], question: Question, now: datetime) -> Decision:
    """Decide. `now` is aware of its zone. Without a principal, and where nothing allows, the answer is no.

    In one policy the first rule that is true decides, if it is an Allow or a Deny. Of several policies, each is asked:
    one that denies outweighs all that allow, so their order means nothing.
    """
    if question.principal is None or not question.principal.subject:
        return Decision(False, NO_PRINCIPAL)
    allowed: Decision | None = None
    continued: list[str] = []
    for policy in policies:
        found = _of_policy(policy, question, question.principal, now, continued)
        if found is not None and not found.allowed:
            return found
        allowed = allowed or found
    if allowed is None:
        return Decision(False, NO_MATCH, continued=tuple(continued))
    return Decision(True, allowed.reason, allowed.policy, allowed.rule, tuple(continued))


def _of_policy(
    policy: Rules, question: Question, principal: Principal, now: datetime, continued: list[str]
) -> Decision | None:
    variables = variables_of(policy, question, principal, now)
    for rule in policy.rules:
        try:
            if not rule.expression(variables):
                continue
        except ExpressionError:
            reason = f"rule {rule.name} could not be evaluated"
            return Decision(False, reason, policy.name, rule.name, tuple(continued))
        if rule.effect is Effect.CONTINUE:
            continued.append(f"{policy.name}/{rule.name}")
            continue
        reason = rule.reason or f"rule {rule.name}"
        return Decision(rule.effect is Effect.ALLOW, reason, policy.name, rule.name, tuple(continued))
    return None


def variables_of(policy: Rules, question: Question, principal: Principal, now: datetime) -> dict[str, Any]:
    """Return what the expressions of a policy see. The policy's roles bring their permissions along."""
    roles = (role.permissions for role in policy.roles if role.name in principal.roles)
    permissions = principal.permissions.union(*roles)
    return {
        "principal": {
            "kind": principal.kind,
            "subject": principal.subject,
            "spiffeID": principal.spiffe_id,
            "roles": sorted(principal.roles),
            "permissions": sorted(permissions),
            "permitted": granted_by(permissions, question.action),
            "claims": dict(principal.claims),
        },
        "action": question.action,
        "resource": dict(question.resource),
        "context": dict(question.context),
        "now": clock_of(now, policy.zone),
    }


def clock_of(now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """Return an instant as the clock on the wall shows it in a zone. Monday is 1 and Sunday 7, as in ISO 8601."""
    local = now.astimezone(zone)
    return {
        "hours": local.hour,
        "minutes": local.minute,
        "weekday": local.isoweekday(),
        "date": f"{local:%Y-%m-%d}",
        "timestamp": now.astimezone(UTC),
    }
