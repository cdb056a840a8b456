"""A mounted Secret or ConfigMap, read as one consistent whole.

The kubelet writes each version of a volume into a directory of its own, points the symlink `..data` at it with one
rename, and then removes the directory before. `tls.crt` in the volume is a symlink to `..data/tls.crt`, so who opens
two files one after the other can get them from two versions. Here `..data` is opened once, all files are read relative
to that directory, and they count only if `..data` still is that directory afterwards.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from serviceidentity_sdk.credentials.errors import CredentialError
from serviceidentity_sdk.credentials.material import KeyMaterial

_DATA: Final = "..data"
_ATTEMPTS: Final = 100  # a kubelet swaps once a minute; whoever swaps without pause is waited for this often
_LARGEST: Final = 4 * 1024 * 1024  # bytes; a Secret or ConfigMap has at most 1 MiB, a projected volume several of them

T = TypeVar("T")
_Version = tuple[object, ...]


class Snapshot:
    """The files of a directory at one instant. Its repr has their names and nothing of their content."""

    __slots__ = ("_files", "path")

    def __init__(self, path: str, files: Mapping[str, KeyMaterial]) -> None:
        self.path = path
        self._files = dict(files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"<Snapshot of {self.path}: {', '.join(self._files)}>"

    def material(self, name: str) -> KeyMaterial:
        """Return a file as key material. Raises CredentialError if it is not there or empty."""
        found = self._files.get(name)
        if found is None:
            raise CredentialError(f"{self.path} has no file {name}")
        if not found.reveal():
            raise CredentialError(f"{self.path}/{name} is empty")
        return found

    def read(self, name: str) -> bytes:
        """Return the bytes of a file that is not secret. Raises CredentialError if it is not there or empty."""
        return self.material(name).reveal()

    def text(self, name: str) -> str:
        """Return the text of a file that is not secret. Raises CredentialError if it is not there, or no UTF-8."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError:
            raise CredentialError(f"{self.path}/{name} is not UTF-8") from None


class _MovedError(Exception):
    """The files changed while they were read."""


class Directory:
    """A directory where a Secret or ConfigMap is mounted.

    A directory without `..data` (on a developer's machine, from another volume driver) works too: it is read again when
    a file changed meanwhile, but nothing says when a writer of several files is done. What is made of the files has to
    check that they belong together, as `Watch` expects it to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = os.fspath(path)

    def __repr__(self) -> str:
        return f"Directory({self.path!r})"

    def version(self) -> _Version:
        """Return what changes whenever the files may have changed. Cheap with `..data`. Raises CredentialError."""
        return self._holding_still(self._version)

    def read(self) -> Snapshot:
        """Return all regular files, of one version of the volume.

        Raises CredentialError if the directory is missing or may not be read, or if it does not hold still.
        """
        return self._holding_still(self._read)

    def _holding_still(self, look: Callable[[], T]) -> T:
        """Look until nothing changed meanwhile."""
        for _ in range(_ATTEMPTS):
            try:
                return look()
            except (FileNotFoundError, _MovedError) as error:
                if not os.path.isdir(self.path):  # noqa: PTH112  # a plain string goes in and out here
                    raise self._unreadable(error) from error
            except OSError as error:
                raise self._unreadable(error) from error
        raise CredentialError(f"{self.path} does not hold still, or its {_DATA} points nowhere")

    def _version(self) -> _Version:
        with self._opened() as (fd, swapped):
            return _identity(fd) if swapped else _listed(fd)

    def _read(self) -> Snapshot:
        with self._opened() as (fd, swapped):
            before = _listed(fd)
            files = dict(_contents(fd, budget=[_LARGEST]))
            if _listed(fd) != before or (swapped and not self._still(fd)):
                raise _MovedError
        return Snapshot(self.path, files)

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, bool]]:
        """Open the directory that holds the files; say whether it is one that is swapped."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        data = f"{self.path}/{_DATA}"
        try:
            fd, swapped = os.open(data, flags), True
        except FileNotFoundError:
            if os.path.islink(data):  # noqa: PTH114  # its target was removed this moment: not a plain directory
                raise
            fd, swapped = os.open(self.path, flags), False
        try:
            yield fd, swapped
        finally:
            os.close(fd)

    def _still(self, fd: int) -> bool:
        """Say whether `..data` is still the open directory. An inode is not used again while it is open."""
        found = os.stat(f"{self.path}/{_DATA}")  # noqa: PTH116
        return (found.st_dev, found.st_ino) == _identity(fd)[:2]

    def _unreadable(self, error: Exception) -> CredentialError:
        reason = (isinstance(error, OSError) and error.strerror) or "it changes"
        return CredentialError(f"{self.path} can't be read: {reason}")


def _identity(fd: int) -> _Version:
    """Device, inode and times: an inode number may come back after the directory was removed, at another time."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _walk(fd: int, under: str = "") -> Iterator[tuple[str, str, int, os.stat_result]]:
    """Yield each regular file: path below the volume, name, directory, stat. `..*` is not content: the kubelet's."""
    with os.scandir(fd) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".."))
    for name in names:
        found = os.stat(name, dir_fd=fd)
        if stat.S_ISREG(found.st_mode):
            yield under + name, name, fd, found
        elif stat.S_ISDIR(found.st_mode):  # the `path` of an item may have folders
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from _walk(inner, f"{under}{name}/")
            finally:
                os.close(inner)


def _listed(fd: int) -> _Version:
    return tuple(
        (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for path, _, _, found in _walk(fd)
    )


def _contents(fd: int, budget: list[int]) -> Iterator[tuple[str, KeyMaterial]]:
    for path, name, parent, found in _walk(fd):
        budget[0] -= found.st_size
        if budget[0] < 0:
            raise CredentialError(f"the files are larger than {_LARGEST} bytes")
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(file, "rb") as stream:
            raw = stream.read(found.st_size + 1)
        if len(raw) != found.st_size:
            raise _MovedError
        yield path, KeyMaterial(raw)
