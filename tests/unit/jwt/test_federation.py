"""Other trust domains' bundles: what is taken of them, and what is refused."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.jwt import documents, federation, jose
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.material import MalformedError
from serviceidentity.errors import InvalidSpecError
from tests.unit.domain.builders import TRUST, domain

KEY = {**jose.public_jwk(jose.make_key(Algorithm.ES256)[1]), "use": "jwt-svid"}
RSA = {**jose.public_jwk(jose.make_key(Algorithm.RS256)[1]), "use": "jwt-svid"}
PRIVATE = {**json.loads(jose.make_key(Algorithm.ES256)[1].reveal()), "use": "jwt-svid"}
ROOT = json.loads(documents.bundle(TRUST.roots, (), 1, 60))["keys"][0]
OURS = "example.org"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
MEMBERS = dict.fromkeys(
    ["kty", "kid", "x5c", "alg", "crv", "x", "y", "n", "e", "d"],
    JSON | st.sampled_from(["EC", "P-256", "ES256", "AQAB", ROOT["x5c"]]),
)
KEYLIKE = st.fixed_dictionaries({"use": st.sampled_from(["x509-svid", "jwt-svid"])}, optional=MEMBERS)


def document(*keys: Any, **more: Any) -> bytes:
    return json.dumps({"keys": list(keys), **more}).encode()


def read(*keys: Any, **more: Any) -> federation.ForeignBundle:
    return federation.read_bundle(document(*keys, **more), OURS)


def test_roots_and_keys_are_taken_and_published_in_three_forms():
    found = read(ROOT, KEY, RSA, spiffe_sequence=7, spiffe_refresh_hint=600)
    assert (found.roots, [key["kid"] for key in found.keys]) == (TRUST.roots, [KEY["kid"], RSA["kid"]])
    assert (found.sequence, found.refresh) == (7, timedelta(minutes=10))
    data = found.data("partner.example")
    assert data.keys() == {"partner.example.bundle.json", "partner.example.jwks.json", "partner.example.pem"}
    assert data["partner.example.pem"] == TRUST.bundle
    assert federation.read_bundle(data["partner.example.bundle.json"], OURS) == found
    published = documents.read_jwks(data["partner.example.jwks.json"])
    assert [key["kid"] for key in published] == [KEY["kid"], RSA["kid"]]


def test_what_is_not_understood_stays_behind():
    found = read({**KEY, "x-note": "hello", "x5u": "https://x"}, {"use": "encryption", "kty": "?"})
    assert found.keys == (KEY,)


@pytest.mark.parametrize(
    ("keys", "why"),
    [([PRIVATE], "private"), ([{**ROOT, "d": "c2VjcmV0"}], "exactly one"), ([{**ROOT, "x5c": []}], "exactly one"),
     ([{**ROOT, "x5c": ROOT["x5c"] * 2}], "exactly one"), ([{**ROOT, "x5c": ["junk"]}], "readable"),
     ([{**ROOT, "x5c": [None]}], "readable"), ([{**KEY, "kid": ""}], "no ID"), ([KEY, KEY], "same ID"),
     ([{**KEY, "alg": "HS256"}], "not accepted"), ([{"use": "jwt-svid", "kty": "oct", "k": "eA", "kid": "a"}], "private"),
     ([], "no keys"), (["text"], "JWK Set"), ([KEY] * 101, "more than")],
)  # fmt: skip
def test_a_bundle_with_anything_wrong_is_refused_as_a_whole(keys: list[Any], why: str):
    with pytest.raises(MalformedError, match=why):
        read(*keys)


@pytest.mark.parametrize(
    "more", [{"spiffe_sequence": -1}, {"spiffe_sequence": "7"}, {"spiffe_sequence": True}, {"spiffe_refresh_hint": 1.5}]
)
def test_numbers_are_numbers(more: dict[str, Any]):
    with pytest.raises(MalformedError, match="no number"):
        read(KEY, **more)


@pytest.mark.parametrize(("hint", "seconds"), [(None, 300), (0, 300), (1, 30), (60, 60), (10**18, 3600)])
def test_the_refresh_hint_is_kept_within_bounds(hint: int | None, seconds: int):
    assert read(KEY, spiffe_refresh_hint=hint).refresh == timedelta(seconds=seconds)


def test_a_lower_sequence_is_older_and_none_says_nothing():
    new, old, unknown = read(KEY, spiffe_sequence=8), read(KEY, spiffe_sequence=7), read(KEY)
    assert federation.is_older(old, new)
    others = ((new, old), (new, new), (unknown, new), (new, unknown), (old, None))
    assert not any(federation.is_older(*pair) for pair in others)


def test_a_document_that_is_too_long_is_not_even_parsed():
    with pytest.raises(MalformedError, match="longer"):
        federation.read_bundle(document(KEY) + b" " * federation.LONGEST_BUNDLE, OURS)


@given(
    st.binary()
    | JSON.map(lambda found: json.dumps(found).encode())
    | st.lists(KEYLIKE).map(lambda keys: document(*keys))
)
def test_any_document_is_a_bundle_or_malformed(text: bytes):
    try:
        federation.read_bundle(text, OURS)
    except MalformedError:
        pass


ENDPOINT = {"url": "https://partner.example/bundle"}
BAD_URLS = (
    "http://a",
    "https://",
    "https://u:p@a/",
    "https://a/#b",
    "https://a b",
    "https://a:0/",
    "https://a:x/",
    "file:///a",
    "https://[",
)


def test_peers_are_read_with_their_defaults():
    both = [
        {"trustDomain": "partner.example", "bundleEndpoint": ENDPOINT},
        {"trustDomain": "b", "configMapRef": {"name": "a"}},
    ]
    one, other = domain(federatesWith=both).peers
    assert (one.trust_domain, one.url, one.authorities) == ("partner.example", ENDPOINT["url"], None)
    assert other.config_map == ("a", "bundle.json")


@pytest.mark.parametrize(
    "peers",
    [[{"trustDomain": OURS, "bundleEndpoint": ENDPOINT}], [{"trustDomain": "a"}], [{"bundleEndpoint": ENDPOINT}],
     [{"trustDomain": "a/b", "bundleEndpoint": ENDPOINT}], [{"trustDomain": "a", "bundleEndpoint": ENDPOINT}] * 2,
     [{"trustDomain": "a", "bundleEndpoint": ENDPOINT, "configMapRef": {"name": "a"}}],
     *([{"trustDomain": "a", "bundleEndpoint": {"url": url}}] for url in BAD_URLS),
     [{"trustDomain": "a", "bundleEndpoint": {**ENDPOINT, "profile": "https_spiffe"}}]],
)  # fmt: skip
def test_nonsense_is_refused_with_its_path(peers: list[Any]):
    with pytest.raises(InvalidSpecError, match=r"spec\.federatesWith"):
        domain(federatesWith=peers)
