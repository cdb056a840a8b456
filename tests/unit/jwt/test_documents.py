"""Documents for verifiers: only public keys that verify, byte for byte the same for the same keys."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.jwt import documents, jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import MalformedError
from tests.unit.domain.builders import TRUST

KEYS = tuple(jose.public_jwk(jose.make_key(algorithm)[1]) for algorithm in (Algorithm.ES256, Algorithm.EDDSA))
PRIVATE = json.loads(jose.make_key(Algorithm.ES256)[1].reveal())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_discovery_names_the_issuer_its_keys_and_the_algorithms_of_these():
    found = json.loads(documents.discovery("https://id.example/shop", KEYS))
    assert (found["issuer"], found["jwks_uri"]) == ("https://id.example/shop", "https://id.example/shop/jwks.json")
    assert found["id_token_signing_alg_values_supported"] == ["ES256", "EdDSA"]
    assert found["response_types_supported"] == ["id_token"] and found["subject_types_supported"] == ["public"]
    assert {"iss", "sub", "aud", "exp", "permissions", "roles"} <= set(found["claims_supported"])


def test_the_issuer_is_the_one_of_the_spec_or_our_address():
    assert documents.issuer_of(None, "https://jwks.svc/", "shop") == "https://jwks.svc/shop"
    assert documents.issuer_of("https://id.example", "https://jwks.svc", "shop") == "https://id.example"


def test_a_bundle_has_roots_and_keys_of_tokens_each_with_its_use():
    found = json.loads(documents.bundle(TRUST.roots, KEYS, 7, 300))
    assert [key["use"] for key in found["keys"]] == ["x509-svid", "jwt-svid", "jwt-svid"]
    assert [key["kid"] for key in found["keys"][1:]] == [key["kid"] for key in KEYS]
    assert (found["spiffe_sequence"], found["spiffe_refresh_hint"]) == (7, 300)
    assert "spiffe_sequence" not in json.loads(documents.bundle(TRUST.roots, KEYS, None, 300))


def test_a_set_reads_back():
    assert documents.read_jwks(documents.jwks(KEYS)) == KEYS


@pytest.mark.parametrize(
    "key",
    [PRIVATE, {**KEYS[0], "use": "enc"}, {**KEYS[0], "alg": "HS256"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
     {name: value for name, value in KEYS[0].items() if name != "kid"}, {**KEYS[0], "crv": "P-384"}, "text", None],
)  # fmt: skip
def test_a_set_with_one_wrong_key_is_not_served_at_all(key: object):
    text = json.dumps({"keys": [*KEYS, key]}).encode()
    with pytest.raises(MalformedError) as refused:
        documents.read_jwks(text)
    assert str(PRIVATE["d"]) not in str(refused.value)


@given(
    st.binary()
    | JSON.map(lambda found: json.dumps(found).encode())
    | JSON.map(lambda found: json.dumps({"keys": found}).encode())
)
def test_whatever_is_in_a_config_map_is_a_set_or_malformed(text: bytes):
    try:
        documents.read_jwks(text)
    except MalformedError:
        pass


@pytest.mark.parametrize(("cache_time", "seconds"), [(1800, 300), (60, 60), (0, 1)])
def test_a_copy_lives_no_longer_than_a_key_is_published_before_its_use(cache_time: int, seconds: int):
    assert documents.max_age(timedelta(seconds=cache_time)) == seconds


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, False),
        ("", False),
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b"', False),
        ("*", True),
        ("a", False),
    ],
)
def test_entity_tags_are_compared_weakly(header: str | None, known: bool):
    assert documents.is_known('"a"', header) is known


def test_what_somebody_wrote_into_a_set_beside_the_keys_is_not_passed_on():
    key = jose.public_jwk(jose.make_key(Algorithm.ES256)[1])
    text = json.dumps({"keys": [{**key, "jku": "https://evil.example", "x5u": "https://evil.example"}]}).encode()
    assert documents.read_jwks(text) == (key,)
    with pytest.raises(MalformedError, match="longer than"):
        documents.read_jwks(json.dumps({"keys": [{**key, "note": "A" * documents.LONGEST_SET}]}).encode())
