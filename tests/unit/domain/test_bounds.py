"""What is too much is refused before any of it is compiled: an object must not hold up all others."""

import pytest

from serviceidentity.domain import parse
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.vault.parse import MOST_TEMPLATES
from serviceidentity.errors import InvalidSpecError
from tests.unit.access.builders import access_policy_body
from tests.unit.domain.builders import identity_body


def never(_text):
    raise AssertionError("it was compiled")


class Template:
    pass


def read(*lengths, compile_template):
    secrets = [
        {"name": f"s{at}", "kv": {"path": "p"}, "templates": {"A": "x" * length}} for at, length in enumerate(lengths)
    ]
    return parse.identity(identity_body({"vault": {"secrets": secrets}}), compile_template)


def test_templates_of_an_identity_are_bounded_together():
    half = MOST_TEMPLATES // 2
    assert read(half, half, compile_template=lambda _text: Template()).vault
    with pytest.raises(
        InvalidSpecError, match=r"spec\.vault\.secrets: must have at most 32768 characters of templates"
    ):
        read(half, half + 1, compile_template=never)


def test_rules_of_a_policy_are_counted_before_they_are_compiled():
    rules = [{"name": f"r{at}", "effect": "Allow", "expression": "true"} for at in range(65)]
    with pytest.raises(InvalidSpecError, match=r"spec: must have at most 64 rules and 64 roles"):
        access_policy(access_policy_body(rules=rules), never)
