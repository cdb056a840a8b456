"""The values of a mounted Secret."""

import os

from serviceidentity_sdk.credentials import CredentialError, Directory, Snapshot


def read_secret(directory: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return the values of a mounted Secret by their keys, all of one version. Raises CredentialError."""
    snapshot = Directory(directory).read()
    return {name: _value(snapshot, name) for name in snapshot}


def _value(snapshot: Snapshot, name: str) -> bytes:
    try:
        return snapshot.read(name)
    except CredentialError:
        return b""  # credentials are never empty; a setting may be
