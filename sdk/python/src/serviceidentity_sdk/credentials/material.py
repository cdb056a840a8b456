"""Secret bytes in a type that does not show them."""

import hmac
from typing import NoReturn


class KeyMaterial:
    """Secret bytes. They show in no repr, string, format, pickle or walk over fields; `reveal` is the one way out."""

    __slots__ = ("__raw",)

    def __init__(self, raw: bytes) -> None:
        self.__raw = raw

    def reveal(self) -> bytes:
        """Return the bytes, for the call that needs them."""
        return self.__raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMaterial) and hmac.compare_digest(self.__raw, other.reveal())

    def __hash__(self) -> int:
        return hash((KeyMaterial, self.__raw))

    def __str__(self) -> str:
        return "<redacted>"

    def __repr__(self) -> str:
        return "<redacted>"

    def __format__(self, _spec: str) -> str:
        return "<redacted>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("key material is not pickled")
