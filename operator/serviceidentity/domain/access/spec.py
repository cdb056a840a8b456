"""What an AccessPolicy asks for, as immutable values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from serviceidentity.domain.model import Meta
from serviceidentity.domain.policy.spec import Expression
from serviceidentity.domain.selectors import LabelSelector

VARIABLES: Final = ("principal", "action", "resource", "context", "now")  # what an expression sees


class Effect(StrEnum):
    """What follows when a rule's expression is true."""

    ALLOW = "Allow"
    DENY = "Deny"
    CONTINUE = "Continue"  # nothing but a line in the log: the next rule is asked


@dataclass(frozen=True, slots=True)
class Role:
    """What callers of a role may do, as permissions with wildcards."""

    name: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One rule: `text` is the CEL expression, as it is written."""

    name: str
    effect: Effect
    text: str
    expression: Expression
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of a policy that decides: it is what services get."""

    name: str
    zone: ZoneInfo
    roles: tuple[Role, ...]
    rules: tuple[AccessRule, ...]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """An AccessPolicy, and which ServiceIdentities of its namespace get it: those named, and those selected."""

    meta: Meta
    names: frozenset[str]
    selector: LabelSelector | None
    rules: Rules

    def selects(self, identity: Meta) -> bool:
        """Say whether an identity of the same namespace gets it."""
        return identity.name in self.names or (self.selector is not None and self.selector.admits(identity.labels))
