"""The facts that the rules of one policy see, as CEL wants them.

Handing facts over is nearly all that a decision costs; evaluating a rule is a fraction of a microsecond. So of the
caller and of the time only those members are handed over that a rule names, and of CEL's libraries only the functions.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

try:
    import cel
    import cel.stdlib
except ImportError as error:
    raise ImportError("serviceidentity_sdk.policy needs: pip install 'serviceidentity-sdk[policy]'") from error

from serviceidentity_sdk.permissions import granted_by
from serviceidentity_sdk.principal import Principal

T = TypeVar("T")
_LIBRARIES: Final = ("strings", "sets")


@dataclass(frozen=True, slots=True)
class Question:
    """What is decided about."""

    principal: Principal
    action: str
    resource: Mapping[str, Any]
    context: Mapping[str, Any]
    now: datetime


class Facts:
    """What a question looks like to the rules of one policy: `sources` are their expressions."""

    def __init__(self, zone: ZoneInfo, roles: Mapping[str, Sequence[str]], sources: Collection[str]) -> None:
        self._zone = zone
        self._roles = roles
        self._principal = _named("principal", _PRINCIPAL, sources)
        self._now = _named("now", _NOW, sources)
        self._functions = {
            name: function
            for library in _LIBRARIES
            for name, function in cel.stdlib.EXTENSIONS[library].items()
            if any(name.rpartition(".")[2] in source for source in sources)
        }

    def context(self, asked: Question) -> cel.Context:
        """Return the facts for CEL. Raises what the library raises for a value that no JSON has."""
        # The resource and the context always: what a service hands in and CEL can't take is denied by every rule.
        facts = {"action": asked.action, "resource": dict(asked.resource), "context": dict(asked.context)}
        if self._principal:
            facts["principal"] = {name: make(asked, self) for name, make in self._principal.items()}
        if self._now:
            local = asked.now.astimezone(self._zone)
            facts["now"] = {name: make(local) for name, make in self._now.items()}
        return cel.Context(facts, self._functions)

    def permissions(self, principal: Principal) -> frozenset[str]:
        """Return what the caller's credential and roles let it do."""
        return principal.permissions.union(*(self._roles.get(role, ()) for role in principal.roles))


_PRINCIPAL: Final[Mapping[str, Callable[[Question, Facts], Any]]] = {
    "kind": lambda asked, _: str(asked.principal.kind),
    "subject": lambda asked, _: asked.principal.subject,
    "spiffeID": lambda asked, _: asked.principal.spiffe_id or "",
    "roles": lambda asked, _: sorted(asked.principal.roles),
    "permissions": lambda asked, facts: sorted(facts.permissions(asked.principal)),
    "permitted": lambda asked, facts: granted_by(facts.permissions(asked.principal), asked.action),
    "claims": lambda asked, _: dict(asked.principal.claims),
}
_NOW: Final[Mapping[str, Callable[[datetime], Any]]] = {
    "hours": lambda local: local.hour,
    "minutes": lambda local: local.minute,
    "weekday": lambda local: local.isoweekday(),
    "date": lambda local: f"{local:%Y-%m-%d}",
    "timestamp": lambda local: local.astimezone(UTC),
}


def _named(variable: str, members: Mapping[str, T], sources: Collection[str]) -> Mapping[str, T]:
    """Return the members of a variable that expressions name; all, if one uses the variable in any other way.

    A word in a text or a comment counts as well: too much handed over costs time, too little would change a decision.
    """
    use = re.compile(rf"(?<![A-Za-z0-9_]){variable}(?![A-Za-z0-9_])(?:\s*\.\s*(\w+))?", re.ASCII)
    found = {match[1] for source in sources for match in use.finditer(source)}
    return {name: make for name, make in members.items() if name in found or not found <= members.keys()}
