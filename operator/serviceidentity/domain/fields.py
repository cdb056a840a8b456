"""Fields of an object's JSON, read one by one; what is not as it should be is an InvalidSpecError with its path."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyProfile
from serviceidentity.domain.schedule import parse_duration
from serviceidentity.domain.selectors import LabelSelector, Operator, Requirement
from serviceidentity.errors import InvalidSpecError

DEFAULT_SIZES: Final = {KeyAlgorithm.ECDSA: 256, KeyAlgorithm.RSA: 2048, KeyAlgorithm.ED25519: 0}

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Json = Mapping[str, Any]


def optional(spec: Json, field: str, read: Callable[[Json], T]) -> T | None:
    if spec.get(field) is None:
        return None
    return read(block(spec, field, "spec"))


def block(parent: Json, field: str, path: str) -> Json:
    value = parent.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidSpecError(f"{path}.{field}".lstrip("."), "must be an object")
    return value


def blocks(parent: Json, field: str, path: str) -> list[tuple[str, Json]]:
    items = parent.get(field) or []
    where = f"{path}.{field}"
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise InvalidSpecError(where, "must be a list of objects")
    return [(f"{where}[{index}]", item) for index, item in enumerate(items)]


def text(parent: Json, field: str, path: str, default: str | None = None) -> str:
    value = parent.get(field)
    if value is None:
        value = default
    if not isinstance(value, str) or (not value and default != ""):
        raise InvalidSpecError(f"{path}.{field}", "must be a non-empty text")
    return value


def texts(parent: Json, field: str, path: str) -> tuple[str, ...]:
    values = parent.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidSpecError(f"{path}.{field}", "must be a list of texts")
    return tuple(values)


def flag(parent: Json, field: str, path: str) -> bool:
    value = parent.get(field, False)
    if not isinstance(value, bool):
        raise InvalidSpecError(f"{path}.{field}", "must be true or false")
    return value


def count(parent: Json, field: str, path: str, default: int) -> int:
    value = parent.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSpecError(f"{path}.{field}", "must be a whole number of at least 1")
    return value


def duration(parent: Json, field: str, path: str, default: timedelta | None = None) -> timedelta:
    value = parent.get(field)
    if value is None and default is not None:
        return default
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except ValueError as error:
        raise InvalidSpecError(f"{path}.{field}", str(error)) from None


def choice(parent: Json, field: str, path: str, choices: type[E], default: E) -> E:
    value = parent.get(field)
    return default if value is None else member(choices, value, f"{path}.{field}")


def member(choices: type[E], value: object, path: str) -> E:
    try:
        return choices(str(value))
    except ValueError:
        raise InvalidSpecError(path, "must be one of " + ", ".join(choices)) from None


def label_selector(given: Json, path: str) -> LabelSelector:
    """Read a LabelSelector as Kubernetes has it. Raises InvalidSpecError."""
    labels = block(given, "matchLabels", path)
    requirements = [Requirement(key, Operator.IN, (text(labels, key, f"{path}.matchLabels", ""),)) for key in labels]
    for where, item in blocks(given, "matchExpressions", path):
        operator, values = member(Operator, item.get("operator"), f"{where}.operator"), texts(item, "values", where)
        if bool(values) is not (operator in (Operator.IN, Operator.NOT_IN)):
            raise InvalidSpecError(f"{where}.values", "must be given for In and NotIn, and for nothing else")
        requirements.append(Requirement(text(item, "key", where), operator, values))
    return LabelSelector(tuple(requirements))


def key_profile(given: Json, path: str) -> KeyProfile:
    """Read algorithm and size of a key. Raises InvalidSpecError."""
    algorithm = choice(given, "algorithm", path, KeyAlgorithm, KeyAlgorithm.ECDSA)
    size = given.get("size", DEFAULT_SIZES[algorithm])
    if not isinstance(size, int):
        raise InvalidSpecError(f"{path}.size", "must be a number of bits")
    try:
        return KeyProfile(algorithm, size)
    except PkiError:
        raise InvalidSpecError(f"{path}.size", f"{size} bits is not a size for {algorithm}") from None


def is_https(url: str) -> bool:
    """Say whether a text is an absolute https URL with a host, of printable ASCII, and names no user."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "https" and bool(parts.hostname) and port != 0 and "@" not in parts.netloc
    return plain and bool(re.fullmatch(r"[!-~]{1,2048}", url))
