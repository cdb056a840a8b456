"""Forms in which keys and certificates are handed out besides PEM: DER, combined PEM, PKCS#12 (RFC 7292)."""

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import PrivateKey

# Java 17 and OpenSSL 3 read PBES2 with AES-256 and a SHA-256 MAC; the old RC2 and SHA-1 forms are for nobody any more.
_KDF_ROUNDS: Final = 10_000


def der_key(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def combined_pem(key_pem: bytes, chain_pem: bytes) -> bytes:
    """Return key, then chain, as one PEM text: what HAProxy and MongoDB want in one file."""
    return b"".join(pem if pem.endswith(b"\n") else pem + b"\n" for pem in (key_pem, chain_pem))


def pkcs12_keystore(
    name: str, key: PrivateKey, leaf: x509.Certificate, chain: Sequence[x509.Certificate], password: bytes
) -> bytes:
    """Return a keystore with one entry: key, leaf and chain under the friendly name `name`.

    Raises PkiError when the password is empty or not UTF-8.
    """
    return pkcs12.serialize_key_and_certificates(name.encode(), key, leaf, list(chain), _encryption(password))


def pkcs12_truststore(roots: Sequence[x509.Certificate], password: bytes) -> bytes:
    """Return a truststore that Java accepts: each root with Oracle's trusted-key-usage attribute.

    Raises PkiError without roots, or when the password is empty or not UTF-8.
    """
    if not roots:
        raise PkiError("a truststore needs a root")
    entries = [pkcs12.PKCS12Certificate(root, f"root-{number}".encode()) for number, root in enumerate(roots)]
    return pkcs12.serialize_java_truststore(entries, _encryption(password))


def _encryption(password: bytes) -> serialization.KeySerializationEncryption:
    try:
        password.decode()
    except UnicodeDecodeError:
        raise PkiError("a keystore's password has to be text in UTF-8") from None
    if not password:
        raise PkiError("a keystore needs a password")
    return (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_KDF_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )
