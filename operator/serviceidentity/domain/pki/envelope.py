"""Envelope encryption of a private key: AES-256-GCM (NIST SP 800-38D) under a data key that is used once.

The data key is wrapped by a key-encryption key (KEK), which is not in the cluster's store. What the key belongs to goes
into the encryption as associated data, so that an envelope opens in no other place. The text is canonical JSON:
another text that means the same is refused, so there is no byte in it that may be changed.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.errors import PkiError

VERSION: Final = 1
KEY_SIZE: Final = 32
IV_SIZE: Final = 12
LONGEST: Final = 64 * 1024
LONGEST_NAME: Final = 512
_FIELDS: Final = ("version", "kek", "wrappedKey", "iv", "ciphertext")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a private key belongs to. `fingerprint` is that of its certificate."""

    trust_domain: str
    role: str
    secret_name: str
    fingerprint: str

    def encoded(self) -> bytes:
        """Return the associated data: the same for the same authority, different for any other."""
        return b"serviceidentity.dev/authority-key:" + _canonical(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as the KEK named `kek` gave it, with the KEK's version in the name. Only the KEK can read `text`."""

    kek: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A private key at rest."""

    wrapped: WrappedKey
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the text to store."""
        fields = {
            "version": VERSION,
            "kek": self.wrapped.kek,
            "wrappedKey": self.wrapped.text,
            "iv": base64.b64encode(self.iv).decode(),
            "ciphertext": base64.b64encode(self.ciphertext).decode(),
        }
        return _canonical(fields).encode()


def new_data_key() -> KeyMaterial:
    """Make a data key: for one sealing, never for a second one."""
    return KeyMaterial(os.urandom(KEY_SIZE))


def seal(plain: KeyMaterial, data_key: KeyMaterial, wrapped: WrappedKey, binding: Binding) -> Envelope:
    """Encrypt a private key under a data key that nothing else was encrypted with."""
    iv = os.urandom(IV_SIZE)
    return Envelope(wrapped, iv, AESGCM(data_key.reveal()).encrypt(iv, plain.reveal(), binding.encoded()))


def unseal(envelope: Envelope, data_key: KeyMaterial, binding: Binding) -> KeyMaterial:
    """Decrypt. Raises PkiError when anything was changed, or the envelope is not where it belongs."""
    try:
        plain = AESGCM(data_key.reveal()).decrypt(envelope.iv, envelope.ciphertext, binding.encoded())
    except (InvalidTag, ValueError):
        raise PkiError("it was changed, or belongs to another authority") from None
    return KeyMaterial(plain)


def is_sealed(stored: bytes) -> bool:
    """Say whether this is an envelope, readable or not; anything else is a private key as it is, or nothing of ours."""
    return stored[:1] == b"{"


def decode(stored: bytes) -> Envelope:
    """Read an envelope. Raises PkiError on anything that `encode` would not have written."""
    try:
        found: Any = json.loads(stored) if len(stored) <= LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != set(_FIELDS):
        raise PkiError("not an envelope")
    if found["version"] != VERSION or isinstance(found["version"], bool):
        raise PkiError("an envelope of another version")
    try:
        iv, ciphertext = (base64.b64decode(found[name], validate=True) for name in ("iv", "ciphertext"))
        wrapped = WrappedKey(_text(found["kek"], LONGEST_NAME), _text(found["wrappedKey"], LONGEST))
        envelope = Envelope(wrapped, iv, ciphertext)
        canonical = envelope.encode()
    except (binascii.Error, ValueError, TypeError):
        raise PkiError("a damaged envelope") from None
    if len(iv) != IV_SIZE or canonical != stored:
        raise PkiError("a damaged envelope")
    return envelope


def _text(value: object, longest: int) -> str:
    """Return what can be shown in a message as it is."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not (value.isascii() and value.isprintable()):
        raise ValueError("not a plain text")
    return value


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))
