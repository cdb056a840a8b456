"""The example that people copy does what its comments say."""

from pathlib import Path

import pytest
import yaml

from serviceidentity.adapters.cel import CelCompiler
from serviceidentity.domain import parse
from serviceidentity.domain.policy.checks import check
from serviceidentity.domain.policy.spec import Namespace
from tests.unit.domain.builders import identity_body

EXAMPLE = Path(__file__).parents[3] / "examples" / "policy" / "trust-domain.yaml"
SPACE = Namespace("shop", {"team": "a", "shop.example/identities": "allowed"}, {})


def denial(space=SPACE, labels=None, spec=None, **certificate):
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"] |= {"uid": "u"}
    asked = identity_body(
        spec or {"certificate": certificate}, namespace=space.name, labels={"team": "a"} if labels is None else labels
    )
    found = check(parse.identity(asked), parse.trust_domain(body, CelCompiler()), space)
    return found.message if found else None


def test_it_allows_what_a_service_needs():
    assert denial(dnsNames=["order-service.shop.svc", "order-service.shop.apps.shop.example"]) is None
    assert denial(spec={"hmac": {}}) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"labels": {}}, "rule team: label the identity"),
        ({"labels": {"team": "b"}}, "rule team: label the identity"),
        ({"dnsNames": ["*.order-service.shop.svc"]}, "rule no-wildcards: ask for each"),
        ({"subject": {"organizations": ["Example"]}}, "rule no-subject: subject fields"),
        ({"privateKey": {"algorithm": "Ed25519"}}, "spec.certificate.privateKey: Ed25519 is not allowed"),
        ({"dnsNames": ["order-service.billing.svc"]}, 'dnsNames[0]: "order-service.billing.svc"'),
        ({"space": Namespace("shop", {"team": "a"}, {})}, "namespaces.selector"),
        ({"space": Namespace("billing", SPACE.labels, {})}, "namespaces.names"),
    ],
)
def test_it_denies_what_it_says(asked, said):
    assert said in denial(**asked)
