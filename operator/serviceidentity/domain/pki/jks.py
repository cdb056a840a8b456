"""Writing Java keystores (JKS), the format that Java had before PKCS#12.

Our own code because the one library for it, pyjks, has had no release since 2020 and brings C extensions for ciphers
that writing does not need. The format is that of sun.security.provider.JavaKeyStore and KeyProtector: SHA-1 is given
there. Its protection of the key is weak by today's measure; whoever can choose should take PKCS#12.
"""

import hashlib
import hmac
import secrets
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.formats import der_key
from serviceidentity.domain.pki.keys import PrivateKey

_MAGIC: Final = 0xFEEDFEED
_VERSION: Final = 2
_KEY_ENTRY: Final = 1
_CERTIFICATE_ENTRY: Final = 2
_DIGEST_SALT: Final = b"Mighty Aphrodite"
_SALT_LENGTH: Final = 20
_DIGEST_LENGTH: Final = 20
_TEXT_LIMIT: Final = 0xFFFF
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# AlgorithmIdentifier 1.3.6.1.4.1.42.2.17.1.1 (Sun's key protector) with NULL parameters, DER.
_PROTECTOR: Final = bytes.fromhex("300e060a2b060104012a021101010500")


def jks_keystore(
    alias: str, key: PrivateKey, chain: Sequence[x509.Certificate], password: str, created: datetime
) -> bytes:
    """Return a keystore with one private key and its chain, leaf first. Java aliases are lower case.

    Raises PkiError when the alias is too long, or `created` has no time zone.
    """
    protected = _protect(der_key(key), password)
    entry = struct.pack(">I", _KEY_ENTRY) + _text(alias.lower()) + _millis(created)
    entry += struct.pack(">I", len(protected)) + protected
    entry += struct.pack(">I", len(chain)) + b"".join(_certificate(certificate) for certificate in chain)
    return _store([entry], password)


def jks_truststore(roots: Sequence[x509.Certificate], password: str, created: datetime) -> bytes:
    """Return a truststore with the roots as trusted certificates. Raises PkiError without roots."""
    if not roots:
        raise PkiError("a truststore needs a root")
    entries = [
        struct.pack(">I", _CERTIFICATE_ENTRY) + _text(f"root-{number}") + _millis(created) + _certificate(root)
        for number, root in enumerate(roots)
    ]
    return _store(entries, password)


def opens(store: bytes, password: str) -> bool:
    """Say whether a keystore is whole and made with this password: its digest says so."""
    body, digest = store[:-_DIGEST_LENGTH], store[-_DIGEST_LENGTH:]
    return hmac.compare_digest(_sha1(_password(password) + _DIGEST_SALT + body), digest)


def _store(entries: Sequence[bytes], password: str) -> bytes:
    body = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    return body + _sha1(_password(password) + _DIGEST_SALT + body)


def _protect(plain: bytes, password: str) -> bytes:
    """Sun's key protector: XOR with a chain of SHA-1 digests, in an EncryptedPrivateKeyInfo (RFC 5958 3)."""
    secret, salt = _password(password), secrets.token_bytes(_SALT_LENGTH)
    stream, digest = b"", salt
    while len(stream) < len(plain):
        digest = _sha1(secret + digest)
        stream += digest
    cipher = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    return _der(0x30, _PROTECTOR + _der(0x04, salt + cipher + _sha1(secret + plain)))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:  # noqa: PLR2004  # X.690 8.1.3.4: the short form ends here
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + content


def _certificate(certificate: x509.Certificate) -> bytes:
    der = certificate.public_bytes(serialization.Encoding.DER)
    return _text("X.509") + struct.pack(">I", len(der)) + der


def _text(value: str) -> bytes:
    """Java's modified UTF-8 (java.io.DataInput): each UTF-16 code unit by itself, and NUL as two bytes."""
    units = value.encode("utf-16-be", "surrogatepass")
    text = "".join(chr(unit) for (unit,) in struct.iter_unpack(">H", units))
    data = text.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")
    if len(data) > _TEXT_LIMIT:
        raise PkiError("an alias is too long for a keystore")
    return struct.pack(">H", len(data)) + data


def _millis(instant: datetime) -> bytes:
    if instant.utcoffset() is None:
        raise PkiError("a keystore's time needs a time zone")
    return struct.pack(">q", (instant - _EPOCH) // timedelta(milliseconds=1))


def _password(password: str) -> bytes:
    """Java's chars, two bytes each."""
    return password.encode("utf-16-be", "surrogatepass")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()  # noqa: S324  # the format prescribes it
