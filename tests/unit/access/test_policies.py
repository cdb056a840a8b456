"""AccessPolicies as they are written: what is understood, what is refused and where, and what services get of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain.access.bundle import LARGEST, TooLargeError, bundle_of, canonical, part_of
from serviceidentity.domain.access.parse import access_policy
from serviceidentity.domain.access.permissions import granted_by, grants, is_permission
from serviceidentity.domain.access.spec import VARIABLES, Effect
from serviceidentity.domain.model import Meta, identity_key
from serviceidentity.errors import InvalidSpecError
from tests.unit.access.builders import access_policy_body

RULE = {"name": "r", "effect": "Allow", "expression": "true"}
SERVICE = identity_key("shop", "order-service")


def read(**spec):
    return access_policy(access_policy_body(**spec), CelCompiler(VARIABLES))


def test_defaults():
    found = read()
    assert found.rules.zone.key == "UTC"
    assert found.rules.name == "payments"
    assert found.rules.rules[0].effect is Effect.ALLOW
    assert found.rules.rules[0].reason == ""


def test_services_by_name_and_by_label():
    def meta(name, **labels):
        return Meta("shop", name, "u", 1, labels=labels)

    named = read()
    assert named.selects(meta("order-service"))
    assert not named.selects(meta("other", app="x"))
    both = read(selector={"matchLabels": {"app": "x"}})
    assert both.selects(meta("order-service"))
    assert both.selects(meta("other", app="x"))
    assert not both.selects(meta("other", app="y"))
    assert read(services=[], selector={}).selects(meta("anyone"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"services": []}, "spec: must have services, a selector or both"),
        ({"services": [{}]}, "spec.services[0].name: must be a non-empty text"),
        ({"services": [{"name": "a"}, {"name": "a"}]}, "spec.services[1].name: must not be the name of another one"),
        ({"timeZone": "Mars/Olympus"}, "spec.timeZone: must be the name of a time zone"),
        ({"timeZone": "../etc/passwd"}, "spec.timeZone: must be the name of a time zone"),
        ({"timeZone": "Europe"}, "spec.timeZone: must be the name of a time zone"),
        ({"timeZone": 1}, "spec.timeZone: must be a non-empty text"),
        ({"roles": [{"name": "a", "permissions": ["ord*"]}]}, "spec.roles[0].permissions[0]: must be such as"),
        ({"roles": [{"name": "a b"}]}, "spec.roles[0].name: must be ASCII characters without spaces"),
        ({"roles": [{"name": "a"}, {"name": "a"}]}, "spec.roles[1].name: must not be the name of another one too"),
        ({"rules": []}, "spec.rules: must have a rule"),
        ({"rules": [RULE, RULE]}, "spec.rules[1].name: must not be the name of another one too"),
        ({"rules": [RULE | {"name": "A"}]}, "spec.rules[0].name: must be lower-case letters, digits and dashes"),
        ({"rules": [RULE | {"effect": "allow"}]}, "spec.rules[0].effect: must be one of Allow, Deny, Continue"),
        ({"rules": [RULE | {"expression": ""}]}, "spec.rules[0].expression: must be a non-empty text"),
        ({"rules": [RULE | {"expression": "a =="}]}, "spec.rules[0].expression: rule r: the expression is not CEL"),
        (
            {"rules": [RULE | {"expression": "object.spec"}]},
            "rule r: there is no variable object, only principal, action, resource, context and now",
        ),
        ({"rules": [RULE | {"name": f"r{i}"} for i in range(65)]}, "spec: must have at most 64 rules and 64 roles"),
    ],
)
def test_what_is_refused(spec, said):
    with pytest.raises(InvalidSpecError) as error:
        read(**spec)
    assert said in str(error.value)


def test_bundle_is_the_same_for_the_same_rules():
    one, two = part_of(read().rules), part_of(access_policy(access_policy_body("a"), CelCompiler(VARIABLES)).rules)
    bundle = bundle_of(SERVICE, [one, two])
    assert bundle == bundle_of(SERVICE, [two, one])
    assert [policy["name"] for policy in bundle["policies"]] == ["a", "payments"]
    assert bundle["service"] == {"namespace": "shop", "name": "order-service"}
    assert json.loads(canonical(bundle)) == bundle
    assert bundle["digest"] != bundle_of(SERVICE, [one])["digest"]
    assert bundle["digest"] != bundle_of(identity_key("shop", "other"), [one, two])["digest"]


def test_bundle_says_what_decides():
    part = part_of(read(timeZone="Europe/Berlin", rules=[RULE | {"reason": "because"}]).rules)
    assert part == {
        "name": "payments",
        "timeZone": "Europe/Berlin",
        "roles": [{"name": "admin", "permissions": ["*"]}],
        "rules": [{"name": "r", "effect": "Allow", "expression": "true", "reason": "because"}],
    }


def test_bundle_that_no_config_map_holds():
    part = part_of(read(rules=[RULE | {"reason": "x" * LARGEST}]).rules)
    with pytest.raises(TooLargeError):
        bundle_of(SERVICE, [part])


@pytest.mark.parametrize(
    ("granted", "required", "yes"),
    [
        ("*", "orders:read", True),
        ("orders:*", "orders:read", True),
        ("orders:*", "orders:read:own", True),
        ("orders:*", "orders", False),
        ("orders:*", "orders2:read", False),
        ("orders:read", "orders:read", True),
        ("orders:read", "orders:read:own", False),
        ("orders:read", "Orders:read", False),
        ("ord*", "orders", False),
        ("*:read", "orders:read", False),
        ("orders:read", "orders:*", False),
        ("orders:*", "orders:*", True),
        ("", "", False),
    ],
)
def test_wildcards(granted, required, yes):
    assert grants(granted, required) is yes
    assert granted_by(["x", granted], required) is yes


@given(st.text(), st.text())
def test_what_is_no_permission_grants_nothing(granted, required):
    if not is_permission(granted) or not is_permission(required):
        assert not grants(granted, required)
    else:
        assert grants("*", required)
