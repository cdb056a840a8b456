"""The user of PostgreSQL, out of a mounted Secret."""

from dataclasses import dataclass
from typing import Final

from serviceidentity_sdk.credentials import CredentialError, Directory, KeyMaterial, Snapshot, Watch

_INTERVAL: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Login:
    """A user of PostgreSQL."""

    user: str
    password: KeyMaterial


def read_login(snapshot: Snapshot) -> Login:
    """Read `username` and `password` of a mounted Secret. Raises CredentialError."""
    user, password = snapshot.text("username"), snapshot.material("password")
    snapshot.text("password")  # libpq takes text
    if "\0" in user or b"\0" in password.reveal():
        raise CredentialError(f"{snapshot.path} has a NUL in username or password")
    return Login(user, password)


def watch_login(directory: str, interval: float = _INTERVAL) -> Watch[Login]:
    """Follow a mounted Secret. Raises CredentialError when it is not there at the start."""
    return Watch([Directory(directory)], read_login, interval=interval)
