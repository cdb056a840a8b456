"""The rules of a bundle, compiled, and what they decide. A decision depends on its arguments alone.

It is the same as `kubectl sid policy test` tells of the same rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

try:
    import cel
except ImportError as error:
    raise ImportError("serviceidentity_sdk.policy needs: pip install 'serviceidentity-sdk[policy]'") from error

from serviceidentity_sdk.policy.facts import Facts, Question
from serviceidentity_sdk.principal import Principal

NO_MATCH: Final = "No matching policy"
NO_PRINCIPAL: Final = "Not authenticated"
ALLOW: Final = "Allow"
DENY: Final = "Deny"
CONTINUE: Final = "Continue"
EFFECTS: Final = frozenset({ALLOW, DENY, CONTINUE})
_NOTHING: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, why, the policy and rule that decided, and the rules on the way that said Continue."""

    allowed: bool
    reason: str
    policy: str | None = None
    rule: str | None = None
    continued: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, compiled."""

    name: str
    effect: str
    program: Any = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: its rules in order, and what they see."""

    name: str
    rules: tuple[Rule, ...]
    facts: Facts

    @classmethod
    def of(cls, name: str, zone: ZoneInfo, roles: Mapping[str, Sequence[str]], rules: tuple[Rule, ...]) -> Self:
        """Return a policy with its roles' permissions and the zone of its clock."""
        return cls(name, rules, Facts(zone, roles, [rule.program.source for rule in rules]))


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a service. Two of the same digest are equal."""

    service: str
    digest: str
    policies: tuple[Policy, ...] = field(compare=False)

    def decide(
        self,
        principal: Principal | None,
        action: str,
        resource: Mapping[str, Any] = _NOTHING,
        context: Mapping[str, Any] = _NOTHING,
        *,
        now: datetime,
    ) -> Decision:
        """Decide whether the caller may do `action`. `resource` and `context` hold what JSON can. Raises nothing.

        In one policy the first rule that is true decides, if it allows or denies. Of several, each is asked: one that
        denies outweighs all that allow. Nobody, and what no rule allows or a rule can't be evaluated for, is denied.
        """
        if principal is None:
            return Decision(False, NO_PRINCIPAL)
        asked = Question(principal, action, resource, context, now)
        allowed: Decision | None = None
        continued: list[str] = []
        for policy in self.policies:
            found = _decision(policy, asked, continued)
            if found is not None and not found.allowed:
                return found
            allowed = allowed or found
        if allowed is None:
            return Decision(False, NO_MATCH, continued=tuple(continued))
        return Decision(True, allowed.reason, allowed.policy, allowed.rule, tuple(continued))


def compiled(expression: str) -> Any:
    """Compile a CEL expression. Raises ValueError."""
    try:
        return cel.compile(expression)
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        raise ValueError("an expression can't be compiled") from None


def _decision(policy: Policy, asked: Question, continued: list[str]) -> Decision | None:
    seen: Any = None
    for rule in policy.rules:
        try:
            if seen is None:
                seen = policy.facts.context(asked)
            holds = rule.program.execute(seen)
        except BaseException as error:
            if not _is_the_librarys(error):
                raise
            holds = None
        if holds is False:
            continue
        if holds is not True:
            reason = f"rule {rule.name} could not be evaluated"
            return Decision(False, reason, policy.name, rule.name, tuple(continued))
        if rule.effect == CONTINUE:
            continued.append(f"{policy.name}/{rule.name}")
            continue
        reason = rule.reason or f"rule {rule.name}"
        return Decision(rule.effect == ALLOW, reason, policy.name, rule.name, tuple(continued))
    return None


def _is_the_librarys(error: BaseException) -> bool:
    """Say whether it came from the library: any Exception, or the panic of a library in Rust, which is not one."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
