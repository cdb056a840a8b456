import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyEncoding, KeyProfile
from tests.unit.pki.builders import ED25519, P256, P384, PROFILES, RSA, key_for, title

HEADERS = {
    (KeyAlgorithm.ECDSA, KeyEncoding.PKCS1): "EC PRIVATE KEY",
    (KeyAlgorithm.RSA, KeyEncoding.PKCS1): "RSA PRIVATE KEY",
    (KeyAlgorithm.ECDSA, KeyEncoding.PKCS8): "PRIVATE KEY",
    (KeyAlgorithm.RSA, KeyEncoding.PKCS8): "PRIVATE KEY",
    (KeyAlgorithm.ED25519, KeyEncoding.PKCS8): "PRIVATE KEY",
}


def outcome(pem):
    """What load makes of it; nothing but a key or a PkiError leaves this function."""
    try:
        return keys.load(pem)
    except PkiError as error:
        return error


@pytest.mark.parametrize("profile", PROFILES, ids=title)
@pytest.mark.parametrize("encoding", KeyEncoding)
def test_a_key_reads_back_as_what_was_made(all_keys, profile, encoding):
    key = key_for("leaf", profile)
    if (profile.algorithm, encoding) not in HEADERS:
        with pytest.raises(PkiError, match="only the PKCS8"):
            keys.encode(key, encoding)
        return
    pem = keys.encode(key, encoding)
    begins = pem.startswith(f"-----BEGIN {HEADERS[profile.algorithm, encoding]}-----\n".encode())
    loaded = keys.load(pem)
    assert begins
    assert keys.same_public_key(loaded, key)
    assert keys.profile_of(loaded) == keys.profile_of(loaded.public_key()) == profile


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [
        (KeyAlgorithm.ECDSA, 521),
        (KeyAlgorithm.ECDSA, 0),
        (KeyAlgorithm.ECDSA, 2048),
        (KeyAlgorithm.RSA, 1024),
        (KeyAlgorithm.RSA, 256),
        (KeyAlgorithm.RSA, 2049),
        (KeyAlgorithm.RSA, 8192),
    ],
)
def test_a_size_that_does_not_fit_is_refused(algorithm, size):
    with pytest.raises(PkiError):
        KeyProfile(algorithm, size)


def test_ed25519_has_one_size():
    assert KeyProfile(KeyAlgorithm.ED25519, 256) == KeyProfile(KeyAlgorithm.ED25519, 0) == ED25519


def test_two_keys_are_never_the_same():
    assert not keys.same_public_key(keys.generate(P256), keys.generate(P256))


def test_keys_of_different_kinds_are_not_the_same():
    assert not keys.same_public_key(key_for("leaf", P256), key_for("leaf", ED25519))


def test_either_half_of_a_pair_is_the_same_key():
    key = key_for("leaf")
    assert keys.same_public_key(key, key.public_key())
    assert keys.same_public_key(key.public_key(), key)


@pytest.mark.parametrize(
    "unsupported",
    [
        lambda: ec.generate_private_key(ec.SECP521R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024),
        lambda: dsa.generate_private_key(key_size=1024),
    ],
    ids=["P-521", "secp256k1", "RSA-1024", "DSA"],
)
def test_a_key_of_an_unsupported_kind_is_refused(unsupported):
    pem = unsupported().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert isinstance(outcome(pem), PkiError)


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL], ids=["new", "old"]
)
def test_an_encrypted_key_is_refused(form):
    pem = key_for("leaf").private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"password")
    )
    assert isinstance(outcome(pem), PkiError)


def test_a_public_key_is_no_private_key():
    pem = (
        key_for("leaf")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert isinstance(outcome(pem), PkiError)


def armoured(label, der):
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, base64.b64encode(der), label)


labels = st.sampled_from([b"PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"])


@given(st.binary(max_size=300))
@example(b"")
@example(b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
def test_load_raises_nothing_but_pki_errors_on_any_bytes(data):
    assert isinstance(outcome(data), PkiError)


@given(labels, st.binary(max_size=300))
def test_load_raises_nothing_but_pki_errors_on_any_body(label, body):
    assert isinstance(outcome(armoured(label, body)), PkiError)


@given(st.sampled_from([P256, P384, ED25519, RSA]), st.integers(0, 10_000), st.integers(1, 255))
def test_load_raises_nothing_but_pki_errors_on_damaged_keys(profile, place, change):
    der = bytearray(
        key_for("leaf", profile).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    der[place % len(der)] ^= change
    outcome(armoured(b"PRIVATE KEY", bytes(der)))


def test_an_ed448_key_of_the_wrong_length_is_a_pki_error():
    """cryptography's InternalError is no ValueError."""
    ed25519, ed448 = bytes.fromhex("06032b6570"), bytes.fromhex("06032b6571")
    der = key_for("leaf", ED25519).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert isinstance(outcome(armoured(b"PRIVATE KEY", der.replace(ed25519, ed448))), PkiError)


def test_an_error_never_quotes_what_was_read():
    with pytest.raises(PkiError) as caught:
        keys.load(armoured(b"PRIVATE KEY", b"do not show this"))
    quoted = base64.b64encode(b"do not show this").decode()
    assert quoted not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
