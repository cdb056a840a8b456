"""Key material, and the content of a Secret, as values that do not leak."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NoReturn

from serviceidentity.errors import ServiceIdentityError


class MalformedError(ServiceIdentityError):
    """A Secret's content is not what this operator writes. The message never quotes the content."""


class KeyMaterial:
    """Secret bytes. They show in no repr, string, format, pickle or walk over fields; `reveal` is the one way out."""

    __slots__ = ("__raw",)

    def __init__(self, raw: bytes) -> None:
        self.__raw = raw

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

    def reveal(self) -> bytes:
        """Return the bytes, for the code that signs with them or writes the Secret."""
        return self.__raw


@dataclass(frozen=True, slots=True)
class SecretContent:
    """What a Secret should hold: its type, its data as the API has it (base64 text) and our annotations on it."""

    type: str
    data: Mapping[str, str] = field(repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, type_: str, data: Mapping[str, bytes], annotations: Mapping[str, str]) -> "SecretContent":
        """Build from plain bytes."""
        encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
        return cls(type_, MappingProxyType(encoded), MappingProxyType(dict(annotations)))

    def value(self, key: str) -> bytes:
        """Return the decoded value; raises MalformedError when it is absent or not base64."""
        return _decoded(self.data, key)


@dataclass(frozen=True, slots=True)
class SecretView:
    """A Secret as it was last seen. `data` stays base64 text until someone needs a value."""

    namespace: str
    name: str
    uid: str
    resource_version: int
    type: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owners: tuple[Mapping[str, object], ...]
    data: Mapping[str, str] = field(repr=False)
    immutable: bool = False

    def value(self, key: str) -> bytes:
        """Return the decoded value; raises MalformedError when it is absent or not base64."""
        return _decoded(self.data, key)


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing can be done now, and why. `retry` says when to look again; none means: when something changes."""

    reason: str
    message: str
    retry: datetime | None = None


def _decoded(data: Mapping[str, str], key: str) -> bytes:
    try:
        return base64.b64decode(data[key], validate=True)
    except KeyError:
        raise MalformedError(f"{key} is missing") from None
    except (binascii.Error, ValueError, TypeError):
        raise MalformedError(f"{key} can't be decoded") from None
