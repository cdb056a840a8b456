"""Other forms of keys and certificates, read by those whom they are for: Java and OpenSSL."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates, formats, jks, keys
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.builders import ED25519, P256, RSA, T0, hierarchy, key_for, leaf, title

PASSWORD = "pässword €"
ASCII = "correct horse"
ROOT, INTERMEDIATE = hierarchy().root.certificate, hierarchy().intermediate.certificate
SUBMITTED = [P256, RSA, ED25519]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "password"
    path.write_text(ASCII)
    return path


def chain_of(profile):
    tiers = hierarchy(profile)
    return leaf(tiers.intermediate, key_for("leaf", profile)), tiers.intermediate.certificate


def test_der_is_the_same_key():
    loaded = serialization.load_der_private_key(formats.der_key(key_for("leaf")), None)
    assert keys.same_public_key(loaded, key_for("leaf"))


def test_combined_pem_is_key_then_chain():
    key_pem, chain = (
        keys.encode(key_for("leaf"), keys.KeyEncoding.PKCS8),
        certificates.encode_chain(leaf(), INTERMEDIATE),
    )
    combined = formats.combined_pem(key_pem, chain)
    in_order = combined == key_pem + chain
    apart = formats.combined_pem(key_pem.rstrip(), chain) == combined
    assert in_order
    assert apart
    assert keys.same_public_key(keys.load(combined), key_for("leaf"))
    assert certificates.load_chain(combined)[1] == INTERMEDIATE


@pytest.mark.parametrize("profile", SUBMITTED, ids=title)
@pytest.mark.parametrize("password", [PASSWORD, ASCII, "x"])
def test_a_pkcs12_keystore_holds_key_leaf_and_chain(profile, password):
    end, intermediate = chain_of(profile)
    key = key_for("leaf", profile)
    store = formats.pkcs12_keystore("order-service", key, end, (intermediate,), password.encode())
    found = pkcs12.load_pkcs12(store, password.encode())
    assert keys.same_public_key(found.key, key)
    assert found.cert.certificate == end
    assert found.cert.friendly_name == b"order-service"
    assert [one.certificate for one in found.additional_certs] == [intermediate]
    with pytest.raises(ValueError, match="password"):
        pkcs12.load_pkcs12(store, b"wrong")


@pytest.mark.parametrize("password", [b"", b"\xff\xfe"])
def test_a_pkcs12_store_needs_a_password_that_is_text(password):
    with pytest.raises(PkiError):
        formats.pkcs12_keystore("a", key_for("leaf"), leaf(), (), password)
    with pytest.raises(PkiError):
        formats.pkcs12_truststore((ROOT,), password)


def test_a_truststore_needs_a_root():
    with pytest.raises(PkiError):
        formats.pkcs12_truststore((), b"password")
    with pytest.raises(PkiError):
        jks.jks_truststore((), "password", T0)


def test_openssl_reads_pkcs12_and_finds_modern_algorithms(openssl, tmp_path, secret):
    store = tmp_path / "keystore.p12"
    store.write_bytes(formats.pkcs12_keystore("a", key_for("leaf"), leaf(), (INTERMEDIATE,), ASCII.encode()))
    said = openssl("pkcs12", "-in", store, "-passin", f"file:{secret}", "-info", "-noout")
    assert "MAC: sha256" in said
    assert said.count("PBES2, PBKDF2, AES-256-CBC") == 2
    trusted = tmp_path / "truststore.p12"
    trusted.write_bytes(formats.pkcs12_truststore((ROOT,), ASCII.encode()))
    listed = openssl("pkcs12", "-in", trusted, "-passin", f"file:{secret}", "-nokeys")
    assert certificates.load_chain(listed.encode()) == (ROOT,)


def listed(keytool, store, kind, secret):
    return keytool("-list", "-keystore", store, "-storetype", kind, "-storepass:file", secret)


def test_java_reads_a_pkcs12_keystore(keytool, tmp_path, secret):
    store = tmp_path / "keystore.p12"
    end = leaf()
    store.write_bytes(formats.pkcs12_keystore("order-service", key_for("leaf"), end, (INTERMEDIATE,), ASCII.encode()))
    said = listed(keytool, store, "PKCS12", secret)
    assert "order-service" in said
    assert "PrivateKeyEntry" in said
    assert certificates.facts(end).fingerprint in said.replace(":", "").lower()


def test_java_trusts_the_roots_of_a_pkcs12_truststore(keytool, tmp_path, secret):
    store = tmp_path / "truststore.p12"
    store.write_bytes(formats.pkcs12_truststore((ROOT, hierarchy(label="-other").root.certificate), ASCII.encode()))
    assert listed(keytool, store, "PKCS12", secret).count("trustedCertEntry") == 2


def test_java_trusts_the_roots_of_a_jks_truststore(keytool, tmp_path, secret):
    store = tmp_path / "truststore.jks"
    store.write_bytes(jks.jks_truststore((ROOT, hierarchy(label="-other").root.certificate), ASCII, T0))
    assert listed(keytool, store, "JKS", secret).count("trustedCertEntry") == 2


@pytest.mark.parametrize("profile", SUBMITTED, ids=title)
def test_java_takes_key_and_chain_out_of_a_jks_keystore(keytool, tmp_path, secret, profile):
    end, intermediate = chain_of(profile)
    store, copy = tmp_path / "keystore.jks", tmp_path / "copy.p12"
    store.write_bytes(jks.jks_keystore("Order-Service", key_for("leaf", profile), (end, intermediate), ASCII, T0))
    source = ["-srckeystore", store, "-srcstoretype", "JKS", "-srcstorepass:file", secret]
    target = ["-destkeystore", copy, "-deststoretype", "PKCS12", "-deststorepass:file", secret]
    keytool("-importkeystore", "-noprompt", *source, *target)
    found = pkcs12.load_pkcs12(copy.read_bytes(), ASCII.encode())
    assert keys.same_public_key(found.key, key_for("leaf", profile))
    assert found.cert.certificate == end
    assert found.cert.friendly_name == b"order-service"
    assert [one.certificate for one in found.additional_certs] == [intermediate]


def test_java_notices_a_wrong_password_and_a_changed_byte(keytool, tmp_path, secret):
    store = tmp_path / "keystore.jks"
    content = jks.jks_keystore("a", key_for("leaf"), (leaf(),), "another password", T0)
    store.write_bytes(content)
    said = keytool("-list", "-keystore", store, "-storetype", "JKS", "-storepass:file", secret, fails=True)
    assert "password was incorrect" in said


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_jks_keystore_reads_back_for_any_alias_and_password(alias, password):
    """Read as the JDK's JavaKeyStore and KeyProtector do, step by step."""
    key, end = key_for("leaf"), leaf()
    store = jks.jks_keystore(alias, key, (end, INTERMEDIATE), password, T0)
    secret = password.encode("utf-16-be", "surrogatepass")
    assert hashlib.sha1(secret + b"Mighty Aphrodite" + store[:-20]).digest() == store[-20:]
    magic, version, entries, kind, length = struct.unpack_from(">IIIIH", store)
    assert (magic, version, entries, kind) == (0xFEEDFEED, 2, 1, 1)
    rest = store[18:]
    assert modified_utf8(rest[:length]) == alias.lower()
    millis, size = struct.unpack_from(">qI", rest, length)
    assert millis == T0.timestamp() * 1000
    protected = rest[length + 12 :][:size]
    opened = unprotect(protected, secret)
    same = opened == formats.der_key(key)
    assert same


def modified_utf8(data):
    assert b"\0" not in data
    units = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    return units.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")


def unprotect(protected, secret):
    """Java's KeyProtector.recover: a salt, the key under a stream of SHA-1 digests, and a digest of the key."""
    start = protected.index(bytes.fromhex("060a2b060104012a021101010500")) + 14
    first = protected[start + 1]
    body = protected[start + 2 + (first & 0x7F if first & 0x80 else 0) :]
    salt, cipher, check = body[:20], body[20:-20], body[-20:]
    plain, digest = b"", salt
    for place in range(0, len(cipher), 20):
        digest = hashlib.sha1(secret + digest).digest()
        plain += bytes(a ^ b for a, b in zip(cipher[place : place + 20], digest, strict=False))
    assert hashlib.sha1(secret + plain).digest() == check
    return plain


def test_two_jks_keystores_of_one_key_have_different_salts():
    first, second = (jks.jks_keystore("a", key_for("leaf"), (leaf(),), ASCII, T0) for _ in range(2))
    differ = first != second
    assert differ


def test_a_jks_time_needs_a_zone_and_an_alias_a_length():
    with pytest.raises(PkiError):
        jks.jks_keystore("a", key_for("leaf"), (leaf(),), ASCII, T0.replace(tzinfo=None))
    with pytest.raises(PkiError):
        jks.jks_keystore("a" * 65536, key_for("leaf"), (leaf(),), ASCII, T0)
