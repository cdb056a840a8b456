"""Settings and secrets of a service: files over mounted Secrets over environment variables, decrypted where needed."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from serviceidentity_sdk.config.encrypted import PREFIX, DecryptionError, MasterKey, decrypt, parse_master_keys
from serviceidentity_sdk.config.mounted import read_secret
from serviceidentity_sdk.credentials import CredentialError

T = TypeVar("T")
MASTER_KEY: Final = "MASTER_KEY"
FILE: Final = "_FILE"
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_REQUIRED: Final[Any] = object()


class SecretsError(ValueError):
    """Settings are missing or can't be used. The message has a line for each of `names`, and none of their values."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("\n".join(f"{name}: {why}" for name, why in problems.items()))
        self.names = tuple(problems)


class Secrets(Mapping[str, str]):
    """Settings by name.

    A value comes from the first of these that has it:

    1. the file that `<NAME>_FILE` names, without the line end at its end,
    2. a file `<NAME>` in one of the directories, in their order: mounted Secrets,
    3. the environment variable `<NAME>`.

    Files are read when a value is asked for, so a Secret that was rotated is seen without a restart; the environment is
    as it was when this was made. A value that begins with `ENC:` is decrypted, wherever it comes from.
    """

    def __init__(
        self, env: Mapping[str, str], keys: Sequence[MasterKey], directories: Sequence[Path], hidden: frozenset[str]
    ) -> None:
        """Take the variables as they are now; `hidden` ones are not handed on."""
        self._env = {name: value for name, value in env.items() if name not in hidden}
        self._keys = tuple(keys)
        self._directories = tuple(directories)
        self._opened: dict[str, bytes] = {}  # of variables, which don't change

    def __repr__(self) -> str:
        return f"<Secrets: {len(self)} names>"

    def __getitem__(self, name: str) -> str:
        """Return a value as text. Raises KeyError when there is none, SecretsError when it can't be used."""
        try:
            return self.raw(name).decode()
        except UnicodeDecodeError:
            raise SecretsError({name: "not UTF-8"}) from None

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(self._env)
        for name, value in self._env.items():
            if name.endswith(FILE) and name != FILE and Path(value).is_file():
                names[name.removesuffix(FILE)] = None
        for directory in self._directories:
            names.update(dict.fromkeys(_mounted(directory)))
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._found(name) is not None

    def raw(self, name: str) -> bytes:
        """Return a value as bytes. Raises KeyError when there is none, SecretsError when it can't be used."""
        found = self._found(name)
        if found is None:
            raise KeyError(name)
        value, stays = found
        if not value.startswith(PREFIX.encode()):
            return value
        if stays and name in self._opened:
            return self._opened[name]
        try:
            opened = decrypt(value.decode("ascii", "replace"), self._keys)
        except DecryptionError as error:
            raise SecretsError({name: str(error)}) from None
        if stays:
            self._opened[name] = opened
        return opened

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """Return a text that is not empty. Raises SecretsError, also when it is missing and has no default."""
        return self._typed(name, default, lambda text: text or None, "empty")

    def integer(
        self, name: str, default: int = _REQUIRED, *, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Return a whole number in decimal digits, between `minimum` and `maximum`. Raises SecretsError."""

        def read(text: str) -> int | None:
            number = int(text) if _INTEGER.fullmatch(text) else None
            if (
                number is None
                or (minimum is not None and number < minimum)
                or (maximum is not None and number > maximum)
            ):
                return None
            return number

        between = f"{'' if minimum is None else f' from {minimum}'}{'' if maximum is None else f' to {maximum}'}"
        return self._typed(name, default, read, f"not a whole number{between}")

    def flag(self, name: str, default: bool = _REQUIRED) -> bool:
        """Return true, 1, yes, on as True and false, 0, no, off as False, in any case. Raises SecretsError."""

        def read(text: str) -> bool | None:
            lower = text.lower()
            return True if lower in _TRUE else False if lower in _FALSE else None

        return self._typed(name, default, read, "neither true nor false")

    def json(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a value that is written as JSON, not null. Raises SecretsError."""

        def read(text: str) -> Any:
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return None

        return self._typed(name, default, read, "not JSON")

    def _typed(self, name: str, default: T, read: Callable[[str], T | None], otherwise: str) -> T:
        if name not in self:
            if default is _REQUIRED:
                raise SecretsError({name: "missing"})
            return default
        found = read(self[name])
        if found is None:
            raise SecretsError({name: otherwise})
        return found

    def _found(self, name: str) -> tuple[bytes, bool] | None:
        """Return a value as it is written, and whether it will stay so."""
        if named := self._env.get(f"{name}{FILE}"):
            try:
                return _without_line_end(Path(named).read_bytes()), False
            except (OSError, ValueError):
                raise SecretsError({name: f"the file that {name}{FILE} names can't be read"}) from None
        for directory in self._directories:
            if (value := _mounted(directory).get(name)) is not None:
                return _without_line_end(value), False
        given = self._env.get(name)
        return None if given is None else (given.encode(errors="surrogateescape"), True)


def load_secrets(
    env: Mapping[str, str] | None = None,
    *,
    required: Iterable[str] = (),
    directories: Iterable[str | os.PathLike[str]] = (),
    master_key: str = MASTER_KEY,
    export: MutableMapping[str, str] | None = None,
) -> Secrets:
    """Return the settings of a service. Raises SecretsError that names everything that is wrong, at once.

    `env` is os.environ unless another is given. Every `ENC:` value in it is decrypted now, with the key in the variable
    `master_key` or the file that `<master_key>_FILE` names: 64 hexadecimal digits, or several lines of them, the newest
    first. `required` must be there and not be empty.

    Nothing is written to `env`. `export` (say, os.environ) gets the decrypted values of `ENC:` variables, for libraries
    that read nothing else; every child process inherits them then.
    """
    given = dict(os.environ if env is None else env)
    needed = frozenset(required)
    keys = _master_keys(given, master_key)
    hidden = frozenset({master_key, f"{master_key}{FILE}"})
    secrets = Secrets(given, keys, [Path(one) for one in directories], hidden)
    problems: dict[str, str] = {}
    encrypted = [name for name, value in given.items() if value.startswith(PREFIX) and name not in hidden]
    for name in sorted({*encrypted, *needed}):
        try:
            missing = name in needed and not (name in secrets and secrets.raw(name))
            if missing:
                problems[name] = "missing"
            else:
                secrets.raw(name)
        except SecretsError as error:
            problems[name] = str(error).removeprefix(f"{name}: ")
    if problems:
        raise SecretsError(problems)
    if export is not None:
        export.update({name: secrets[name] for name in encrypted})
    return secrets


def _master_keys(env: Mapping[str, str], name: str) -> tuple[MasterKey, ...]:
    text = env.get(name, "")
    if file := env.get(f"{name}{FILE}"):
        try:
            text = Path(file).read_text()
        except (OSError, ValueError):
            raise SecretsError({name: f"the file that {name}{FILE} names can't be read"}) from None
    try:
        return parse_master_keys(text)
    except DecryptionError as error:
        raise SecretsError({name: str(error)}) from None


def _mounted(directory: Path) -> dict[str, bytes]:
    try:
        return read_secret(directory)
    except CredentialError as error:
        raise SecretsError({str(directory): "the mounted Secret can't be read"}) from error


def _without_line_end(value: bytes) -> bytes:
    """Editors and `echo` end a file with one; `printf` and Kubernetes do not."""
    return value.removesuffix(b"\n").removesuffix(b"\r") if value.endswith(b"\n") else value
