"""Key-encryption keys in a file: how the file is read, and how they wrap data keys (AES-256-GCM)."""

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.envelope import IV_SIZE, KEY_SIZE
from serviceidentity.domain.pki.errors import PkiError

_ID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class LocalKey:
    """A key-encryption key under the ID that envelopes name."""

    id: str
    key: KeyMaterial = field(repr=False)

    def wrap(self, data_key: KeyMaterial, context: bytes) -> str:
        """Encrypt a data key, bound to `context`; returns base64 of IV and ciphertext."""
        iv = os.urandom(IV_SIZE)
        wrapped = AESGCM(self.key.reveal()).encrypt(iv, data_key.reveal(), self._bound(context))
        return base64.b64encode(iv + wrapped).decode()

    def unwrap(self, text: str, context: bytes) -> KeyMaterial:
        """Decrypt a data key. Raises PkiError when this is not the key, or anything was changed."""
        try:
            raw = base64.b64decode(text, validate=True)
            data_key = AESGCM(self.key.reveal()).decrypt(raw[:IV_SIZE], raw[IV_SIZE:], self._bound(context))
        except (InvalidTag, binascii.Error, ValueError):
            raise PkiError("this key does not open it") from None
        return KeyMaterial(data_key)

    def _bound(self, context: bytes) -> bytes:
        return f"serviceidentity.dev/data-key:{self.id}:".encode() + context


def parse_keys(text: str) -> tuple[LocalKey, ...]:
    """Read the keys of a file: a line `id: key` for each, with 32 bytes as hexadecimal digits or base64.

    Empty lines and those that begin with # count for nothing. Raises PkiError with the number of the line, never with
    what is in it.
    """
    keys: list[LocalKey] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, encoded = (part.strip() for part in line.partition(":"))
        if not colon or not _ID.fullmatch(name):
            raise PkiError(f"line {number} is not of the form id: key")
        if any(key.id == name for key in keys):
            raise PkiError(f"line {number} has an ID that was there before")
        keys.append(LocalKey(name, _decode(encoded, number)))
    if not keys:
        raise PkiError("there is no key in it")
    return tuple(keys)


def _decode(encoded: str, number: int) -> KeyMaterial:
    try:
        raw = bytes.fromhex(encoded) if _HEX.fullmatch(encoded) else base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise PkiError(f"line {number} has a key that is neither hexadecimal digits nor base64") from None
    if len(raw) != KEY_SIZE:
        raise PkiError(f"line {number} has a key that is not {KEY_SIZE} bytes long")
    if len(set(raw)) == 1:
        raise PkiError(f"line {number} has a placeholder, not a key")
    return KeyMaterial(raw)
