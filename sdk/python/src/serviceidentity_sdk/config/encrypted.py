"""Values that are encrypted in the environment: `ENC:<iv>:<tag>:<ciphertext>`, each part in hexadecimal digits.

AES-256-GCM (NIST SP 800-38D), as `createCipheriv("aes-256-gcm", key, iv)` of Node's crypto makes it: an IV of 16 or 12
bytes, a tag of 16, no additional data. The form `ENC:v1:...` is for the operator alone, which has the private keys.
"""

import re
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX: Final = "ENC:"
LONGEST: Final = 128 * 1024  # characters: what the operator takes
_ASYMMETRIC: Final = "ENC:v1:"
_SYMMETRIC: Final = re.compile(r"ENC:([0-9A-Fa-f]+):([0-9A-Fa-f]+):([0-9A-Fa-f]*)")
_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_IV_SIZES: Final = (16, 12)
_TAG_SIZE: Final = 16


class DecryptionError(ValueError):
    """A value can't be decrypted. The message says why and quotes neither value nor key."""


class MasterKey:
    """A key of 32 bytes. It shows in no repr, string or pickle."""

    __slots__ = ("__cipher",)

    def __init__(self, text: str) -> None:
        """Read 64 hexadecimal digits. Raises DecryptionError."""
        if not _KEY.fullmatch(text):
            raise DecryptionError("a master key has 64 hexadecimal digits")
        self.__cipher = AESGCM(bytes.fromhex(text))

    def __repr__(self) -> str:
        return "<redacted>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")

    def open(self, iv: bytes, tag: bytes, ciphertext: bytes) -> bytes | None:
        """Return the plaintext; None when the tag does not match."""
        try:
            return self.__cipher.decrypt(iv, ciphertext + tag, None)
        except InvalidTag:
            return None


def parse_master_keys(text: str) -> tuple[MasterKey, ...]:
    """Read keys, one a line, the newest first; empty lines and those that begin with # count for nothing."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(MasterKey(line) for line in lines if line and not line.startswith("#"))


def decrypt(text: str, keys: Sequence[MasterKey]) -> bytes:
    """Return what an encrypted value says, with whichever of the keys opens it. Raises DecryptionError."""
    if text.startswith(_ASYMMETRIC):
        raise DecryptionError("only the operator decrypts the form ENC:v1; let it write the value into a Secret")
    found = _SYMMETRIC.fullmatch(text) if len(text) <= LONGEST else None
    if found is None or any(len(part) % 2 for part in found.groups()):
        raise DecryptionError("not of the form ENC:<iv>:<tag>:<ciphertext> in hexadecimal digits")
    iv, tag, ciphertext = (bytes.fromhex(part) for part in found.groups())
    if len(iv) not in _IV_SIZES or len(tag) != _TAG_SIZE:
        raise DecryptionError("its IV must have 16 or 12 bytes, and its tag 16")
    if not keys:
        raise DecryptionError("encrypted, and there is no master key")
    for key in keys:
        if (opened := key.open(iv, tag, ciphertext)) is not None:
            return opened
    raise DecryptionError("it was changed, or encrypted with another master key")
