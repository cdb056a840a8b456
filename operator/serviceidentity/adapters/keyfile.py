"""Keys from files that are mounted into the operator: the ports `KeyEncryption` and `MasterKeys`."""

import asyncio
import logging
import stat
from datetime import timedelta
from pathlib import Path
from typing import Final

from serviceidentity.domain.encryption.opening import parse_master_keys
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.envelope import WrappedKey
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.local_keys import LocalKey, parse_keys
from serviceidentity.errors import MissingError, RejectedError, SettingsError

logger = logging.getLogger(__name__)

SCHEME: Final = "file:"
LARGEST: Final = 64 * 1024

_Signature = tuple[int, int, int, int]


class KeyFile:
    """The keys of one file: the first of them wraps, all of them unwrap.

    A mounted Secret changes in place, so the file is read anew when it is another one. When it can't be read any more,
    the keys that were read last still unwrap.
    """

    check_every = timedelta(seconds=30)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[LocalKey, ...] = ()
        self._signature: _Signature | None = None

    def knows(self, kek: str) -> bool:
        """Say whether a key of this name is one of a file."""
        return kek.startswith(SCHEME)

    async def current(self) -> str:
        """Return the name of the key that wraps now. Raises SettingsError when the file can't be used."""
        return SCHEME + (await self._read())[0].id

    async def wrap(self, data_key: KeyMaterial, context: bytes) -> WrappedKey:
        """Wrap a data key with the first key. Raises SettingsError."""
        key = (await self._read())[0]
        return WrappedKey(SCHEME + key.id, key.wrap(data_key, context))

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        """Unwrap. Raises MissingError when the key is not in the file, RejectedError when it does not fit."""
        try:
            keys = await self._read()
        except SettingsError:
            if not self._keys:
                raise
            keys = self._keys
        key = next((key for key in keys if SCHEME + key.id == wrapped.kek), None)
        if key is None:
            raise MissingError(f"key {wrapped.kek} is not in the file of key-encryption keys")
        try:
            return key.unwrap(wrapped.text, context)
        except PkiError:
            raise RejectedError(f"key {wrapped.kek} in the file is not the one that it was encrypted with") from None

    async def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """Wrap the same data key with the first key. Raises as the others do."""
        return await self.wrap(await self.unwrap(wrapped, context), context)

    async def _read(self) -> tuple[LocalKey, ...]:
        return await asyncio.to_thread(self._read_if_changed)

    def _read_if_changed(self) -> tuple[LocalKey, ...]:
        try:
            found = self._path.stat()
            signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if signature == self._signature:
                return self._keys
            keys = parse_keys(read_private(self._path, "key-encryption keys"))
        except (OSError, UnicodeDecodeError):
            raise SettingsError("the file of key-encryption keys can't be read") from None
        except PkiError as error:
            raise SettingsError(f"the file of key-encryption keys can't be used: {error}") from None
        if self._signature is not None:
            logger.info("the file of key-encryption keys has changed: %s encrypts now", keys[0].id)
        self._keys, self._signature = keys, signature
        return keys


class MasterKeyFile:
    """Master keys of encrypted values, the port `MasterKeys`: a file, read each time because it may change in place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> tuple[KeyMaterial, ...]:
        """Return the keys, the newest first. Raises SettingsError."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[KeyMaterial, ...]:
        try:
            return parse_master_keys(read_private(self._path, "master keys"))
        except (OSError, UnicodeDecodeError):
            raise SettingsError("the file of master keys can't be read") from None
        except PkiError as error:
            raise SettingsError(f"the file of master keys can't be used: {error}") from None


def read_private(path: Path, what: str) -> str:
    """Return the text of a file that only its owner may write. Raises SettingsError, OSError and UnicodeDecodeError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"the file of {what} is not a file")
    if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SettingsError(
            f"the file of {what} is open to others: allow the owner and reading by the group alone "
            "(in a Pod: defaultMode 0440, and fsGroup)"
        )
    with path.open("rb") as file:
        return file.read(LARGEST).decode()
