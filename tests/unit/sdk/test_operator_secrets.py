"""What the operator writes into Secrets is what the SDK reads out of them."""

import asyncio
from datetime import UTC, timedelta

import pytest

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.credentials.base import Caller
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt import ring as jwt_ring
from serviceidentity.domain.jwt.jose import Algorithm
from serviceidentity.domain.key_ring import KeyState, Rhythm
from serviceidentity.domain.model import identity_key
from serviceidentity_sdk.credentials import Directory, Watch
from serviceidentity_sdk.jwt import MountedKeys, TokenSigner, TokenVerifier, read_jwks, read_token_key
from serviceidentity_sdk.requests import ServiceAuthenticator, ServiceSigner, read_keyring, read_signing_key
from tests.unit.domain.builders import HMAC, HOUR, KEYRING, T0, issue, observed

NOW_MS = int(T0.replace(tzinfo=UTC).timestamp() * 1000)
RHYTHM = Rhythm(rotate_every=24 * HOUR, overlap=HOUR, publish_before=HOUR, published=lambda _: True)


def written(path, files):
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return Directory(path)


def stages(make):
    """Every form that a ring takes on its way through one rotation."""
    ring = key_ring.new_ring(make, T0)
    found = [ring]
    for hours in (24, 25, 26, 27):
        ring = key_ring.advance(ring, RHYTHM, make, T0 + timedelta(hours=hours))
        found.append(ring)
    assert {key.state for ring in found for key in ring.keys} == set(KeyState)
    return found


def test_hmac_secrets_and_keyrings(tmp_path):
    content = issue(observed({"hmac": {}}), HMAC).contents["order-service-hmac"]
    ring = hmac_ring.from_json(content.value("keys.json"))
    caller = Caller(identity_key("shop", "order-service"), "order-service", "spiffe://td/ns/shop/sa/order", ring)
    verifier = issue(observed({"callers": [{"name": "*"}]}, callers=(caller,)), KEYRING).contents
    keyring = written(
        tmp_path / "keyring", {"keyring.json": verifier["order-service-hmac-keyring"].value("keyring.json")}
    )
    authenticator = ServiceAuthenticator(Watch([keyring], read_keyring), clock_ms=lambda: NOW_MS)
    whole = {name: content.value(name) for name in content.data}
    for number, files in enumerate((whole, {name: whole[name] for name in ("key", "key-id")})):
        key = Watch([written(tmp_path / f"hmac-{number}", files)], read_signing_key)
        found = authenticator.verify(
            ServiceSigner("order-service", key, clock_ms=lambda: NOW_MS).sign(b'{"a":1}'), b'{"a":1}'
        )
        assert (found.subject, found.spiffe_id) == ("order-service", caller.spiffe_id)
        assert found.claims["keyID"] == ring.active.key_id


def test_rings_of_hmac_keys_in_all_their_states(tmp_path):
    for number, ring in enumerate(stages(hmac_ring.make)):
        key = read_signing_key(written(tmp_path / str(number), {"keys.json": hmac_ring.to_json(ring)}).read())
        assert key.key_id == ring.active.key_id
        assert key.material.reveal() == ring.active.material.reveal()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_rings_of_signing_keys_in_all_their_states(tmp_path, algorithm):
    for number, ring in enumerate(stages(jwt_ring.maker(algorithm))):
        mounted = written(
            tmp_path / str(number), {"keys.json": jwt_ring.to_json(ring), "jwks.json": jwt_ring.jwks(ring)}
        )
        signer = TokenSigner(Watch([mounted], read_token_key), clock=lambda: T0)
        verifier = TokenVerifier(
            MountedKeys(Watch([mounted], read_jwks)), algorithms=[algorithm.value], clock=lambda: T0
        )
        token = signer.sign("user-1")
        assert jose.header_of(token)["kid"] == ring.active.key_id
        assert asyncio.run(verifier.verify(token)).principal.subject == "user-1"


def test_tokens_that_the_operator_mints(tmp_path):
    ring = key_ring.new_ring(jwt_ring.maker(Algorithm.ES256), T0)
    verifier = TokenVerifier(
        MountedKeys(Watch([written(tmp_path / "jwks", {"jwks.json": jwt_ring.jwks(ring)})], read_jwks)),
        issuer="https://operator/td",
        audience="payment-service",
        clock=lambda: T0,
    )
    key, algorithm = jose.load_private(ring.active.material)
    now = int(T0.timestamp())
    claims = {
        "iss": "https://operator/td",
        "sub": "spiffe://td/ns/shop/sa/order",
        "aud": ["payment-service"],
        "iat": now,
        "nbf": now,
        "exp": now + 900,
    }
    found = asyncio.run(verifier.verify(jose.sign(claims, key, algorithm, ring.active.key_id)))
    assert found.principal.spiffe_id == claims["sub"]
