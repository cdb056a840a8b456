import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from serviceidentity.domain.pki import certificates, formats, jks, keys
from serviceidentity.domain.pki.errors import PkiError
from tests.unit.pki.hierarchy import NOW, PROFILES, hierarchy, key_of

PASSWORD = "changeit"
keytool = pytest.mark.skipif(shutil.which("keytool") is None, reason="keytool (a Java runtime) is not installed")


@keytool
@pytest.mark.parametrize("profile", PROFILES[:3], ids=lambda p: f"{p.algorithm}-{p.size}")
@pytest.mark.parametrize("kind", ["p12", "jks"])
def test_java_reads_the_key_out_of_a_keystore(kind, profile, tmp_path):
    tree, key = hierarchy(), key_of(profile)
    leaf = tree.leaf(profile)
    chain = (leaf, *tree.intermediate.chain)
    stores = {
        "p12": lambda: formats.pkcs12_keystore("order-service", key, leaf, chain[1:], PASSWORD.encode()),
        "jks": lambda: jks.jks_keystore("order-service", key, chain, PASSWORD, NOW),
    }
    (tmp_path / "store").write_bytes(stores[kind]())
    command = ["keytool", "-importkeystore", "-noprompt", "-srckeystore", "store", "-srcstorepass", PASSWORD]
    command += ["-destkeystore", "copy", "-deststoretype", "PKCS12", "-deststorepass", PASSWORD]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    pem = subprocess.run(
        ["openssl", "pkcs12", "-in", "copy", "-passin", f"pass:{PASSWORD}", "-nodes", "-nocerts"],
        cwd=tmp_path, check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert certificates.key_matches(leaf, keys.load(pem[pem.index(b"-----BEGIN") :]))


@keytool
@pytest.mark.parametrize("kind", ["p12", "jks"])
def test_java_trusts_the_roots_of_a_truststore(kind, tmp_path):
    root = hierarchy().root.certificate
    stores = {
        "p12": lambda: formats.pkcs12_truststore([root], PASSWORD.encode()),
        "jks": lambda: jks.jks_truststore([root], PASSWORD, NOW),
    }
    (tmp_path / "store").write_bytes(stores[kind]())
    command = ["keytool", "-list", "-keystore", "store", "-storepass", PASSWORD]
    listed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert listed.count("trustedCertEntry") == 1


@keytool
def test_a_keystore_with_a_flipped_bit_is_refused_by_java(tmp_path):
    store = bytearray(jks.jks_truststore([hierarchy().root.certificate], PASSWORD, NOW))
    store[40] ^= 1
    (tmp_path / "store").write_bytes(store)
    command = ["keytool", "-list", "-keystore", "store", "-storepass", PASSWORD]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.algorithm}-{p.size}")
def test_keys_survive_writing_and_reading(profile):
    key = key_of(profile)
    encodings = [keys.KeyEncoding.PKCS8] if profile.algorithm == "Ed25519" else list(keys.KeyEncoding)
    for encoding in encodings:
        again = keys.load(keys.encode(key, encoding))
        assert again.public_key() == key.public_key()
        assert keys.profile_of(again) == profile
    der = serialization.load_der_private_key(formats.der_key(key), None)
    assert der.public_key() == key.public_key()


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_garbage_is_refused_without_being_quoted(data):
    for read in (keys.load, certificates.load_chain, lambda d: certificates.load_issuer(d, d)):
        with pytest.raises(PkiError) as caught:
            read(data)
        text = data.decode(errors="replace").strip()
        assert len(text) < 4 or text not in str(caught.value)


@given(st.integers(0, 2000), st.integers(0, 7))
def test_a_damaged_certificate_is_refused_or_not_signed_by_its_issuer(position, bit):
    pem = certificates.encode_chain(LEAF)
    damaged = bytearray(pem)
    damaged[position % len(pem)] ^= 1 << bit
    try:
        (found,) = certificates.load_chain(bytes(damaged))
        certificates.facts(found)
    except (PkiError, ValueError):
        return
    assert found == LEAF or not certificates.signed_by(found, TREE.intermediate.certificate)


@pytest.mark.parametrize(("algorithm", "size"), [("RSA", 1024), ("RSA", 8192), ("ECDSA", 521), ("ECDSA", 0)])
def test_weak_and_odd_key_sizes_do_not_exist(algorithm, size):
    with pytest.raises(PkiError):
        keys.KeyProfile(keys.KeyAlgorithm(algorithm), size)


TREE = hierarchy()
LEAF = TREE.leaf()
