"""Only what rules name is handed to CEL, and no decision is another one for it."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import cel
import cel.stdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.python.tests.policy.signing import bundle, key_set, make_key, policy, signed
from serviceidentity_sdk.policy import facts
from serviceidentity_sdk.policy.bundle import read_bundle
from serviceidentity_sdk.policy.facts import Facts
from serviceidentity_sdk.principal import Kind, Principal

KEY, JWKS = make_key()
NOW = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)
CLAIMS = {"tenant": "blue", "tags": ["a", "b"], "principal": "alice"}
ALICE = Principal(Kind.TOKEN, "alice", roles=frozenset({"customer"}), claims=CLAIMS)
ROLES = [{"name": "customer", "permissions": ["orders:read"]}]


def decide(expression, principal=ALICE, resource=None):
    text = signed(KEY, bundle(policy(("Allow", expression), zone="Europe/Berlin", roles=ROLES)))
    policies = read_bundle(text, key_set(JWKS), "shop/orders")
    return policies.decide(principal, "orders:read", resource or {}, now=NOW)


@pytest.mark.parametrize(
    "expression",
    [
        "principal.claims.tenant == 'blue'",
        "principal . claims . tenant == 'blue'",
        "principal\n  .claims\n  .tenant == 'blue'",
        "principal // the caller\n .claims.tenant == 'blue'",
        "principal['claims'].tenant == 'blue'",
        "principal['cl' + 'aims']['tenant'] == 'blue'",
        "has(principal.claims.tenant) && !has(principal.claims.nothing)",
        "has(principal.subject) && !has(principal.nothing)",
        "'claims' in principal && size(principal) == 7",
        "principal.exists(name, name == 'permitted')",
        "[principal].exists(p, p.claims.tenant == 'blue')",
        "principal == principal && principal.kind == 'token' && principal.spiffeID == ''",
        "principal.claims.principal == principal.subject",
        "principal.permitted && principal.permissions == ['orders:read'] && principal.roles == ['customer']",
        "'principal.kind' != '' && principal.claims.tags.exists(tag, tag == 'b')",
        "now.hours == 9 && now.minutes == 30 && now.weekday == 1 && now.date == '2026-01-05'",
        "now['timestamp'] == timestamp('2026-01-05T08:30:00Z')",
        "now.timestamp == timestamp('2026-01-05T08:30:00Z') && size(now) == 5",
        "'A'.lowerAscii() == 'a' && 'b-c'.split('-').join('+') == 'b+c'",
        "sets.contains(principal.claims.tags, ['a'])",
        "action == 'orders:read' && size(resource) + size(context) == 0",
    ],
)
def test_a_rule_sees_all_that_it_asks_for(expression):
    found = decide(expression)
    assert (found.allowed, found.reason) == (True, "rule r0")


FUNCTIONS = " ".join(name for library in ("strings", "sets") for name in cel.stdlib.EXTENSIONS[library])
EVERYTHING = Facts(ZoneInfo("UTC"), {}, ["principal == now"])


def handed_over(*sources):
    made = Facts(ZoneInfo("UTC"), {}, sources)
    asked = facts.Question(ALICE, "orders:read", {"owner": "alice"}, {}, NOW)
    found = made.context(asked).variables
    everything = EVERYTHING.context(asked).variables
    for name, value in found.items():
        assert value == everything[name] or value.items() <= everything[name].items()
    return {name: set(found.get(name, ())) for name in ("principal", "now")}, set(made.context(asked).functions)


def test_what_is_handed_over():
    assert handed_over("true") == ({"principal": set(), "now": set()}, set())
    members, functions = handed_over("'admin' in principal.roles", "now.hours < 9 && resource.owner.trim() != ''")
    assert members == {"principal": {"roles"}, "now": {"hours"}}
    assert functions == {"trim"}
    members, functions = handed_over("sets.contains([principal], [1])")
    assert len(members["principal"]) == 7
    assert functions == {"sets.contains"}


def test_a_claim_that_cel_cant_take_denies_whoever_looks_at_it():
    odd = Principal(Kind.TOKEN, "alice", claims={"x": 1 << 70, "y": object()})
    assert decide("principal.subject == 'alice'", odd).allowed
    for expression in ("!has(principal.claims.z)", "size(principal) == 7"):
        assert not decide(expression, odd).allowed
    assert not decide("true", ALICE, {"x": object()}).allowed


ATOMS = st.sampled_from(
    [
        "principal.claims.tenant == 'blue'",
        "principal['claims']['tenant'] == 'blue'",
        "principal.claims.tags.exists(now, now == 'b')",
        "principal.claims.nothing == 1",
        "principal.subject == 'bob'",
        "principal.permitted",
        "principal.nothing",
        "principal.exists(principal, principal == 'roles')",
        "[now].all(n, n.hours == 8)",
        "now . hours < 9",
        "now.timestamp.getHours() == 8",
        "size(now) == 5",
        "'principal'.upperAscii() == 'PRINCIPAL'",
        "nothing.at == all",
        "true",
    ]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        inner.map("!({})".format),
        st.tuples(inner, st.sampled_from(["&&", "||", "=="]), inner).map(lambda parts: "({}) {} ({})".format(*parts)),
    ),
    max_leaves=5,
)


def outcome(program, context):
    try:
        return program.execute(context)
    except Exception as error:  # noqa: BLE001  # whatever the library raises
        return type(error)


@given(EXPRESSIONS)
def test_what_is_left_out_changes_no_outcome(expression):
    program = cel.compile(expression)
    asked = facts.Question(ALICE, "orders:read", {}, {}, NOW)
    everything = Facts(ZoneInfo("UTC"), {}, [f"principal == now {FUNCTIONS}"])
    assert len(everything.context(asked).variables["principal"]) == 7
    some = Facts(ZoneInfo("UTC"), {}, [expression])
    assert outcome(program, some.context(asked)) == outcome(program, everything.context(asked))
