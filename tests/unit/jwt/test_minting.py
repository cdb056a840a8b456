"""What a token says, that others verify it, and that what is no token of ours is not read as one."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as other_jwt
from joserfc.jwk import KeySet

from serviceidentity.domain.jwt import jose, tokens
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.ring import jwks
from serviceidentity.domain.jwt.spec import Subject, TokenSpec
from serviceidentity.domain.material import KeyMaterial, MalformedError
from tests.unit.domain.builders import T0, identity
from tests.unit.jwt.issuers import ISSUER, RING, asking, part, ring, token_issuer

SPEC = TokenSpec("payments", "order-service-payments-token", ("payment-service",))
IDENTITY = identity(asking())
AT = int(T0.timestamp())
SECONDS = st.integers(min_value=10, max_value=24 * 3600)
SHORTEST_SECONDS = (
    12  # a mount that is a sixth late and a token of whole seconds: with less there is no second to spare
)


def mint(spec=SPEC, issuer=None, now=T0, token_id="7d"):
    return tokens.mint(spec, IDENTITY, issuer or token_issuer(), token_id, now)


def spec(**changes):
    return TokenSpec("payments", "s", **{"audiences": ("payment-service",)} | changes)


def test_the_claims_of_a_token():
    assert part(mint().reveal().decode(), 1) == {
        "iss": ISSUER,
        "sub": "shop/order-service",
        "aud": "payment-service",
        "exp": AT + 900,
        "nbf": AT - 30,
        "iat": AT,
        "jti": "7d",
    }


def test_the_header_names_the_key_that_verifies_it():
    header = part(mint().reveal().decode(), 0)
    assert header == {"alg": "ES256", "typ": "JWT", "kid": RING.active.key_id}


def test_several_audiences_are_a_list_and_rights_are_there_when_asked_for():
    asked = spec(audiences=("a", "b"), permissions=("orders:read",), roles=("clerk",), subject=Subject.SPIFFE_ID)
    claims = part(mint(asked).reveal().decode(), 1)
    assert (claims["aud"], claims["permissions"], claims["roles"]) == (["a", "b"], ["orders:read"], ["clerk"])
    assert claims["sub"] == "spiffe://example.org/ns/shop/sa/order-service"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_published_set_verifies_a_token_of_every_algorithm(algorithm):
    keys = ring(algorithm=algorithm)
    text = mint(issuer=token_issuer(keys)).reveal().decode()
    public = KeySet.import_key_set(json.loads(jwks(keys)))
    verified = other_jwt.decode(text, public, algorithms=[algorithm.value])
    assert verified.claims["sub"] == "shop/order-service"
    assert tokens.is_signed_by(keys, tokens.read(KeyMaterial(text.encode())))


@given(lifetime=SECONDS, permissions=st.sets(st.from_regex(r"\A[!-~]{1,40}\Z"), max_size=4))
def test_what_was_minted_is_read_back(lifetime, permissions):
    asked = spec(lifetime=timedelta(seconds=lifetime), permissions=tuple(permissions))
    token = tokens.read(mint(asked))
    assert (token.issued, token.expires, token.lifetime) == (T0, T0 + asked.lifetime, asked.lifetime)
    assert (token.issuer, token.subject, token.key_id) == (ISSUER, "shop/order-service", RING.active.key_id)
    assert tokens.same_claims(token, asked)


@given(lifetime=SECONDS, seed=st.text(max_size=40))
def test_it_is_refreshed_while_it_lives_and_not_later_than_at_two_thirds(lifetime, seed):
    token = tokens.read(mint(spec(lifetime=timedelta(seconds=lifetime))))
    refresh = token.refresh_time(seed)
    assert token.issued < refresh < token.expires
    assert refresh <= token.issued + token.lifetime * 2 / 3 + timedelta(seconds=1)
    assert refresh >= token.issued + token.lifetime * 2 / 3 * 0.95 - timedelta(seconds=2), "jitter is 5 % at most"


@given(
    lifetime=st.integers(min_value=SHORTEST_SECONDS, max_value=24 * 3600),
    seed=st.text(max_size=40),
    lateness=st.fractions(min_value=0, max_value=1),
    start=st.integers(min_value=0, max_value=10**9),
)
def test_who_reads_its_mounted_secret_a_sixth_of_the_lifetime_late_never_holds_an_expired_token(
    lifetime, seed, lateness, start
):
    now, asked = T0 + timedelta(seconds=start), spec(lifetime=timedelta(seconds=lifetime))
    held = None
    for _ in range(6):
        token = tokens.read(mint(asked, now=now))
        seen_at = now + asked.lifetime / 6 * float(lateness)
        if held is not None:
            assert seen_at < held.expires
        held, now = token, token.refresh_time(seed)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("iat", None),
        ("iat", "1"),
        ("iat", True),
        ("iat", 1.5),
        ("iat", -1),
        ("iat", 10**30),
        ("exp", AT),
        ("exp", None),
        ("exp", 10**12),
        ("nbf", AT),
        ("nbf", None),
        ("iss", None),
        ("iss", ["x"]),
        ("sub", ""),
        ("jti", None),
    ],
)
def test_a_token_that_is_not_as_ours_is_not_read(changed, value):
    claims = part(mint().reveal().decode(), 1) | {changed: value}
    if value is None:
        del claims[changed]
    key, algorithm = jose.load_private(RING.active.material)
    with pytest.raises(MalformedError):
        tokens.read(KeyMaterial(jose.sign(claims, key, algorithm, RING.active.key_id).encode()))


@given(
    st.binary(max_size=80)
    | st.from_regex(r"\A[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,9}\Z").map(str.encode)
)
def test_what_is_no_token_is_malformed_and_nothing_worse(text):
    with pytest.raises(MalformedError):
        tokens.read(KeyMaterial(text))


def test_another_key_or_another_claim_does_not_verify():
    token = tokens.read(mint())
    assert tokens.is_signed_by(RING, token)
    assert not tokens.is_signed_by(ring(), token)
    header, _, signature = mint().reveal().decode().split(".")
    claims = part(mint().reveal().decode(), 1) | {"roles": ["admin"]}
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert not tokens.is_signed_by(RING, tokens.read(KeyMaterial(f"{header}.{body}.{signature}".encode())))


def test_a_token_without_a_signature_is_none():
    header = {"alg": "none", "typ": "JWT", "kid": RING.active.key_id}
    encoded = [
        urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=")
        for one in (header, part(mint().reveal().decode(), 1))
    ]
    token = tokens.read(KeyMaterial(f"{'.'.join(encoded)}.".encode()))
    assert not tokens.is_signed_by(RING, token)


def test_the_value_shows_no_token():
    token = tokens.read(mint(token_id="3f0c9a"))
    text = mint(token_id="3f0c9a").reveal().decode()
    for shown in (repr(token), str(token)):
        assert "3f0c9a" not in shown
        assert not any(piece in shown for piece in text.split("."))


def test_times_are_utc():
    token = tokens.read(mint(now=datetime(2026, 7, 1, 12, 0, 5, tzinfo=UTC)))
    assert token.issued == datetime(2026, 7, 1, 12, 0, 5, tzinfo=UTC)
