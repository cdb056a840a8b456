"""What a pattern stands for, and that it stands for nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.policy.patterns import ClaimPattern, EmailPattern, Glob, LabelPattern, UriPattern

MINE = {"namespace": "shop", "name": "order-service", "serviceAccount": "orders"}
DOTTED = MINE | {"serviceAccount": "payments.shop"}
READERS = {"dns": LabelPattern, "uri": UriPattern, "email": EmailPattern, "claim": ClaimPattern}


@pytest.mark.parametrize(
    ("kind", "pattern", "name"),
    [
        ("dns", "order-service", "order-service"),
        ("dns", "{name}.{namespace}.svc", "order-service.shop.svc"),
        ("dns", "*.example.org", "a.example.org"),
        ("dns", "*.example.org", "*.example.org"),
        ("dns", "api-*.example.org", "api-1.example.org"),
        ("dns", "*-{name}-*.example.org", "eu-order-service-1.example.org"),
        ("dns", "**.example.org", "a.b.c.example.org"),
        ("dns", "**", "anything.at.all"),
        ("uri", "https://example.org/{namespace}/*", "https://example.org/shop/a.b-c_d~e"),
        ("uri", "https://*.example.org:8443/", "https://a.example.org:8443/"),
        ("uri", "https://{namespace}.example.org", "https://shop.example.org"),
        ("uri", "https://example.org/**", "https://example.org/a/b/c"),
        ("uri", "https://example.org/a?version=*", "https://example.org/a?version=2"),
        ("uri", "urn:example:{name}", "urn:example:order-service"),
        ("email", "{name}@{namespace}.example.org", "order-service@shop.example.org"),
        ("email", "*@example.org", "first.last@example.org"),
        ("claim", "orders:read", "orders:read"),
        ("claim", "orders:*", "orders:read"),
        ("claim", "{name}:*", "order-service:read"),
        ("claim", "{namespace}/{name}", "shop/order-service"),
        ("claim", "orders:**", "orders:read/all.now"),
        ("claim", "https://*.{namespace}.example.org/**", "https://pay.shop.example.org/a/b"),
        ("claim", "**", "https://anything.example/at-all"),
        ("claim", "https://example.org/**", "https://example.org/a/"),
        ("claim", "*", "clerk"),
    ],
)
def test_a_name_that_the_pattern_stands_for(kind, pattern, name):
    assert READERS[kind].of(pattern).matches(name, MINE)


@pytest.mark.parametrize(
    ("kind", "pattern", "name"),
    [
        ("dns", "order-service", "order-service.shop"),
        ("claim", "*", "orders:read"),
        ("claim", "orders:*", "orders"),
        ("claim", "orders:*", "orders:"),
        ("claim", "orders:*", "orders.read"),
        ("claim", "orders:*", "orders:read:all"),
        ("claim", "orders:**", "orders"),
        ("claim", "orders:**", "orders:"),
        ("claim", "orders:**", "stock:read"),
        ("claim", "{name}:*", "payments:read"),
        ("claim", "https://*.example.org", "https://evil.example/.example.org"),
        ("claim", "Admin", "admin"),
        ("dns", "*.example.org", "example.org"),
        ("dns", "*.example.org", "a.b.example.org"),
        ("dns", "*.example.org", ".example.org"),
        ("dns", "api-*.example.org", "*.example.org"),
        ("dns", "api-*.example.org", "api-.example.org"),
        ("dns", "api-*.example.org", "api-a.b.example.org"),
        ("dns", "**.example.org", "example.org"),
        ("dns", "**.example.org", "a..example.org"),
        ("dns", "example.org", "example.org."),
        ("dns", "example.org", "exampleXorg"),
        ("uri", "https://example.org/*", "https://example.org/"),
        ("uri", "https://example.org/*", "https://example.org/a/b"),
        ("uri", "https://example.org/*", "https://example.org/a?b"),
        ("uri", "https://example.org/*", "https://example.org/a#b"),
        ("uri", "https://example.org/*", "https://example.org/%2e%2e"),
        ("uri", "https://example.org/*/b", "https://example.org/../b"),
        ("uri", "https://example.org/**", "https://example.org/a/../b"),
        ("uri", "https://example.org/**", "https://example.org/a//b"),
        ("uri", "https://*.example.org/a", "https://evil.test?.example.org/a"),
        ("uri", "https://*.example.org/a", "https://evil.test#.example.org/a"),
        ("uri", "https://*.example.org/a", "https://user@a.example.org/a"),
        ("uri", "https://**.example.org/a", "https://evil.test?x.a.example.org/a"),
        ("uri", "https://*.example.org/a", "https://a.b.example.org/a"),
        ("uri", "https://example.org/a", "http://example.org/a"),
        ("uri", "https://example.org/a", "https:/example.org/a"),
        ("uri", "https:/**", "https://example.org"),
        ("uri", "urn:example:*", "urn:example:a:b"),
        ("email", "{name}@example.org", "other@example.org"),
        ("email", "*@example.org", "a@evil.test@example.org"),
        ("email", "*@*.example.org", "a@example.org"),
    ],
)
def test_a_name_that_it_does_not_stand_for(kind, pattern, name):
    assert not READERS[kind].of(pattern).matches(name, MINE)


@pytest.mark.parametrize(
    ("kind", "pattern", "name"),
    [
        ("dns", "{serviceAccount}", "payments.shop"),
        ("dns", "{serviceAccount}.svc", "payments.shop.svc"),
        ("dns", "**.{serviceAccount}", "a.payments.shop"),
        ("dns", "*{serviceAccount}", "apayments.shop"),
        ("uri", "https://{serviceAccount}/a", "https://payments.shop/a"),
        ("email", "a@{serviceAccount}.example.org", "a@payments.shop.example.org"),
        ("email", "{serviceAccount}@example.org", "payments.shop@example.org"),
    ],
)
def test_a_service_account_with_dots_is_no_label(kind, pattern, name):
    assert not READERS[kind].of(pattern).matches(name, DOTTED)


def test_a_service_account_with_dots_is_a_segment_of_a_path():
    pattern = UriPattern.of("https://example.org/{namespace}/{serviceAccount}")
    assert pattern.matches("https://example.org/shop/payments.shop", DOTTED)


@pytest.mark.parametrize("value", ["*", "a*", "..", "", "A", "-a", "a" * 64, "a/b", "{name}"])
@pytest.mark.parametrize("pattern", ["{name}", "x{name}*"])
def test_a_value_that_is_no_label_stands_for_nothing(value, pattern):
    values = MINE | {"name": value}
    for name in ("a", value, "x" + value, "x" + value + "y", "xay"):
        assert not LabelPattern.of(pattern).matches(name, values)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("dns", ""),
        ("dns", "a..b"),
        ("dns", "a.**"),
        ("dns", "a**.b"),
        ("dns", "***"),
        ("dns", "{pod}.a"),
        ("dns", "{name"),
        ("dns", "{name}-{namespace}.a"),
        ("uri", "example.org/a"),
        ("uri", "https*://example.org"),
        ("uri", "{name}://example.org"),
        ("uri", "https://example.org/**/a"),
        ("uri", "https://example.org/{name}.{namespace}"),
        ("uri", "https://{name}{namespace}/"),
        ("email", "example.org"),
        ("email", "a@b@example.org"),
        ("email", "@example.org"),
        ("email", "{name}.{namespace}@example.org"),
    ],
)
def test_what_is_no_pattern(kind, pattern):
    with pytest.raises(ValueError, match=r".+"):
        READERS[kind].of(pattern)


@given(st.text("ab*-", min_size=1, max_size=12).filter(lambda t: "**" not in t), st.text("ab-", max_size=14))
def test_an_asterisk_is_one_or_more_characters(pattern, text):
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".+"), text) is not None
    assert Glob.of(pattern).matches(text, {}) is expected


def test_a_match_is_never_tried_again():
    """An expression with as many wildcards would take longer than the universe has existed."""
    assert not Glob.of("a*" * 2000 + "b").matches("a" * 5000, {})


VALUE = st.sampled_from(["a", "b", "a-b", "svc", "a.b", "b.svc", "local", "example", "org"])
TEMPLATES = st.sampled_from(
    [
        "{name}.{namespace}.example.org",
        "*.{namespace}.example.org",
        "**.{namespace}.example.org",
        "{serviceAccount}.{namespace}",
        "x-{name}.{namespace}.svc",
        "{namespace}.{serviceAccount}.svc",
        "{serviceAccount}.{name}.{namespace}.svc",
    ]
)


@given(
    TEMPLATES,
    st.fixed_dictionaries({"namespace": VALUE.filter(lambda v: "." not in v), "name": VALUE, "serviceAccount": VALUE}),
    st.fixed_dictionaries({"namespace": VALUE.filter(lambda v: "." not in v), "name": VALUE, "serviceAccount": VALUE}),
    VALUE,
)
def test_a_pattern_with_the_namespace_as_a_label_keeps_namespaces_apart(template, one, other, wild):
    pattern = LabelPattern.of(template)
    name = template.replace("**", wild).replace("*", wild)
    for placeholder, value in one.items():
        name = name.replace(f"{{{placeholder}}}", value)
    if pattern.matches(name, one) and one["namespace"] != other["namespace"]:
        assert not pattern.matches(name, other)
