"""Keys as they are mounted, through a rotation."""

import json
from datetime import UTC, datetime

import pytest

from sdk.python.tests.jwt.tokens import b64
from sdk.python.tests.volumes import Volume
from serviceidentity_sdk.credentials import CredentialError, Directory, Watch
from serviceidentity_sdk.requests import (
    RefusedError,
    ServiceAuthenticator,
    ServiceSigner,
    read_keyring,
    read_signing_key,
)

OLD, NEW = b"\x01" * 32, b"\x02" * 32
START = int(datetime(2027, 1, 15, 12, 0, 0, tzinfo=UTC).timestamp()) * 1000
UNTIL = "2027-01-15T13:00:00Z"


def jwk(key, state, **more):
    return {
        "kty": "oct",
        "alg": "HS256",
        "kid": key[:4].hex(),
        "k": b64(key),
        "state": state,
        "changed": "2027-01-15T12:00:00Z",
    } | more


def ring(*keys):
    return {"keys.json": json.dumps({"keys": list(keys)}).encode(), "key": b"00", "key-id": b"unused"}


def keyring(*keys, **services):
    entry = {"namespace": "shop", "name": "order", "spiffeID": "spiffe://td/ns/shop/sa/order", "keys": list(keys)}
    return {"keyring.json": json.dumps({"services": {"order-service": entry, **services}}).encode()}


def test_a_rotation_in_which_each_side_is_behind_the_other_refuses_nothing(tmp_path):
    states = [
        (jwk(OLD, "Active"),),
        (jwk(OLD, "Active"), jwk(NEW, "Prepared", until="2027-01-15T12:00:00Z")),
        (jwk(OLD, "Retiring", until=UNTIL), jwk(NEW, "Active")),
        (jwk(NEW, "Active"),),
    ]
    signing, verifying = Volume(tmp_path / "hmac", ring(*states[0])), Volume(tmp_path / "ring", keyring(*states[0]))
    key = Watch([Directory(signing.path)], read_signing_key)
    callers = Watch([Directory(verifying.path)], read_keyring)
    signer = ServiceSigner("order-service", key, clock_ms=lambda: START)
    authenticator = ServiceAuthenticator(callers, clock_ms=lambda: START)
    used = []
    for signer_at, verifier_at in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (2, 3), (3, 3)):
        signing.swap(ring(*states[signer_at]))
        verifying.swap(keyring(*states[verifier_at]))
        key.check()
        callers.check()
        used.append(authenticator.verify(signer.sign(b"{}"), b"{}").claims["keyID"])
    old, new = OLD[:4].hex(), NEW[:4].hex()
    assert used == [old, old, old, old, new, old, new, new, new, new]


def test_the_previous_key_verifies_until_its_deadline_even_when_the_keyring_is_not_updated(tmp_path):
    key = Watch([Directory(Volume(tmp_path / "hmac", ring(jwk(OLD, "Active"))).path)], read_signing_key)
    callers = Watch(
        [Directory(Volume(tmp_path / "ring", keyring(jwk(OLD, "Retiring", until=UNTIL), jwk(NEW, "Active"))).path)],
        read_keyring,
    )
    for minutes, accepted in ((59, True), (60, False)):
        now = START + minutes * 60_000
        authenticator = ServiceAuthenticator(callers, clock_ms=lambda now=now: now)
        headers = ServiceSigner("order-service", key, clock_ms=lambda now=now: now).sign()
        if accepted:
            assert authenticator.verify(headers).spiffe_id == "spiffe://td/ns/shop/sa/order"
        else:
            with pytest.raises(RefusedError):
                authenticator.verify(headers)


def test_the_single_key_is_used_where_there_is_no_set(tmp_path):
    volume = Volume(tmp_path / "hmac", {"key": OLD.hex().encode() + b"\n", "key-id": b"old\n"})
    key = read_signing_key(Directory(volume.path).read())
    assert (key.key_id, key.material.reveal()) == ("old", OLD)
    assert OLD.hex() not in repr(key) and b64(OLD) not in repr(key)


BAD_RINGS = [
    ring(), ring(jwk(OLD, "Prepared", until=UNTIL)), ring(jwk(OLD, "Active"), jwk(NEW, "Active")), ring(jwk(OLD, "Retired")), ring({"state": "Active"}),
    ring(jwk(b"short", "Active")), ring(jwk(OLD, "Active", k=5)), ring(jwk(OLD, "Active", kty="RSA")), {"keys.json": b"[" * 9000}, {"keys.json": b"null"},
    {"key": b"xyz", "key-id": b"a"}, {"key": b"00", "key-id": b"a"}, {"key": OLD.hex().encode()}, {"a": b"b"},
]  # fmt: skip


@pytest.mark.parametrize("files", BAD_RINGS, ids=range(len(BAD_RINGS)))
def test_a_secret_without_one_good_active_key(tmp_path, files):
    with pytest.raises(CredentialError) as caught:
        Watch([Directory(Volume(tmp_path / "hmac", files).path)], read_signing_key)
    assert b64(OLD) not in str(caught.value) and OLD.hex() not in str(caught.value)


BAD_KEYRINGS = [
    {}, {"keyring.json": b""}, {"keyring.json": b"{}"}, {"keyring.json": b'{"services":[]}'}, {"keyring.json": b"[" * 9000}, keyring(a=5), keyring(a={}), keyring(a={"keys": [5]}),
    keyring(jwk(OLD, "Retiring", until="soon")), keyring(jwk(b"", "Active")), keyring(jwk(OLD, "Revoked")),
]  # fmt: skip


@pytest.mark.parametrize("files", BAD_KEYRINGS, ids=range(len(BAD_KEYRINGS)))
def test_a_keyring_that_is_none_is_not_half_used(tmp_path, files):
    with pytest.raises(CredentialError) as caught:
        Watch([Directory(Volume(tmp_path / "ring", files).path)], read_keyring)
    assert b64(OLD) not in str(caught.value)


def test_a_keyring_without_callers_knows_nobody(tmp_path):
    volume = Volume(tmp_path / "ring", {"keyring.json": b'{"services":{}}'})
    assert read_keyring(Directory(volume.path).read()).callers == {}
