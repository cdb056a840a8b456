"""Who may have what: by default only its own names, otherwise what the policy says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain import parse
from serviceidentity.domain.model import identity_key
from serviceidentity.domain.policy.checks import Claim, check, check_tokens, spiffe_id_in_use
from serviceidentity.domain.policy.spec import Namespace
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import domain, identity, identity_body, trust_domain_body


def policy(**fields):
    return parse.trust_domain(trust_domain_body(policy=fields), CelCompiler())


def asks(name="order-service", namespace="shop", service_account=None, labels=None, **certificate):
    spec = {"certificate": certificate} | ({"serviceAccountName": service_account} if service_account else {})
    return parse.identity(identity_body(spec, name=name, namespace=namespace, labels=labels or {}))


def namespace(name="shop", annotations=None, **labels):
    return Namespace(name, labels, annotations or {})


def verdict(request, policies, space=None):
    found = check(request, policies, namespace() if space is None else space)
    return None if found is None else found.message


OWN = [
    "order-service",
    "order-service.shop",
    "order-service.shop.svc",
    "order-service.shop.svc.cluster.local",
    "order-service-0.order-service.shop.svc",
    "order-service-0.order-service.shop.svc.cluster.local",
    "*.order-service.shop.svc",
    "localhost",
]


def test_by_default_an_identity_has_its_own_names_and_the_loopback():
    request = asks(dnsNames=OWN, ipAddresses=["127.0.0.1", "::1"], commonName="order-service.shop.svc")
    assert check(request, domain(), None) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dnsNames", "payments"),
        ("dnsNames", "payments.shop.svc"),
        ("dnsNames", "order-service.billing"),
        ("dnsNames", "order-service.billing.svc"),
        ("dnsNames", "order-service-0.order-service"),  # in namespace order-service it is a service's name
        ("dnsNames", "*.shop.svc"),
        ("dnsNames", "*.svc.cluster.local"),
        ("dnsNames", "*"),
        ("dnsNames", "example.org"),
        ("ipAddresses", "10.0.0.1"),
        ("ipAddresses", "::ffff:127.0.0.1"),
        ("uris", "https://example.org/orders"),
        ("emailAddresses", "orders@example.org"),
        ("usages", "ocsp signing"),
        ("usages", "code signing"),
    ],
)
def test_by_default_it_has_nothing_else(field, value):
    message = verdict(asks(**{field: [value]}), domain())
    assert message.startswith(f'spec.certificate.{field}[0]: "{value}" is not allowed by TrustDomain default: {field}')


def test_the_message_says_which_of_several_and_what_would_be_allowed():
    message = verdict(asks(dnsNames=["order-service", "payments.shop"]), domain())
    assert message.startswith('spec.certificate.dnsNames[1]: "payments.shop" is not allowed')
    assert "(allowed: order-service, order-service.shop, order-service.shop.svc, " in message


def test_a_common_name_of_another_service_is_denied():
    assert verdict(asks(commonName="payments"), domain()).startswith('spec.certificate.commonName: "payments"')


LABEL = st.sampled_from(["a", "b", "a-b", "svc", "cluster", "local", "localhost", "shop"])
DOTTED = st.sampled_from(["a.b", "a.b.svc", "b.svc.cluster.local", "*", "a.*"])
WHO = st.tuples(LABEL, LABEL)


def names_of(name, namespace, pod):
    """Every name with a namespace in it by which a service, or a Pod behind it, is reached."""
    return [
        f"{name}.{namespace}",
        f"{name}.{namespace}.svc",
        f"{name}.{namespace}.svc.cluster.local",
        f"{pod}.{name}.{namespace}.svc",
        f"{pod}.{name}.{namespace}.svc.cluster.local",
    ]


@settings(max_examples=500)
@given(WHO, WHO, st.one_of(LABEL, DOTTED), st.one_of(LABEL, st.just("*")))
def test_nobody_gets_a_name_of_another(owner, other, account, pod):
    """Not from another namespace, nor from the same one, whatever its service account is called."""
    if owner == other:
        return
    thief = asks(name=other[0], namespace=other[1], service_account=account)
    for wanted in names_of(*owner, pod):
        for request in (
            asks(name=other[0], namespace=other[1], service_account=account, dnsNames=[wanted]),
            asks(name=other[0], namespace=other[1], service_account=account, commonName=wanted),
        ):
            assert check(request, domain(), None) is not None, (thief.key, wanted)


@settings(max_examples=300)
@given(DOTTED, LABEL, WHO, LABEL)
def test_an_identity_with_dots_in_its_name_gets_no_name_at_all(name, space, owner, pod):
    """The schema refuses it; if it were there all the same, it could not be taken for somebody else."""
    for wanted in [name, *names_of(*owner, pod)]:
        assert check(asks(name=name, namespace=space, dnsNames=[wanted], commonName="localhost"), domain(), None)


@given(WHO, WHO, LABEL, st.lists(LABEL, max_size=4))
def test_a_wildcard_covers_no_name_of_another(owner, other, pod, rest):
    """RFC 6125 6.4.3: it stands for any one label. Tried: whatever covers a name of the owner, and others."""
    if owner == other:
        return
    for wanted in [".".join(["*", *rest]), *("*." + name.partition(".")[2] for name in names_of(*owner, pod))]:
        if check(asks(name=other[0], namespace=other[1], dnsNames=[wanted]), domain(), None) is None:
            assert not [name for name in names_of(*owner, pod) if name.partition(".")[2] == wanted[2:]], wanted


@given(WHO, LABEL)
def test_everyone_gets_its_own(who, pod):
    assert check(asks(name=who[0], namespace=who[1], dnsNames=[who[0], *names_of(*who, pod)]), domain(), None) is None


def test_an_empty_list_allows_nothing():
    assert "(allowed: none)" in verdict(asks(dnsNames=["order-service"]), policy(dnsNames=[]))
    assert verdict(asks(), policy(dnsNames=[])) is None, "the common name is still its own"
    assert verdict(asks(), policy(commonNames=[])) is not None


def test_what_is_allowed_as_a_dns_name_is_allowed_as_the_common_name():
    widened = policy(dnsNames=["*.example.org"])
    assert verdict(asks(dnsNames=["a.example.org"], commonName="a.example.org"), widened) is None
    assert verdict(asks(dnsNames=["order-service.shop.svc"]), widened) is not None, "a list replaces the default"


@pytest.mark.parametrize(
    ("fields", "certificate", "allowed"),
    [
        ({"ipAddresses": ["10.0.0.0/8"]}, {"ipAddresses": ["10.255.0.1"]}, True),
        ({"ipAddresses": ["10.0.0.0/8"]}, {"ipAddresses": ["11.0.0.1"]}, False),
        ({"ipAddresses": ["10.0.0.0/8"]}, {"ipAddresses": ["127.0.0.1"]}, False),
        ({"uris": ["https://example.org/{namespace}/*"]}, {"uris": ["https://example.org/shop/a"]}, True),
        ({"uris": ["https://example.org/{namespace}/*"]}, {"uris": ["https://example.org/billing/a"]}, False),
        ({"emailAddresses": ["*@example.org"]}, {"emailAddresses": ["orders@example.org"]}, True),
        ({"emailAddresses": ["*@example.org"]}, {"emailAddresses": ["orders@example.com"]}, False),
        ({"usages": ["digital signature"]}, {"usages": ["digital signature"]}, True),
        ({"usages": ["digital signature"]}, {"usages": ["digital signature", "server auth"]}, False),
        ({"privateKeys": [{"algorithm": "RSA"}]}, {"privateKey": {"algorithm": "RSA", "size": 4096}}, True),
        ({"privateKeys": [{"algorithm": "RSA", "sizes": [2048]}]}, {"privateKey": {"algorithm": "RSA"}}, True),
        ({"privateKeys": [{"algorithm": "RSA", "sizes": [3072]}]}, {"privateKey": {"algorithm": "RSA"}}, False),
        ({"privateKeys": [{"algorithm": "RSA"}]}, {}, False),
        ({"privateKeys": [{"algorithm": "Ed25519"}]}, {"privateKey": {"algorithm": "Ed25519"}}, True),
        ({"privateKeys": []}, {}, False),
    ],
)
def test_a_field_of_the_policy(fields, certificate, allowed):
    assert (verdict(asks(**certificate), policy(**fields)) is None) is allowed


@pytest.mark.parametrize(
    ("namespaces", "name", "labels", "allowed"),
    [
        ({}, "shop", {}, True),
        ({"names": ["shop", "team-*"]}, "shop", {}, True),
        ({"names": ["shop", "team-*"]}, "team-a", {}, True),
        ({"names": ["shop", "team-*"]}, "team-", {}, False),
        ({"names": ["shop", "team-*"]}, "workshop", {}, False),
        ({"names": []}, "shop", {}, False),
        ({"selector": {}}, "shop", {}, True),
        ({"selector": {"matchLabels": {"issue": "yes"}}}, "shop", {"issue": "yes"}, True),
        ({"selector": {"matchLabels": {"issue": "yes"}}}, "shop", {"issue": "no"}, False),
        ({"names": ["shop"], "selector": {"matchLabels": {"issue": "yes"}}}, "shop", {}, False),
        ({"names": ["shop"], "selector": {"matchLabels": {"issue": "yes"}}}, "attic", {"issue": "yes"}, False),
    ],
)
def test_which_namespaces(namespaces, name, labels, allowed):
    found = check(asks(namespace=name), policy(namespaces=namespaces), namespace(name, **labels))
    assert (found is None) is allowed
    assert found is None or (found.whole and found.message.startswith(f'metadata.namespace: "{name}" is not allowed'))


def test_a_namespace_that_no_watch_told_of_is_not_judged_by_labels_that_nobody_knows():
    found = check(asks(), policy(namespaces={"selector": {"matchLabels": {"a": "b"}}}), None)
    assert found is not None and found.reason == "NamespaceNotSeen"
    assert check(asks(), policy(namespaces={"names": ["shop"]}), None) is None


TEAM = {"name": "team", "expression": "object.metadata.labels.team == namespaceObject.metadata.labels.team"}


def test_a_rule_sees_the_identity_and_its_namespace():
    rules = policy(rules=[TEAM | {"message": "must have the namespace's team"}])
    assert verdict(asks(labels={"team": "a"}), rules, namespace(team="a")) is None
    expected = "TrustDomain default, rule team: must have the namespace's team"
    assert verdict(asks(labels={"team": "b"}), rules, namespace(team="a")) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "object.apiVersion == 'serviceidentity.dev/v1alpha1' && object.kind == 'ServiceIdentity'",
        "object.metadata.name == 'order-service' && object.metadata.namespace == namespaceObject.metadata.name",
        "object.spec.certificate.dnsNames.all(n, n.startsWith('order'))",
        "!has(object.spec.hmac) && !has(object.metadata.annotations)",
        "namespaceObject.metadata.annotations['example.org/owner'] == 'me'",
    ],
)
def test_what_a_rule_sees_is_what_kubernetes_shows(expression):
    rules = policy(rules=[{"name": "x", "expression": expression, "message": "no"}])
    space = namespace(annotations={"example.org/owner": "me"})
    assert verdict(asks(dnsNames=["order-service"]), rules, space) is None


@pytest.mark.parametrize("expression", ["object.metadata.labels.team == 'a'", "1", "object.metadata.name + 1 == 'x'"])
def test_a_rule_that_can_not_be_evaluated_denies(expression):
    rules = policy(rules=[{"name": "x", "expression": expression, "message": "no"}])
    assert "rule x: it could not be evaluated, so nothing is issued: " in verdict(asks(), rules)


def test_a_rule_that_is_not_cel_makes_the_trust_domain_invalid_and_is_named():
    with pytest.raises(InvalidSpecError, match=r"spec\.policy\.rules\[0\]\.expression: rule team: .* line 1, column 1"):
        policy(rules=[{"name": "team", "expression": "=", "message": "no"}])


def test_rules_are_not_hidden_behind_a_name_because_they_hold_up_more():
    rules = policy(rules=[{"name": "x", "expression": "false", "message": "no"}])
    found = check(asks(dnsNames=["elsewhere"]), rules, namespace())
    assert found is not None and found.whole


def test_an_identity_without_a_certificate_is_only_asked_who_it_is():
    assert check(identity({"hmac": {}}), policy(dnsNames=[], commonNames=[]), None) is None
    assert check(identity({"hmac": {}}), policy(namespaces={"names": []}), None) is not None


@given(
    st.text(max_size=30), st.sampled_from(["dnsNames", "ipAddresses", "uris", "emailAddresses", "usages", "commonName"])
)
def test_whatever_is_asked_for_gets_an_answer(value, field):
    widest = policy(
        dnsNames=["**.example", "{name}*"],
        uris=["https://**"],
        emailAddresses=["*@**"],
        ipAddresses=["::/0", "0.0.0.0/0"],
    )
    value = value or "x"
    for policies in (domain(), widest):
        found = check(
            asks(service_account=value, **{field: value if field == "commonName" else [value]}), policies, None
        )
        assert found is None or found.message


def claim(name, issued=False, created="2026-01-01T00:00:00Z"):
    return Claim(identity_key("shop", name), issued, created)


@pytest.mark.parametrize(
    ("claims", "holder"),
    [
        ([claim("a", created="2026-01-02T00:00:00Z"), claim("b")], "b"),
        ([claim("a"), claim("b")], "a"),
        ([claim("a"), claim("b", issued=True, created="2026-01-02T00:00:00Z")], "b"),
        ([claim("a", issued=True), claim("b", issued=True)], "a"),
    ],
)
def test_one_spiffe_id_has_one_holder(claims, holder):
    for who in ("a", "b"):
        found = spiffe_id_in_use(claims, asks(name=who, service_account="orders"), domain())
        assert (found is None) is (who == holder)
        assert found is None or found.message == (
            f"spec.serviceAccountName: spiffe://example.org/ns/shop/sa/orders belongs to ServiceIdentity {holder}"
        )


def asks_for_token(**token):
    entry = {"name": "payments", "audiences": ["payment-service"]} | token
    return parse.identity(identity_body({"jwt": {"signingKey": "None", "tokens": [entry]}}))


def token_verdicts(request, policies):
    return [(denial.credential, denial.message) for denial in check_tokens(request, policies)]


def test_by_default_a_token_is_for_any_audience():
    assert check_tokens(asks_for_token(audiences=["a", "https://example.org/b"]), domain()) == ()


@pytest.mark.parametrize("field", ["permissions", "roles"])
def test_by_default_a_token_gives_no_rights(field):
    ((credential, message),) = token_verdicts(asks_for_token(**{field: ["admin"]}), domain())
    assert credential == "token.payments"
    assert message == (
        f'spec.jwt.tokens[0].{field}[0]: "admin" is not allowed by TrustDomain default: spec.policy.tokens.{field} '
        "(allowed: none)"
    )


@pytest.mark.parametrize(
    ("tokens", "asked", "field"),
    [
        ({"audiences": []}, {}, "audiences"),
        ({"audiences": ["stock-*"]}, {}, "audiences"),
        ({"permissions": ["{name}:*"]}, {"permissions": ["order-service:read", "payments:read"]}, "permissions"),
        ({"permissions": ["**"]}, {"roles": ["clerk"]}, "roles"),
        ({"roles": ["**"]}, {"permissions": ["orders:read"]}, "permissions"),
    ],
)
def test_a_claim_outside_of_the_lists_is_denied(tokens, asked, field):
    ((_, message),) = token_verdicts(asks_for_token(**asked), policy(tokens=tokens))
    assert f"spec.policy.tokens.{field} (allowed: " in message


def test_claims_within_the_lists_are_allowed():
    lists = {"audiences": ["payment-*"], "permissions": ["{name}:*"], "roles": ["{namespace}/clerk"]}
    asked = {"permissions": ["order-service:read"], "roles": ["shop/clerk"]}
    assert check_tokens(asks_for_token(**asked), policy(tokens=lists)) == ()


@pytest.mark.parametrize(
    ("ttl", "jwt", "allowed"),
    [
        ("30m", None, None),
        ("31m", None, "30m"),
        ("1h", {"maxTokenTTL": "1h"}, None),
        ("10m", {"maxTokenTTL": "5m"}, "5m"),
    ],
)
def test_a_token_that_is_to_live_too_long_is_denied_and_not_cut_short(ttl, jwt, allowed):
    found = token_verdicts(asks_for_token(ttl=ttl), domain(**({"jwt": jwt} if jwt else {})))
    said = "is not allowed by TrustDomain default: spec.jwt.maxTokenTTL (allowed: up to"
    assert [message for _, message in found] == (
        [f"spec.jwt.tokens[0].ttl: {ttl} {said} {allowed})"] if allowed else []
    )


@pytest.mark.parametrize(
    ("tokens", "path"),
    [
        ({"permissions": ["a:**:b"]}, "spec.policy.tokens.permissions[0]"),
        ({"roles": ["a", "{namespace}-{name}"]}, "spec.policy.tokens.roles[1]"),
        ({"audiences": [""]}, "spec.policy.tokens.audiences[0]"),
        ({"audiences": "a"}, "spec.policy.tokens.audiences"),
    ],
)
def test_a_pattern_of_claims_that_is_none_is_told_with_its_place(tokens, path):
    with pytest.raises(InvalidSpecError) as caught:
        policy(tokens=tokens)
    assert caught.value.path == path


def test_a_rule_sees_the_tokens():
    rule = {"name": "short", "expression": "object.spec.jwt.tokens.all(t, t.name != 'payments')", "message": "no"}
    found = check(asks_for_token(), policy(rules=[rule]), namespace())
    assert found.whole and found.concerns("token.payments")


@given(st.lists(st.from_regex(r"\A[a-z:./*{}]{1,12}\Z"), max_size=3), st.from_regex(r"\A[a-z:./*]{1,12}\Z"))
def test_a_claim_that_no_pattern_is_about_is_never_allowed(patterns, claim):
    """What is literal in a pattern is in whatever it allows."""
    try:
        found = policy(tokens={"roles": patterns})
    except InvalidSpecError:
        return
    if check_tokens(asks_for_token(roles=[claim]), found) == ():
        assert any(all(piece in claim for piece in text.split("*") if "{" not in piece) for text in patterns)
