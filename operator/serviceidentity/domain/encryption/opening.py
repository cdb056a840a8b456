"""What an identity's encrypted values decrypt to with the keys that are at hand, all of them or none."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from serviceidentity.domain.encryption import values
from serviceidentity.domain.encryption.ring import EMPTY, KeyRing
from serviceidentity.domain.encryption.values import (
    Asymmetric,
    MalformedValueError,
    Scope,
    Symmetric,
    UndecryptableError,
)
from serviceidentity.domain.material import Held, KeyMaterial
from serviceidentity.domain.pki.errors import PkiError

LARGEST_SECRET: Final = 1024 * 1024  # the API server's own limit, all values of a Secret together
_NAMED: Final = 5
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Problem(StrEnum):
    """Why values can't be decrypted; reasons of the condition, the most telling first."""

    MALFORMED = "MalformedValue"
    FAILED = "DecryptionFailed"
    KEYS_MISSING = "EncryptionKeysMissing"
    KEY_UNKNOWN = "KeyUnknown"
    NO_MASTER_KEY = "MasterKeyMissing"
    FORBIDDEN = "MasterKeyNotAllowed"
    TOO_LARGE = "TooLarge"
    NOT_READ = "EncryptionKeysNotRead"


_MESSAGES: Final = {
    Problem.MALFORMED: "in neither form of an encrypted value",
    Problem.FAILED: "changed, or made for another namespace, name or key, or with another master key",
    Problem.KEYS_MISSING: "can't be decrypted",
    Problem.KEY_UNKNOWN: "encrypted with a key that is not in the operator's key ring",
    Problem.NO_MASTER_KEY: "symmetric, and the operator has no master key",
    Problem.FORBIDDEN: "symmetric, and the operator's master keys are not for this namespace",
}


@dataclass(frozen=True, slots=True)
class ValueKeys:
    """The keys that decrypt. `master_namespaces` None means that symmetric values may be used everywhere.

    `trouble` and `master_trouble` say why there is no ring, or no master key. `known` is False until they were read.
    """

    ring: KeyRing = EMPTY
    masters: tuple[KeyMaterial, ...] = ()
    master_namespaces: frozenset[str] | None = None
    trouble: str | None = None
    master_trouble: str | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """The values by their keys."""

    values: Mapping[str, KeyMaterial] = field(repr=False)


def open_values(texts: Mapping[str, str], namespace: str, name: str, keys: ValueKeys) -> Opened | Held:
    """Decrypt all values of an identity; Held names those that can't be, never what is in them."""
    if not keys.known:
        return Held(Problem.NOT_READ, "the operator has not read its encryption keys yet")
    opened: dict[str, KeyMaterial] = {}
    problems: dict[Problem, list[str]] = {}
    for key, text in sorted(texts.items()):
        found = _open(text, Scope(namespace, name, key), keys)
        if isinstance(found, Problem):
            problems.setdefault(found, []).append(_named(key, text, found))
        else:
            opened[key] = found
    if problems:
        reason = min(problems, key=list(Problem).index)
        return Held(reason, "; ".join(_message(problem, problems[problem], keys) for problem in sorted(problems)))
    if sum(len(value.reveal()) for value in opened.values()) > LARGEST_SECRET:
        return Held(Problem.TOO_LARGE, f"together the values have more than {LARGEST_SECRET} bytes")
    return Opened(opened)


def key_id_of(text: str) -> str | None:
    """Return the ID of the key that a value was encrypted with; None for a symmetric or malformed one."""
    try:
        value = values.parse(text)
    except MalformedValueError:
        return None
    return value.key_id if isinstance(value, Asymmetric) else None


def parse_master_keys(text: str) -> tuple[KeyMaterial, ...]:
    """Read master keys, the newest first: 64 hexadecimal digits a line. Raises PkiError with the number of a line.

    Empty lines and those that begin with # count for nothing.
    """
    keys: list[KeyMaterial] = []
    for number, line in enumerate((line.strip() for line in text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        if not _HEX.fullmatch(line):
            raise PkiError(f"line {number} is not a key of 64 hexadecimal digits")
        raw = bytes.fromhex(line)
        if len(set(raw)) == 1:
            raise PkiError(f"line {number} has a placeholder, not a key")
        keys.append(KeyMaterial(raw))
    if not keys:
        raise PkiError("there is no key in it")
    return tuple(keys)


def _open(text: str, scope: Scope, keys: ValueKeys) -> KeyMaterial | Problem:
    try:
        value = values.parse(text)
        if isinstance(value, Asymmetric):
            return _open_asymmetric(value, scope, keys.ring)
        return _open_symmetric(value, scope, keys)
    except MalformedValueError:
        return Problem.MALFORMED
    except UndecryptableError:
        return Problem.FAILED


def _open_asymmetric(value: Asymmetric, scope: Scope, ring: KeyRing) -> KeyMaterial | Problem:
    if not ring.pairs:
        return Problem.KEYS_MISSING
    pair = ring.get(value.key_id)
    return Problem.KEY_UNKNOWN if pair is None else value.decrypt(pair.private_key, scope)


def _open_symmetric(value: Symmetric, scope: Scope, keys: ValueKeys) -> KeyMaterial | Problem:
    if keys.master_namespaces is not None and scope.namespace not in keys.master_namespaces:
        return Problem.FORBIDDEN
    if not keys.masters:
        return Problem.NO_MASTER_KEY
    for master in keys.masters:
        with suppress(UndecryptableError):
            return value.decrypt(master)
    return Problem.FAILED


def _named(key: str, text: str, problem: Problem) -> str:
    return f"{key} (key {key_id_of(text)})" if problem is Problem.KEY_UNKNOWN else key


def _message(problem: Problem, named: list[str], keys: ValueKeys) -> str:
    shown = ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
    why = {Problem.KEYS_MISSING: keys.trouble, Problem.NO_MASTER_KEY: keys.master_trouble}.get(problem)
    return f"{shown}: {_MESSAGES[problem]}" + (f": {why}" if why else "")
