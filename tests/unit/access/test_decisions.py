"""What rules decide: the cases that the SDK is tested with as well, and what holds whatever the rules say."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain.access.evaluate import NO_MATCH, Principal, Question, evaluate
from serviceidentity.domain.access.parse import rules_of
from serviceidentity.domain.access.permissions import granted_by
from serviceidentity.domain.access.spec import VARIABLES
from serviceidentity.domain.schedule import parse_time

CASES = json.loads((Path(__file__).parent / "decisions.json").read_text())
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def principal_of(given_):
    if given_ is None:
        return None
    return Principal(
        given_["subject"],
        given_["kind"],
        given_["spiffeID"],
        frozenset(given_["roles"]),
        frozenset(given_["permissions"]),
        given_["claims"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_decision(case):
    compile_rule = CelCompiler(VARIABLES)
    policies = [rules_of(one, one["name"], compile_rule) for one in case["policies"]]
    question = Question(principal_of(case["principal"]), case["action"], case["resource"], case["context"])
    found = evaluate(policies, question, parse_time(case["now"]))
    assert {
        "allowed": found.allowed,
        "reason": found.reason,
        "policy": found.policy,
        "rule": found.rule,
        "continued": list(found.continued),
    } == case["expect"]


def policy(name, *rules, **spec):
    written = [{"name": f"r{i}", "effect": effect, "expression": text} for i, (effect, text) in enumerate(rules)]
    return rules_of({"rules": written} | spec, name, CelCompiler(VARIABLES))


RULE = st.tuples(st.sampled_from(["Allow", "Deny", "Continue"]), st.sampled_from(["true", "false", "resource.x"]))


@given(st.lists(st.lists(RULE, min_size=1, max_size=4), max_size=3), st.randoms())
def test_order_of_policies_means_nothing_and_only_a_true_allow_allows(given_, random):
    policies = [policy(f"p{i}", *rules) for i, rules in enumerate(given_)]
    shuffled = random.sample(policies, len(policies))
    question = Question(Principal("alice"), "orders:read")
    found, other = evaluate(policies, question, NOW), evaluate(shuffled, question, NOW)
    assert found.allowed is other.allowed
    if found.allowed:
        assert any(("Allow", "true") in rules for rules in given_)
        assert all(first_that_decides(rules) != "Deny" for rules in given_)
    if not given_:
        assert found.reason == NO_MATCH


def first_that_decides(rules):
    for effect, text in rules:
        if text == "resource.x":
            return "Deny"
        if text == "true" and effect != "Continue":
            return effect
    return None


@given(st.text(), st.frozensets(st.text(), max_size=5), st.frozensets(st.text(), max_size=5))
def test_any_text_is_an_answer(action, roles, permissions):
    rules = policy("p", ("Allow", "principal.permitted"))
    found = evaluate([rules], Question(Principal("a", roles=roles, permissions=permissions), action), NOW)
    assert found.allowed is granted_by(permissions, action)


def test_who_is_not_known_is_not_asked_about():
    rules = policy("p", ("Allow", "true"))
    question = Question(Principal("alice"), "a")
    assert evaluate([rules], question, NOW).allowed
    assert not evaluate([rules], replace(question, principal=None), NOW).allowed
