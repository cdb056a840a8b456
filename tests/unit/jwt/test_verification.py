"""Whether a token is accepted: each check gives its reason, the first one decides, and nothing else is ever raised."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.jwt.verification import Accepted, Jwks, read_jwks, verify_token
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.verdict import Refused
from tests.unit.jwt.tokens import b64, key, public, signed, signed_text

NOW = datetime(2026, 11, 25, 16, tzinfo=UTC)
T = int(NOW.timestamp())
ISSUER, AUDIENCE = "https://issuer.example/default", "payments"
CLAIMS = {
    "iss": ISSUER,
    "sub": "shop/order-service",
    "aud": AUDIENCE,
    "iat": T,
    "nbf": T - 30,
    "exp": T + 900,
    "jti": "1",
}
KEYS = read_jwks(json.dumps({"keys": [public(algorithm) for algorithm in Algorithm]}).encode())


def verified(token: str, keys: Jwks = KEYS, now: datetime = NOW, **more: Any) -> Accepted | Refused:
    return verify_token(token, keys, **({"issuer": ISSUER, "audience": AUDIENCE, "now": now} | more))


def reasons(token: str, *given: Any, **more: Any) -> list[str]:
    found = verified(token, *given, **more)
    return [one.reason for one in found.problems] if isinstance(found, Refused) else []


def but(**changed: Any) -> dict[str, Any]:
    return {name: value for name, value in (CLAIMS | changed).items() if value is not ...}


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_good_token_says_who_until_when_and_by_which_key(algorithm):
    found = verified(signed(CLAIMS, algorithm))
    assert isinstance(found, Accepted)
    assert (found.subject, found.issuer, found.audiences) == ("shop/order-service", ISSUER, (AUDIENCE,))
    assert (found.key_id, found.algorithm) == (key(algorithm)[0], algorithm)
    assert (found.issued_at, found.expires) == (NOW, NOW + timedelta(minutes=15))
    assert found.claims == CLAIMS


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"iss": ISSUER + "/"}, ["WrongIssuer"]),
        ({"iss": ...}, ["WrongIssuer"]),
        ({"aud": "orders"}, ["WrongAudience"]),
        ({"aud": "Payments"}, ["WrongAudience"]),
        ({"aud": []}, ["WrongAudience"]),
        ({"aud": ...}, ["WrongAudience"]),
        ({"aud": ["orders", AUDIENCE]}, []),
        ({"aud": [AUDIENCE, 7]}, ["InvalidClaim", "WrongAudience"]),
        ({"exp": ...}, ["NoExpiry"]),
        ({"exp": T}, ["Expired"]),
        ({"exp": T - 1}, ["Expired"]),
        ({"exp": T + 1}, []),
        ({"exp": T + 0.5}, []),
        ({"nbf": T}, []),
        ({"nbf": T + 1}, ["NotYetValid"]),
        ({"nbf": T + 0.5}, ["NotYetValid"]),
        ({"iat": T + 1}, ["IssuedInTheFuture"]),
        ({"iat": ..., "nbf": ...}, []),
        ({"sub": ...}, ["NoSubject"]),
        ({"sub": ""}, ["NoSubject"]),
        ({"sub": 7}, ["InvalidClaim"]),
        ({"exp": T, "aud": "orders", "iss": "x"}, ["WrongIssuer", "WrongAudience", "Expired"]),
    ],
)
def test_claims_are_checked_in_order(changed, expected):
    assert reasons(signed(but(**changed))) == expected


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [True, False, str(T), None, [T], {}, -1, 1e300, 253402300800, 10**400])
def test_a_time_is_a_number_that_a_calendar_has(claim, value):
    assert reasons(signed(but(**{claim: value})))[0] == "InvalidClaim"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_a_time_is_finite(text):
    header = json.dumps({"alg": "ES256", "kid": key(Algorithm.ES256)[0]})
    payload = json.dumps(but(exp="X")).replace('"X"', text)
    assert reasons(signed_text(header, payload))[0] in ("Malformed", "InvalidClaim")


def test_leeway_moves_every_time_and_nothing_else():
    leeway = timedelta(seconds=60)
    assert reasons(signed(but(exp=T - 59, nbf=T - 500)), leeway=leeway) == []
    assert reasons(signed(but(exp=T - 60)), leeway=leeway) == ["Expired"]
    assert reasons(signed(but(nbf=T + 60, iat=T + 60)), leeway=leeway) == []
    assert reasons(signed(but(nbf=T + 61, iat=T + 61)), leeway=leeway) == ["NotYetValid", "IssuedInTheFuture"]
    with pytest.raises(ValueError, match="negative"):
        verified(signed(CLAIMS), leeway=timedelta(seconds=-1))


def test_a_lifetime_may_have_a_limit():
    limit = timedelta(minutes=15)
    assert reasons(signed(CLAIMS), longest_lifetime=limit) == []
    assert reasons(signed(but(exp=T + 901)), longest_lifetime=limit) == ["LivesTooLong"]
    assert reasons(signed(but(exp=T + 901, iat=...)), longest_lifetime=limit) == ["LivesTooLong"]


def test_what_is_not_asked_for_is_not_checked():
    assert reasons(signed(but(iss=..., aud=...)), issuer=None, audience=None) == []


def test_the_key_is_one_of_the_issuers():
    assert reasons(signed(CLAIMS, number=1)) == ["UnknownKey"]
    assert reasons(signed(CLAIMS, kid="nobody")) == ["UnknownKey"]
    assert reasons(signed(CLAIMS), Jwks(())) == ["UnknownKey"]


def test_a_token_without_key_id_needs_the_one_key_that_fits():
    token = signed_text('{"alg":"ES256"}', json.dumps(CLAIMS))
    assert reasons(token) == []
    both = read_jwks(json.dumps({"keys": [public(Algorithm.ES256), public(Algorithm.ES256, 1)]}).encode())
    assert reasons(token, both) == ["UnknownKey"]
    assert reasons(token, Jwks(())) == ["UnknownKey"]


def test_a_signature_by_another_key_under_a_known_id_is_bad():
    header, payload, _ = signed(CLAIMS).split(".")
    other = signed(CLAIMS, number=1).split(".")[2]
    assert reasons(f"{header}.{payload}.{other}") == ["BadSignature"]
    changed = f"{header}.{b64(but(sub='admin'))}.{signed(CLAIMS).split('.')[2]}"
    assert reasons(changed) == ["BadSignature"]
    assert reasons(f"{header}.{b64(but(exp=T))}.{other}") == ["BadSignature", "Expired"]


@pytest.mark.parametrize("alg", ["none", "HS256", "RS384", "ES512", "ES256K", "Ed448", "x\x1b[2J"])
def test_other_algorithms_are_not_allowed(alg):
    token = f"{b64({'alg': alg, 'kid': key(Algorithm.ES256)[0]})}.{b64(CLAIMS)}."
    found = verified(token)
    assert isinstance(found, Refused)
    assert found.first.reason == "AlgorithmNotAllowed"
    assert found.first.message.isprintable()


def test_a_key_is_for_one_algorithm():
    rsa = public(Algorithm.PS256) | {"alg": "RS256"}
    keys = read_jwks(json.dumps({"keys": [rsa]}).encode())
    assert reasons(signed(CLAIMS, Algorithm.PS256), keys) == ["AlgorithmNotAllowed"]
    twice = read_jwks(json.dumps({"keys": [public(Algorithm.ES256), public(Algorithm.ES256, 1) | {"kid": key(Algorithm.ES256)[0]}]}).encode())  # fmt: skip
    assert reasons(signed(CLAIMS), twice) == ["UnknownKey"]


def test_the_name_of_rfc_9864_is_understood():
    header = json.dumps({"alg": "Ed25519", "kid": key(Algorithm.EDDSA)[0]})
    assert reasons(signed_text(header, json.dumps(CLAIMS), Algorithm.EDDSA)) == []


@pytest.mark.parametrize(
    ("typ", "expected"),
    [("at+jwt", []), ("application/AT+JWT", []), ("JOSE", []), ("dpop+jwt", ["WrongType"]), (7, ["WrongType"])],
)
def test_a_token_for_another_purpose_is_refused(typ, expected):
    found = reasons(signed(CLAIMS, typ=typ))
    assert found[:1] == expected


def test_a_set_is_read_as_far_as_it_is_understood():
    x509 = {"use": "x509-svid", "kty": "EC"}
    odd = [
        public(Algorithm.ES256) | {"alg": "XX"},
        {},
        7,
        None,
        {"kty": "AKP"},
        json.loads(key(Algorithm.RS256)[1].reveal()),
    ]
    found = read_jwks(json.dumps({"keys": [*odd, x509, public(Algorithm.ES256)], "spiffe_sequence": 1}).encode())
    assert [one.key_id for one in found.keys] == [key(Algorithm.ES256)[0]]
    assert len(found.ignored) == len(odd)
    assert "d" not in repr(found.keys).split("key=")
    for bad in ("", "[]", "{}", '{"keys": {}}', '{"keys": null}', "[" * 5000, json.dumps({"keys": [{}] * 257})):
        with pytest.raises(MalformedError):
            read_jwks(bad.encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(list(CLAIMS)), values),
    st.dictionaries(st.sampled_from(["typ", "kid", "alg", "jwk", "crit", "x"]), values),
)
def test_whatever_an_issuer_signs_is_answered(changed, header):
    token = signed_text(
        json.dumps({"alg": "ES256", "kid": key(Algorithm.ES256)[0]} | header), json.dumps(CLAIMS | changed)
    )
    found = verified(token)
    if isinstance(found, Refused):
        assert all(one.message.isprintable() and one.message.isascii() for one in found.problems)
    else:
        assert found.expires > NOW and found.issuer == ISSUER and AUDIENCE in found.audiences


@given(st.text())
def test_whatever_is_no_token_is_malformed(text):
    assert reasons(text) == ["Malformed"]
