"""Signing with the mounted key, and narrowing."""

import asyncio
import base64
import json
from datetime import timedelta

import pytest

from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.credentials import CredentialError, Directory, Watch
from serviceidentity_sdk.jwt import (
    Fixed,
    MountedKeys,
    TokenError,
    TokenSigner,
    TokenVerifier,
    jose,
    read_key_set,
    read_token_key,
)
from serviceidentity_sdk.jwt.claims import token_ids

from .tokens import NOW, PAIRS, SECONDS, Pair, jwks


def secret(*keys):
    return {
        "keys.json": jwks(*(pair.kept(state=state, changed="2027-01-01T00:00:00Z") for pair, state in keys)).encode()
    }


def watched(tmp_path, *keys):
    volume = Volume(tmp_path / "jwt", secret(*keys))
    return volume, Watch([Directory(volume.path)], read_token_key)


def verifier(*pairs, now=NOW, **options):
    keys = MountedKeys(Fixed(read_key_set(jwks(*(pair.published() for pair in pairs)))))
    return TokenVerifier(keys, clock=lambda: now, **options)


def verify(text, *pairs, **options):
    return asyncio.run(verifier(*pairs, **options).verify(text))


@pytest.mark.parametrize("algorithm", PAIRS)
def test_signed_here_and_verified_by_the_public_key(tmp_path, algorithm):
    pair = PAIRS[algorithm]
    _, watch = watched(tmp_path, (pair, "Active"))
    signer = TokenSigner(watch, clock=lambda: NOW)
    text = signer.sign("user-1", roles=["customer"], permissions=["orders:read"], claims={"email": "a@b"})
    found = verify(text, pair, algorithms=list(PAIRS))
    assert found.principal.roles == {"customer"} and found.principal.permissions == {"orders:read"}
    assert {name: found.claims[name] for name in ("iss", "aud", "sub", "iat", "nbf", "exp", "email")} == {
        "iss": "auth-service", "aud": "microservices", "sub": "user-1", "iat": SECONDS, "nbf": SECONDS, "exp": SECONDS + 900, "email": "a@b",
    }  # fmt: skip
    assert found.claims["jti"] != verify(signer.sign("user-1"), pair, algorithms=list(PAIRS)).claims["jti"]


def test_the_active_key_signs_never_a_prepared_or_a_retiring_one(tmp_path):
    old, new = Pair("ES256"), Pair("ES256")
    volume, watch = watched(tmp_path, (old, "Active"))
    signer = TokenSigner(watch, clock=lambda: NOW)

    def signs():
        return [pair for pair in (old, new) if read_key_set(jwks(pair.published())).knows(_kid(signer.sign("a")))]

    for keys, expected in (
        (((new, "Prepared"), (old, "Active")), old),
        (((old, "Retiring"), (new, "Active")), new),
        (((old, "Active"), (new, "Active")), new),  # no ring of the operator: the last good one stays
        (((old, "Retiring"),), new),
    ):
        volume.swap(secret(*keys))
        watch.check()
        assert signs() == [expected]


def _kid(text):
    return json.loads(base64.urlsafe_b64decode(text.split(".")[0] + "=="))["kid"]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"keys.json": b"{}"},
        {"keys.json": b"\xff"},
        secret((PAIRS["ES256"], "Prepared")),
        {"keys.json": jwks(PAIRS["ES256"].published(state="Active")).encode()},
        {"keys.json": jwks(PAIRS["ES256"].kept(state="Active", kid="other")).encode()},
        {"keys.json": jwks(PAIRS["ES256"].kept(state="Active", alg="HS256")).encode()},
        {"keys.json": jwks({"kty": "oct", "k": "AAAA", "alg": "HS256", "state": "Active", "kid": "a"}).encode()},
        {"key.jwk": b"null"},
    ],
    ids=range(9),
)
def test_a_secret_without_an_active_key_signs_nothing(tmp_path, files):
    with pytest.raises(CredentialError) as caught:
        Watch([Directory(Volume(tmp_path / "jwt", files).path)], read_token_key)
    assert PAIRS["ES256"].secret["d"] not in repr(caught.value)


def test_a_single_key_works_too(tmp_path):
    volume = Volume(tmp_path / "jwt", {"key.jwk": json.dumps(PAIRS["EdDSA"].kept()).encode()})
    assert verify(
        TokenSigner(Watch([Directory(volume.path)], read_token_key), clock=lambda: NOW).sign("a"), PAIRS["EdDSA"]
    )


def test_no_key_material_shows():
    key = read_private(PAIRS["ES256"])
    assert PAIRS["ES256"].secret["d"] not in f"{key!r} {key}"


def read_private(pair):
    return jose.read_private(pair.kept())


def signer(pair=PAIRS["ES256"], **options):
    return TokenSigner(Fixed(read_private(pair)), clock=lambda: NOW, **options)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(minutes=61), timedelta(days=7)])
def test_a_token_does_not_outlive_its_key(lifetime):
    with pytest.raises(ValueError):
        signer().sign("a", lifetime=lifetime)
    with pytest.raises(ValueError):
        signer(lifetime=timedelta(minutes=61))


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": ""},
        {"subject": "a", "roles": "admin"},
        {"subject": "a", "permissions": "*"},
        {"subject": "a", "claims": {"exp": 1}},
        {"subject": "a", "claims": {"sub": "b"}},
        {"subject": "a", "claims": {"x": float("nan")}},
    ],
)
def test_what_is_not_signed(wrong):
    with pytest.raises(ValueError):
        signer().sign(**wrong)


ORDERS, AUTH = Pair("ES256"), PAIRS["ES256"]


def caller(**options):
    return verify(
        signer(AUTH).sign("user-1", roles=["admin"], permissions=["orders:*", "payments:create"], **options), AUTH
    )


def test_a_narrower_token_says_less_and_who_acts():
    orders = signer(ORDERS, issuer="order-service")
    text = orders.narrow(caller(), service="order-service", audience="payment-service", permissions=["payments:create"])
    found = verify(text, ORDERS, issuer="order-service", audience="payment-service")
    assert found.principal.subject == "user-1"
    assert found.principal.roles == frozenset() and found.principal.permissions == {"payments:create"}
    assert found.claims["act"] == {"sub": "order-service"} and found.claims["exp"] == SECONDS + 60
    for others in ({"issuer": "auth-service", "audience": "payment-service"}, {"issuer": "order-service"}):
        with pytest.raises(TokenError):
            verify(text, ORDERS, **others)
    again = signer(AUTH, issuer="payment-service").narrow(
        found, service="payment-service", audience="bank", permissions=["payments:create"]
    )
    assert verify(again, AUTH, issuer="payment-service", audience="bank").claims["act"] == {
        "sub": "payment-service",
        "act": {"sub": "order-service"},
    }


class List:
    """Revocations as RedisRevocations has them, in memory."""

    def __init__(self, *revoked):
        self.revoked = set(revoked)

    async def is_revoked(self, claims):
        return bool(self.revoked & {*token_ids(claims), claims.get("sid")})


def test_what_revokes_the_callers_token_revokes_what_was_narrowed_from_it():
    first = caller(claims={"sid": "session-1"})
    text = signer(ORDERS, issuer="o").narrow(first, service="o", audience="p", permissions=["orders:read"])
    second = verify(text, ORDERS, issuer="o", audience="p")
    again = signer(AUTH, issuer="p").narrow(second, service="p", audience="bank", permissions=["orders:read"])
    third = verify(again, AUTH, issuer="p", audience="bank")
    assert [one.claims["sid"] for one in (first, second, third)] == ["session-1"] * 3
    assert second.claims["parents"] == [first.claims["jti"]]
    assert third.claims["parents"] == [first.claims["jti"], second.claims["jti"]]
    for revoked in ("session-1", first.claims["jti"], second.claims["jti"], third.claims["jti"]):
        with pytest.raises(TokenError, match="revoked"):
            verify(again, AUTH, issuer="p", audience="bank", revocations=List(revoked))
    verify(again, AUTH, issuer="p", audience="bank", revocations=List("another"))


def test_nobody_says_himself_what_his_token_was_narrowed_from():
    with pytest.raises(ValueError):
        signer(AUTH).sign("user-1", claims={"parents": ["t1"]})


def test_a_narrower_token_does_not_outlive_the_callers():
    short = caller(lifetime=timedelta(seconds=5))
    text = signer(ORDERS, issuer="o").narrow(short, service="o", audience="p", permissions=["orders:read"])
    assert verify(text, ORDERS, issuer="o", audience="p").claims["exp"] == SECONDS + 5
    late = TokenSigner(Fixed(read_private(ORDERS)), issuer="o", clock=lambda: NOW + timedelta(seconds=5))
    with pytest.raises(ValueError):
        late.narrow(short, service="o", audience="p", permissions=["orders:read"])


@pytest.mark.parametrize(
    "permissions", [[], ["*"], ["payments:*"], ["payments:create", "payments:refund"], ["orders"], "orders:read"]
)
def test_never_more_than_the_caller_has(permissions):
    with pytest.raises(ValueError):
        signer(ORDERS).narrow(caller(), service="o", audience="p", permissions=permissions)
