"""The directory that a Kubernetes Secret is mounted at, read as it was at one moment."""

import os
from pathlib import Path
from typing import Final

_DATA: Final = "..data"  # the kubelet's symbolic link to the current version, swapped with rename(2)
_ATTEMPTS: Final = 10


class MountError(OSError):
    """A mounted Secret can't be read. The message names the directory."""


def read_secret(directory: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return the values of a mounted Secret by their keys, all of one version. Raises MountError.

    A swap while it is read is noticed, and the new version is read instead. A plain directory is read as it is.
    """
    root = Path(directory)
    for _ in range(_ATTEMPTS):
        before = _version(root)
        try:
            found = _files(root / before if before else root)
        except OSError:
            if _version(root) == before:
                raise MountError(f"{root}: can't be read") from None
            continue  # the version that was being read is gone
        if _version(root) == before:
            return found
    raise MountError(f"{root}: changes all the time")


def _version(root: Path) -> str | None:
    try:
        return os.readlink(root / _DATA)  # noqa: PTH115  # the text of the link, not a path
    except OSError:
        return None


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith("..") and file.is_file()
    }
