"""Decisions: the SDK beside rules that are evaluated with their facts ready, and beside rules written in Python."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import cel
import yaml
from joserfc.jwk import ECKey

from bench.sdk.measure import Case, WrongAnswerError
from serviceidentity_sdk.authz import check_permission
from serviceidentity_sdk.jwt.jose import KeySet, read_private, read_public, sign
from serviceidentity_sdk.policy import Policies, PolicyEngine
from serviceidentity_sdk.policy.bundle import TYPE, read_bundle
from serviceidentity_sdk.principal import Kind, Principal
from serviceidentity_sdk.source import Fixed

NOON: Final = datetime(2026, 1, 5, 11, tzinfo=UTC)  # 12:00 in Berlin
SERVICE: Final = "shop/payment-service"
ACTION: Final = "payments:create"
RESOURCE: Final = {"owner": "alice", "amount": 5000}
_POLICY: Final = Path(__file__).parents[2] / "examples/access/policy.yaml"


def caller(subject: str, role: str) -> Principal:
    """Return somebody with the claims of a usual token."""
    claims = {
        "iss": "auth-service",
        "aud": "microservices",
        "sub": subject,
        "iat": 1_767_610_000,
        "nbf": 1_767_610_000,
        "exp": 1_767_610_900,
        "jti": "Zx3n0l1k9Q7a2b4c6d8e0f",
        "sid": "p0o9i8u7y6t5r4e3w2q1",
        "roles": [role],
        "permissions": ["orders:read", "orders:create"],
    }
    permissions = frozenset({"orders:read", "orders:create"})
    return Principal(Kind.TOKEN, subject, roles=frozenset({role}), permissions=permissions, claims=claims)


def policies() -> Policies:
    """Return examples/access/policy.yaml as a service reads it: signed, verified, compiled."""
    spec = yaml.safe_load(_POLICY.read_text())["spec"]
    rules = [{"reason": "", **rule} for rule in spec["rules"]]
    part = {"name": "payments", "timeZone": spec["timeZone"], "roles": spec["roles"], "rules": rules}
    namespace, _, name = SERVICE.partition("/")
    named = {"namespace": namespace, "name": name}
    key = ECKey.generate_key("P-256")
    kid = {"kid": key.thumbprint(), "alg": "ES256"}
    text = sign(
        {"version": 1, "service": named, "policies": [part], "digest": "sha256:1"},
        read_private(key.as_dict(private=True) | kid),
        TYPE,
    )
    return read_bundle(text, KeySet((read_public(key.as_dict(private=False) | kid),)), SERVICE)


def engine() -> PolicyEngine:
    """Return the engine of these policies, at noon."""
    return PolicyEngine(Fixed(policies()), clock=lambda: NOON)


def cases() -> Iterator[Case]:
    """The first rule decides, the last one does, and rules without attributes."""
    for name, who, reached, rule in (
        ("first of 4 rules", caller("root", "admin"), 1, "admins"),
        ("last of 4 rules", caller("alice", "customer"), 4, "owner"),
    ):
        yield Case(
            f"policy, {name}",
            {
                "floor": _ready(who, reached),
                "sdk": _decided(engine(), who, rule),
                "CEL, all facts": _handed_over(who, reached),
                "in Python": _in_python(who, rule),
            },
        )
    yield _permission()


def _decided(sdk: PolicyEngine, who: Principal, rule: str) -> Callable[[], None]:
    def call() -> None:
        decision = sdk.decide(who, ACTION, RESOURCE)
        if not decision.allowed or decision.rule != rule:
            raise WrongAnswerError(decision.reason)

    return call


def _facts(who: Principal) -> dict[str, Any]:
    local = NOON.astimezone(ZoneInfo("Europe/Berlin"))
    principal = {
        "kind": str(who.kind),
        "subject": who.subject,
        "spiffeID": "",
        "roles": sorted(who.roles),
        "permissions": sorted(who.permissions | {"payments:create"}),
        "permitted": True,
        "claims": dict(who.claims),
    }
    now = {"hours": local.hour, "minutes": local.minute, "weekday": 1, "date": "2026-01-05", "timestamp": NOON}
    return {"principal": principal, "action": ACTION, "resource": RESOURCE, "context": {}, "now": now}


def _programs(reached: int) -> list[Any]:
    rules = yaml.safe_load(_POLICY.read_text())["spec"]["rules"]
    return [cel.compile(rule["expression"]) for rule in rules[:reached]]


def _evaluated(programs: list[Any], context: Any) -> None:
    for program in programs:
        said = program.execute(context)
    if said is not True:
        raise WrongAnswerError("the rule that should decide does not")


def _ready(who: Principal, reached: int) -> Callable[[], None]:
    """Evaluate as far as the rule that decides; CEL has the facts already."""
    programs, context = _programs(reached), cel.Context(_facts(who))
    return lambda: _evaluated(programs, context)


def _handed_over(who: Principal, reached: int) -> Callable[[], None]:
    """The same with every fact given to CEL anew, as it has to be for each request without knowing the rules."""
    programs, facts = _programs(reached), _facts(who)
    return lambda: _evaluated(programs, cel.Context(facts))


_ROLES: Final[Mapping[str, frozenset[str]]] = {
    "admin": frozenset({"*"}),
    "customer": frozenset({"orders:read", "orders:create", "payments:create"}),
}


def _in_python(who: Principal, rule: str) -> Callable[[], None]:
    """The rules as somebody writes them into a service."""
    zone = ZoneInfo("Europe/Berlin")

    def decide(resource: Mapping[str, Any]) -> str:
        if "admin" in who.roles:
            return "admins"
        if ACTION.startswith("payments:") and not 9 <= NOON.astimezone(zone).hour < 17:  # noqa: PLR2004
            return "office-hours"
        permitted = ACTION in who.permissions.union(*(_ROLES.get(role, frozenset()) for role in who.roles))
        return "owner" if permitted and resource.get("owner") == who.subject else ""

    def call() -> None:
        if decide(RESOURCE) != rule:
            raise WrongAnswerError("another rule")

    return call


def _permission() -> Case:
    have = frozenset({"orders:*", "payments:create", "stock:read", "profile:read"})
    who = Principal(Kind.TOKEN, "alice", permissions=have)
    rule = check_permission("orders:read", "payments:create")
    scope = {"type": "http", "path": "/", "headers": [], "state": {"principal": who}}
    names = have | {"orders:read"}

    def floor() -> None:
        if not ("orders:read" in names and "payments:create" in names):
            raise WrongAnswerError("refused")

    def sdk() -> None:
        if rule.refusal(scope) is not None:
            raise WrongAnswerError("refused")

    return Case("permission, 2 of 4", {"floor": floor, "sdk": sdk})
