"""`spec.jwt`: every default is filled in, and what can't be done is said with the path of its field."""

from datetime import timedelta
from typing import Any

import pytest

from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.parse import jwt_spec, token_issuer
from serviceidentity.domain.jwt.spec import Subject
from serviceidentity.errors import InvalidSpecError

TOKEN = {"name": "pay", "audiences": ["payments"]}


def test_an_empty_block_is_a_key_with_defaults():
    spec = jwt_spec({}, "order-service")
    assert spec.key is not None
    assert (spec.key.secret_name, spec.key.config_map_name) == ("order-service-jwt", "order-service-jwks")
    assert spec.key.rotation.algorithm is Algorithm.ES256
    assert spec.key.rotation.rotate_every == timedelta(days=30)
    assert spec.key.rotation.lead == timedelta(minutes=32)
    assert spec.key.rotation.tail == timedelta(hours=1, minutes=2)
    assert spec.tokens == ()


def test_a_token_has_defaults_too():
    spec = jwt_spec({"signingKey": "None", "tokens": [TOKEN]}, "order-service")
    assert spec.key is None
    (token,) = spec.tokens
    assert (token.secret_name, token.lifetime) == ("order-service-pay-token", timedelta(minutes=15))
    assert (token.subject, token.permissions, token.roles) == (Subject.SERVICE, (), ())


def test_a_trust_domain_has_an_issuer_of_its_own_only_when_it_says_so():
    assert (token_issuer({}).asked_for, token_issuer({"jwt": {}}).asked_for) == (False, True)
    assert token_issuer({}).issuer is None
    assert token_issuer({}).longest_lifetime == timedelta(minutes=30)
    assert token_issuer({"jwt": {"issuer": "https://id.example:8443/a"}}).issuer == "https://id.example:8443/a"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"signingKey": "Maybe"}, "signingKey"),
        ({"signingKey": "None"}, "tokens"),
        ({"algorithm": "HS256"}, "algorithm"),
        ({"algorithm": "none"}, "algorithm"),
        ({"rotateEvery": "93m"}, "rotateEvery"),
        ({"rotateEvery": "0s"}, "rotateEvery"),
        ({"maxTokenTTL": "5s"}, "maxTokenTTL"),
        ({"maxTokenTTL": "9000h"}, "maxTokenTTL"),
        ({"cacheTime": "soon"}, "cacheTime"),
        ({"tokens": [TOKEN, TOKEN]}, "tokens"),
        ({"tokens": [TOKEN | {"name": f"t{n}"} for n in range(17)]}, "tokens"),
        ({"tokens": [TOKEN | {"name": "Pay"}]}, "name"),
        ({"tokens": [TOKEN | {"name": "a" * 41}]}, "name"),
        ({"tokens": [TOKEN | {"audiences": []}]}, "audiences"),
        ({"tokens": [TOKEN | {"audiences": ["a", "a"]}]}, "audiences"),
        ({"tokens": [TOKEN | {"audiences": ["a b"]}]}, "audiences"),
        ({"tokens": [TOKEN | {"permissions": ["é"]}]}, "permissions"),
        ({"tokens": [TOKEN | {"roles": ["a" * 257]}]}, "roles"),
        ({"tokens": [TOKEN | {"ttl": "9s"}]}, "ttl"),
        ({"tokens": [TOKEN | {"ttl": "25h"}]}, "ttl"),
        ({"tokens": [TOKEN | {"subject": "Me"}]}, "subject"),
    ],
)
def test_what_can_not_be_done_is_said_with_its_field(given: dict[str, Any], field: str):
    with pytest.raises(InvalidSpecError) as error:
        jwt_spec(given, "order-service")
    assert error.value.path.startswith("spec.jwt.")
    assert error.value.path.endswith(field)


@pytest.mark.parametrize(
    "issuer",
    ["http://a.example", "a.example", "https://", "https://a.example/", "https://a.example?x", "https://a.example#x",
     "https://me@a.example", "https://a.example:0", "https://a.example:99999", "https://a b.example", "https://é.example"],
)  # fmt: skip
def test_an_issuer_is_an_https_url(issuer):
    with pytest.raises(InvalidSpecError) as error:
        token_issuer({"jwt": {"issuer": issuer}})
    assert error.value.path == "spec.jwt.issuer"
