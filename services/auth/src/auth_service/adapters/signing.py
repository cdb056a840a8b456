"""The keys of the operator's `<name>-jwt` Secret: the one that signs, and those that verify, of one version."""

from dataclasses import dataclass
from typing import Final

from serviceidentity_sdk.credentials import CredentialError, Directory, Snapshot, Watch
from serviceidentity_sdk.jwt import Key, KeySet, read_jwks, read_token_key

_INTERVAL: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Signing:
    """Key, published keys, and the published file as it is."""

    key: Key
    keys: KeySet
    jwks: bytes


def read_signing(snapshot: Snapshot) -> Signing:
    """Read a mounted `<name>-jwt` Secret. Raises CredentialError, also when the signing key is not published."""
    key, keys = read_token_key(snapshot), read_jwks(snapshot)
    if key.key_id not in {one.key_id for one in keys.keys}:
        raise CredentialError(f"{snapshot.path}: the key that signs is not in jwks.json")
    return Signing(key, keys, snapshot.read("jwks.json"))


def watch_signing(directory: str, interval: float = _INTERVAL) -> Watch[Signing]:
    """Follow a mounted Secret. Raises CredentialError when it is not there at the start."""
    return Watch([Directory(directory)], read_signing, interval=interval)


class SigningKey:
    """The `key` of a TokenSigner."""

    def __init__(self, watch: Watch[Signing]) -> None:
        self._watch = watch

    @property
    def current(self) -> Key:
        return self._watch.current.key


class PublishedKeys:
    """The keys of a TokenVerifier."""

    def __init__(self, watch: Watch[Signing]) -> None:
        self._watch = watch

    async def keys(self, _key_id: str | None) -> KeySet:
        return self._watch.current.keys
