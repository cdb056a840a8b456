"""`kubectl sid policy test`: a table of cases against the AccessPolicies of a manifest, without a cluster."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.cli.commands import UsageError
from serviceidentity.domain.access.evaluate import Decision, Principal, Question, evaluate
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.access.spec import VARIABLES, Rules
from serviceidentity.domain.model import GROUP
from serviceidentity.domain.schedule import format_time, parse_time
from serviceidentity.errors import InvalidSpecError

LARGEST_FILE: Final = 4 << 20
ALLOW: Final = "allow"
DENY: Final = "deny"
_CASE: Final = frozenset({"name", "principal", "action", "resource", "context", "now", "expect", "rule", "reason"})
_PRINCIPAL: Final = frozenset({"kind", "subject", "spiffeID", "roles", "permissions", "claims"})


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: a question, when it is asked, and the answer that is expected."""

    name: str
    question: Question
    now: datetime
    allowed: bool
    rule: str | None
    reason: str | None


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser) -> None:
    """Add `policy test`."""
    policy = verbs.add_parser("policy", help="AccessPolicies: what callers of a service may do", parents=[common])
    steps = policy.add_subparsers(dest="step", required=True, metavar="step")
    text = "run a table of cases against a manifest, without a cluster; exit code 1 when one differs"
    test = steps.add_parser("test", help=text, description=text, parents=[common])
    test.add_argument("file", type=Path, metavar="FILE", help="manifests; their AccessPolicies count as one service's")
    test.add_argument("--cases", type=Path, required=True, metavar="CASES", help="cases in YAML; see docs/access.md")


def run(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Return a line a case, and whether all are as expected. Raises UsageError for files that can't be used."""
    policies = read_policies(_documents(arguments.file), str(arguments.file))
    cases = read_cases(_documents(arguments.cases), str(arguments.cases))
    lines, failed = [], 0
    for case in cases:
        decision = evaluate(policies, case.question, case.now)
        wrong = difference(case, decision)
        failed += bool(wrong)
        lines.append(f"{'FAIL' if wrong else 'ok  '}  {case.name}: {wrong or told(decision)}")
    lines.append(f"{len(cases)} cases, {failed} failed")
    return "\n".join(lines), not failed


def told(decision: Decision) -> str:
    """Return a decision in words: what, by which policy and rule, and why."""
    by = f" by {decision.policy}/{decision.rule}" if decision.rule else ""
    via = f", after {', '.join(decision.continued)}" if decision.continued else ""
    return f"{ALLOW if decision.allowed else DENY}{by}{via} ({decision.reason})"


def difference(case: Case, decision: Decision) -> str:
    """Return how a decision is not the one that is expected; empty when it is."""
    rules = {decision.rule, f"{decision.policy}/{decision.rule}"}
    if decision.allowed is not case.allowed:
        expected = ALLOW if case.allowed else DENY
    elif case.rule is not None and case.rule not in rules:
        expected = f"rule {case.rule}"
    elif case.reason is not None and case.reason != decision.reason:
        expected = f"the reason {case.reason!r}"
    else:
        return ""
    return f"expected {expected}, got {told(decision)}"


def read_policies(documents: Sequence[Any], where: str) -> tuple[Rules, ...]:
    """Read the AccessPolicies among manifests, compiled. Raises UsageError."""
    objects = [item for one in documents for item in (_items(one) if isinstance(one, Mapping) else [])]
    bodies = [one for one in objects if one.get("kind") == "AccessPolicy"]
    if not bodies:
        raise UsageError(f"{where}: there is no AccessPolicy in it")
    found: dict[str, Rules] = {}
    for body in bodies:
        meta = body.get("metadata")
        name = meta.get("name") if isinstance(meta, Mapping) else None
        if not isinstance(meta, Mapping) or not isinstance(name, str) or not name:
            raise UsageError(f"{where}: an AccessPolicy without a name")
        if not str(body.get("apiVersion", "")).startswith(f"{GROUP}/") or name in found:
            raise UsageError(f"{where}: AccessPolicy {name}: not of {GROUP}, or there twice")
        try:
            known = {"namespace": "", "uid": "", "generation": 0, "labels": {}, "annotations": {}}
            named = {"metadata": known | {"name": name}, "spec": body.get("spec")}
            found[name] = access_policy(named, CelCompiler(VARIABLES)).rules
        except InvalidSpecError as error:
            raise UsageError(f"{where}: AccessPolicy {name}: {error}") from None
    return tuple(found[name] for name in sorted(found))


def read_cases(documents: Sequence[Any], where: str) -> tuple[Case, ...]:
    """Read cases: a document with a list `cases`, and maybe `now` for those that have none. Raises UsageError."""
    body = documents[0] if len(documents) == 1 else None
    cases = body.get("cases") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(cases, list) or not cases or body.keys() - {"now", "cases"}:
        raise UsageError(f"{where}: must be one document with a list `cases`, and maybe `now`")
    return tuple(_case(item, body.get("now"), f"{where}: cases[{index}]") for index, item in enumerate(cases))


def _case(item: Any, default_now: Any, where: str) -> Case:
    given = _mapping(item, where, _CASE)
    expected, action = given.get("expect"), given.get("action")
    if expected not in (ALLOW, DENY):
        raise UsageError(f"{where}.expect: must be {ALLOW} or {DENY}")
    if not isinstance(action, str) or not action:
        raise UsageError(f"{where}.action: must be a text")
    resource, context = (_mapping(given.get(field) or {}, f"{where}.{field}") for field in ("resource", "context"))
    return Case(
        str(given.get("name") or action),
        Question(_principal(given.get("principal"), f"{where}.principal"), action, resource, context),
        _time(given.get("now", default_now), f"{where}.now"),
        expected == ALLOW,
        _text_or_none(given, "rule", where),
        _text_or_none(given, "reason", where),
    )


def _principal(item: Any, where: str) -> Principal | None:
    if item is None:
        return None
    given = _mapping(item, where, _PRINCIPAL)
    roles, permissions = (given.get(field) or [] for field in ("roles", "permissions"))
    for field, listed in (("roles", roles), ("permissions", permissions)):
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise UsageError(f"{where}.{field}: must be a list of texts")
    return Principal(
        _text_or_none(given, "subject", where) or "",
        _text_or_none(given, "kind", where) or "token",
        _text_or_none(given, "spiffeID", where) or "",
        frozenset(roles),
        frozenset(permissions),
        _mapping(given.get("claims") or {}, f"{where}.claims"),
    )


def _time(value: Any, where: str) -> datetime:
    """Read a time, which YAML may have read already; there it has to say its zone, or it would be anybody's guess."""
    try:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
        if isinstance(value, str):
            return parse_time(value)
    except ValueError:
        pass
    example = format_time(datetime(2026, 1, 5, 12, tzinfo=UTC))
    raise UsageError(f"{where}: must be a time with its zone, such as {example}")


def _mapping(item: Any, where: str, known: frozenset[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in item):
        raise UsageError(f"{where}: must be an object")
    if known is not None and (unknown := sorted(item.keys() - known)):
        raise UsageError(f"{where}: there is no field {unknown[0]}")
    return item


def _text_or_none(given: Mapping[str, Any], field: str, where: str) -> str | None:
    value = given.get(field)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}.{field}: must be a text")
    return value


def _items(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = document.get("items")
    if document.get("kind") == "List" and isinstance(items, list):
        return [item for item in items if isinstance(item, Mapping)]
    return [document]


def _documents(path: Path) -> list[Any]:
    """Read the documents of a file in YAML or JSON. Raises UsageError, which never quotes it."""
    try:
        with path.open("rb") as file:
            source = file.read(LARGEST_FILE + 1)
        if len(source) > LARGEST_FILE:
            raise UsageError(f"{path}: larger than {LARGEST_FILE >> 20} MiB")
        return [one for one in yaml.safe_load_all(source.decode()) if one is not None]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError):
        raise UsageError(f"{path}: it is no YAML that can be read") from None
