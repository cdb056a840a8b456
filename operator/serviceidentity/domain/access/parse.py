"""From an AccessPolicy's JSON to its value. Raises InvalidSpecError with the field's path."""

import re
from collections.abc import Iterable
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from serviceidentity.domain.access.permissions import is_permission
from serviceidentity.domain.access.spec import AccessPolicy, AccessRule, Effect, Role, Rules
from serviceidentity.domain.fields import Json, block, blocks, label_selector, member, text, texts
from serviceidentity.domain.parse import meta_of
from serviceidentity.domain.policy.spec import Compile, ExpressionError
from serviceidentity.errors import InvalidSpecError

MOST_RULES: Final = 64
MOST_ROLES: Final = 64
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_ROLE: Final = re.compile(r"[!-~]+")


def access_policy(body: Json, compile_rule: Compile) -> AccessPolicy:
    """Read an AccessPolicy as the API has it, with its expressions compiled. Raises InvalidSpecError."""
    spec, meta = block(body, "spec", ""), meta_of(body)
    names = tuple(text(item, "name", path) for path, item in blocks(spec, "services", "spec"))
    _unique("spec.services", names)
    selector = None
    if spec.get("selector") is not None:
        selector = label_selector(block(spec, "selector", "spec"), "spec.selector")
    if not names and selector is None:
        raise InvalidSpecError("spec", "must have services, a selector or both")
    return AccessPolicy(meta, frozenset(names), selector, rules_of(spec, meta.name, compile_rule))


def rules_of(spec: Json, name: str, compile_rule: Compile) -> Rules:
    """Read the part of a spec that decides. Raises InvalidSpecError, for an expression with its rule."""
    written = {field: blocks(spec, field, "spec") for field in ("roles", "rules")}
    if len(written["rules"]) > MOST_RULES or len(written["roles"]) > MOST_ROLES:  # before compiling them
        raise InvalidSpecError("spec", f"must have at most {MOST_RULES} rules and {MOST_ROLES} roles")
    roles = tuple(_role(item, path) for path, item in written["roles"])
    rules = tuple(_rule(item, path, compile_rule) for path, item in written["rules"])
    _unique("spec.roles", [role.name for role in roles])
    _unique("spec.rules", [rule.name for rule in rules])
    if not rules:
        raise InvalidSpecError("spec.rules", "must have a rule: what no rule allows is denied")
    return Rules(name, _zone(text(spec, "timeZone", "spec", "UTC")), roles, rules)


def _zone(name: str) -> ZoneInfo:
    try:
        if _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidSpecError("spec.timeZone", 'must be the name of a time zone, such as "Europe/Berlin"')


def _role(item: Json, path: str) -> Role:
    permissions = texts(item, "permissions", path)
    for index, permission in enumerate(permissions):
        if not is_permission(permission):
            raise InvalidSpecError(
                f"{path}.permissions[{index}]", "must be such as orders:read; * stands alone or after the last colon"
            )
    return Role(_matching(_ROLE, item, path, "ASCII characters without spaces"), permissions)


def _rule(item: Json, path: str, compile_rule: Compile) -> AccessRule:
    name = _matching(_NAME, item, path, "lower-case letters, digits and dashes")
    effect, written = member(Effect, item.get("effect"), f"{path}.effect"), text(item, "expression", path)
    try:
        expression = compile_rule(written)
    except ExpressionError as error:
        raise InvalidSpecError(f"{path}.expression", f"rule {name}: {error}") from None
    return AccessRule(name, effect, written, expression, text(item, "reason", path, ""))


def _matching(pattern: re.Pattern[str], item: Json, path: str, what: str) -> str:
    name = text(item, "name", path)
    if not pattern.fullmatch(name):
        raise InvalidSpecError(f"{path}.name", f"must be {what}")
    return name


def _unique(path: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InvalidSpecError(f"{path}[{index}].name", "must not be the name of another one too")
        seen.add(name)
