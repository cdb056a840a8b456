"""Which permission grants which."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity_sdk.authz import granted_by, grants, is_permission

NAME = st.text("abz09._-*?[]()+|^$\\ \n:", min_size=1, max_size=4)
NAMES = st.sampled_from(["orders", "read", "own", "payments"])
CONCRETE = st.lists(NAMES, min_size=1, max_size=4).map(":".join)
WILD = st.one_of(st.just("*"), CONCRETE, CONCRETE.map(lambda text: f"{text}:*"))
ANY = st.one_of(WILD, st.lists(NAME, max_size=4).map(":".join), st.text(max_size=8))


@pytest.mark.parametrize(
    ("granted", "required", "expected"),
    [
        ("*", "orders:read", True),
        ("*", "orders", True),
        ("orders:*", "orders:read", True),
        ("orders:*", "orders:read:own", True),
        ("orders:*", "orders", False),
        ("orders:*", "ordersx:read", False),
        ("orders:*", "payments:read", False),
        ("orders:read", "orders:read", True),
        ("orders:read", "orders:read:own", False),
        ("orders:read:*", "orders:read:own", True),
        ("orders:read:*", "orders:read", False),
        ("orders:read:own", "orders:read", False),
        ("Orders:read", "orders:read", False),
        # wildcards that are required: only the same or a wider one grants them
        ("orders:*", "orders:*", True),
        ("*", "orders:*", True),
        ("orders:*", "*", False),
        ("orders:*", "orders:read:*", True),
        ("orders:read:*", "orders:*", False),
        ("orders:read", "orders:*", False),
        # no permissions: they grant nothing, not even themselves
        ("*:read", "orders:read", False),
        ("ord*", "orders", False),
        ("orders:*:own", "orders:read:own", False),
        ("orders:*:own", "orders:*:own", False),
        ("orders:", "orders:", False),
        ("", "", False),
        (":*", ":read", False),
        ("**", "orders", False),
        ("*:*", "orders:read", False),
        ("orders:re.d", "orders:read", False),
        ("orders:[r]ead", "orders:read", False),
        (".*", "orders", False),
        ("*\n", "orders", False),
        ("orders:read\n", "orders:read", False),
        ("orders:read ", "orders:read", False),
        (None, "orders:read", False),
        (["*"], "orders:read", False),
    ],
)
def test_what_a_permission_grants(granted, required, expected):
    assert grants(granted, required) is expected


@given(ANY, ANY)
def test_without_a_wildcard_it_grants_itself_alone(granted, required):
    if "*" not in granted:
        assert grants(granted, required) == (granted == required and is_permission(granted))


@given(ANY, ANY)
def test_nothing_but_a_star_at_the_end_is_a_pattern(granted, required):
    """The rule once more, in other words: as a regular expression in which all but the last star is quoted."""
    if not is_permission(granted) or not is_permission(required):
        assert not grants(granted, required)
        return
    head = granted.removesuffix("*")
    pattern = re.escape(head) + (".+" if head != granted else "")
    assert grants(granted, required) == (re.fullmatch(pattern, required, re.DOTALL) is not None)


@given(WILD, WILD, WILD)
def test_granting_is_transitive(one, two, three):
    if grants(one, two) and grants(two, three):
        assert grants(one, three)


@given(WILD)
def test_the_star_grants_all_and_each_grants_itself(permission):
    assert grants("*", permission) and grants(permission, permission)


@given(st.sets(ANY, max_size=5), st.sets(ANY, max_size=5), ANY)
def test_more_permissions_never_grant_less(some, more, required):
    if granted_by(some, required):
        assert granted_by(some | more, required)
