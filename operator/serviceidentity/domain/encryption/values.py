"""Values that are encrypted where everyone may read them, in one of two forms.

`ENC:v1:<key ID>:<base64url>` is asymmetric: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
AES-256-GCM; the encapsulated key and the ciphertext, one after the other. What the value belongs to (namespace, name of
the identity, key) goes in as `info`, so that it decrypts nowhere else.

`ENC:<iv>:<tag>:<ciphertext>` is symmetric: AES-256-GCM (NIST SP 800-38D), each part in hexadecimal digits, as programs
on Node's crypto write it. It is bound to nothing: whoever copies it elsewhere has it decrypted there.

A text has one spelling: another one that would decode to the same bytes is refused.
"""

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ServiceIdentityError

PREFIX: Final = "ENC:"
LARGEST: Final = 48 * 1024  # bytes of a value: as text it stays below LONGEST in the asymmetric form
LONGEST: Final = 128 * 1024  # characters of a text
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_OVERHEAD: Final = 32 + 16  # encapsulated key and tag
_IV_SIZES: Final = (16, 12)  # Node's examples have 16; NIST's own size is 12
_TAG_SIZE: Final = 16
_ASYMMETRIC: Final = re.compile(r"ENC:v1:([0-9a-f]{16}):([A-Za-z0-9_-]+)")
_SYMMETRIC: Final = re.compile(r"ENC:([0-9a-f:]+|[0-9A-F:]+)")
_PARTS: Final = 3


class MalformedValueError(ServiceIdentityError):
    """A text is in neither form. The message never quotes it."""


class UndecryptableError(ServiceIdentityError):
    """The key is another one, the text was changed, or it was made for another place."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a value belongs to: the identity's namespace and name, and the key that it has there."""

    namespace: str
    name: str
    key: str

    def encoded(self) -> bytes:
        """Return HPKE's `info`: the same for the same place, different for any other."""
        place = json.dumps([self.namespace, self.name, self.key], separators=(",", ":"))
        return b"serviceidentity.dev/encrypted-value/v1:" + place.encode()


@dataclass(frozen=True, slots=True)
class Asymmetric:
    """A value that was encrypted to a public key."""

    key_id: str
    sealed: bytes = field(repr=False)

    def decrypt(self, private_key: X25519PrivateKey, scope: Scope) -> KeyMaterial:
        """Return the value. Raises UndecryptableError."""
        try:
            return KeyMaterial(_SUITE.decrypt(self.sealed, private_key, scope.encoded()))
        except (InvalidTag, ValueError):
            raise UndecryptableError("it was changed, or made for another namespace, name or key") from None


@dataclass(frozen=True, slots=True)
class Symmetric:
    """A value that was encrypted with a master key."""

    iv: bytes = field(repr=False)
    tag: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    def decrypt(self, master_key: KeyMaterial) -> KeyMaterial:
        """Return the value. Raises UndecryptableError."""
        try:
            return KeyMaterial(AESGCM(master_key.reveal()).decrypt(self.iv, self.ciphertext + self.tag, None))
        except (InvalidTag, ValueError):
            raise UndecryptableError("it was changed, or encrypted with another master key") from None


def parse(text: str) -> Asymmetric | Symmetric:
    """Read a text in either form. Raises MalformedValueError."""
    if len(text) > LONGEST:
        raise MalformedValueError(f"longer than {LONGEST} characters")
    if found := _ASYMMETRIC.fullmatch(text):
        return Asymmetric(found[1], _unbase64(found[2]))
    if found := _SYMMETRIC.fullmatch(text):
        return _symmetric(found[1])
    raise MalformedValueError("neither ENC:v1:<key ID>:<base64url> nor ENC:<iv>:<tag>:<ciphertext> in hex")


def encrypt(value: KeyMaterial, public_key: X25519PublicKey, key_id: str, scope: Scope) -> str:
    """Encrypt to a public key, for one place. Raises ValueError for a value that is too large or a key of no use."""
    if len(value.reveal()) > LARGEST:
        raise ValueError(f"a value has at most {LARGEST} bytes")
    sealed = _SUITE.encrypt(value.reveal(), public_key, scope.encoded())
    return f"{PREFIX}v1:{key_id}:{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"


def encrypt_symmetric(value: KeyMaterial, master_key: KeyMaterial) -> str:
    """Encrypt with a master key, bound to nothing. Raises ValueError for a value that is too large.

    The IV has 16 bytes, as those who read this form elsewhere expect it.
    """
    if len(value.reveal()) > LARGEST:
        raise ValueError(f"a value has at most {LARGEST} bytes")
    iv = os.urandom(_IV_SIZES[0])
    sealed = AESGCM(master_key.reveal()).encrypt(iv, value.reveal(), None)
    return f"{PREFIX}{iv.hex()}:{sealed[-_TAG_SIZE:].hex()}:{sealed[:-_TAG_SIZE].hex()}"


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise MalformedValueError("not base64url") from None
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise MalformedValueError("not base64url as it is written")  # bits at its end that mean nothing
    if len(raw) < _OVERHEAD:
        raise MalformedValueError("too short: its end is missing")
    return raw


def _symmetric(text: str) -> Symmetric:
    parts = text.split(":")
    if len(parts) != _PARTS:
        raise MalformedValueError("not of the three parts iv:tag:ciphertext")
    try:
        iv, tag, ciphertext = (bytes.fromhex(part) for part in parts)
    except ValueError:
        raise MalformedValueError("a part has an odd number of hexadecimal digits") from None
    if len(iv) not in _IV_SIZES or len(tag) != _TAG_SIZE:
        raise MalformedValueError("its IV must have 16 or 12 bytes, and its tag 16")
    return Symmetric(iv, tag, ciphertext)
