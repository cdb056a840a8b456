"""The operator's key pairs for encrypted values: the newest encrypts, all decrypt, and none is ever dropped.

They lie in one Secret of the operator's namespace; the public one of the newest is in a ConfigMap beside it that
everyone may read.
"""

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from serviceidentity.domain import ownership
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretContent, SecretView
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_time, parse_time

SECRET_NAME: Final = "serviceidentity-encryption-keys"  # noqa: S105  # a name
PUBLIC_NAME: Final = "serviceidentity-encryption-key"
SECRET_TYPE: Final = "serviceidentity.dev/encryption-keys"  # noqa: S105  # a type
LABEL: Final = "serviceidentity.dev/encryption-keys"
KEYS: Final = "keys.json"
PUBLIC_KEY: Final = "public-key.pem"
KEY_IDS: Final = "key-ids"
SHORTEST_ROTATION: Final = timedelta(hours=1)
_KEY_SIZE: Final = 32


def key_id(public_key: X25519PublicKey) -> str:
    """Return the ID under which values name a public key: the first 64 bits of its SHA-256, in hex."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


@dataclass(frozen=True)
class KeyPair:
    """A key pair and when it was made."""

    created: datetime
    private: KeyMaterial = field(repr=False)

    @cached_property
    def private_key(self) -> X25519PrivateKey:
        """The private key, ready for use."""
        return X25519PrivateKey.from_private_bytes(self.private.reveal())

    @cached_property
    def id(self) -> str:
        """ID of the public key."""
        return key_id(self.private_key.public_key())


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Key pairs, the newest first."""

    pairs: tuple[KeyPair, ...]

    @property
    def newest(self) -> KeyPair:
        """The one whose public key encrypts."""
        return self.pairs[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """IDs of all, the newest first."""
        return tuple(pair.id for pair in self.pairs)

    def get(self, wanted: str) -> KeyPair | None:
        """Return the key pair of an ID."""
        return next((pair for pair in self.pairs if pair.id == wanted), None)

    def with_new(self, now: datetime) -> "KeyRing":
        """Return the ring with a new key pair in front; a clock that was put back does not make it an older one."""
        private = KeyMaterial(X25519PrivateKey.generate().private_bytes_raw())
        created = max([now, *(pair.created + timedelta(seconds=1) for pair in self.pairs[:1])])
        return KeyRing((KeyPair(created, private), *self.pairs))

    def merged(self, other: "KeyRing") -> "KeyRing":
        """Return the ring with the key pairs of another one that it does not have."""
        added = tuple(pair for pair in other.pairs if self.get(pair.id) is None)
        if not added:
            return self
        return KeyRing(tuple(sorted((*self.pairs, *added), key=lambda pair: pair.created, reverse=True)))


EMPTY: Final = KeyRing(())


def to_json(ring: KeyRing) -> bytes:
    """Return the ring as it is stored."""
    keys = [
        {
            "keyID": pair.id,
            "created": format_time(pair.created),
            "privateKey": base64.urlsafe_b64encode(pair.private.reveal()).decode(),
        }
        for pair in ring.pairs
    ]
    return json.dumps({"keys": keys}, indent=1).encode()


def from_json(text: bytes) -> KeyRing:
    """Read a ring. Raises MalformedError, which never quotes anything, unless it can be read to the last key."""
    try:
        keys: Any = json.loads(text)["keys"]
        ring = KeyRing(tuple(_pair(entry) for entry in keys))
        if [entry["keyID"] for entry in keys] != list(ring.ids):
            raise MalformedError("a key of the ring does not have the ID that is written with it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("the ring can't be read") from None
    if not ring.pairs or len(set(ring.ids)) != len(ring.pairs):
        raise MalformedError("the ring has no key, or one of them twice")
    return KeyRing(tuple(sorted(ring.pairs, key=lambda pair: pair.created, reverse=True)))


def _pair(entry: Any) -> KeyPair:
    raw = base64.b64decode(entry["privateKey"], altchars=b"-_", validate=True)
    if len(raw) != _KEY_SIZE:
        raise ValueError("not a private key")
    return KeyPair(parse_time(entry["created"]), KeyMaterial(raw))


def rotation_time(ring: KeyRing, every: timedelta | None) -> datetime | None:
    """When a new key pair is due; None when that is up to people."""
    return ring.newest.created + every if every is not None and ring.pairs else None


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no ring, though there was one."""

    message: str


def next_ring(
    stored: KeyRing,
    known: KeyRing,
    *,
    earlier: Collection[str],
    requested: bool,
    every: timedelta | None,
    now: datetime,
) -> KeyRing | Lost:
    """Return the ring as it should be.

    `stored` is what the Secret holds (EMPTY without one), `known` what this process has seen there: what was taken out
    meanwhile is put back. `earlier` are IDs of keys that there were, as far as anything tells: with no ring left, a new
    one is made only when somebody asked, because it could not decrypt what was encrypted with the old one.
    """
    ring = stored.merged(known)
    if not ring.pairs and not requested and (missing := lost(earlier)) is not None:
        return missing
    due = rotation_time(ring, every)
    if not ring.pairs or requested or (due is not None and now >= due):
        return ring.with_new(now)
    return ring


def lost(earlier: Collection[str]) -> Lost | None:
    """Return what is to be told when there is no ring, and anything tells of keys that there were."""
    ids = ", ".join(sorted(earlier)[:3])
    if not earlier:
        return None
    way_out = "put it back, or have a new one made with kubectl sid encryption-key rotate"
    return Lost(f"Secret {SECRET_NAME} with the keys is gone (there was key {ids}): {way_out}")


def content_of(ring: KeyRing, served: str | None) -> SecretContent:
    """Return what the Secret holds; `served` is the request for a new key that was followed last."""
    record = {} if served is None else {ownership.ROTATED_ANNOTATION: served}
    return SecretContent.of(SECRET_TYPE, {KEYS: to_json(ring)}, record)


def public_content_of(ring: KeyRing) -> SecretContent:
    """Return what the ConfigMap holds: the key to encrypt with, and the IDs of all that decrypt."""
    data = {PUBLIC_KEY: to_pem(ring.newest.private_key.public_key()), KEY_IDS: "\n".join(ring.ids).encode() + b"\n"}
    return SecretContent.of("", data, {})


def metadata_of(content: SecretContent) -> Metadata:
    """Return the metadata of both. Nobody owns them: they must outlive everything else."""
    labels = {ownership.MANAGED_BY_LABEL: ownership.MANAGED_BY, LABEL: "true"}
    return Metadata(labels, dict(content.annotations), ())


def published_ids(view: SecretView | None) -> tuple[str, ...]:
    """Return the IDs of the keys that the ConfigMap tells of; none when it can't be read."""
    try:
        return tuple(view.value(KEY_IDS).decode().split()) if view is not None else ()
    except (MalformedError, UnicodeDecodeError):
        return ()


def to_pem(public_key: X25519PublicKey) -> bytes:
    """Return a public key in PEM (RFC 8410)."""
    return public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def from_pem(text: bytes) -> X25519PublicKey:
    """Read a public key. Raises PkiError."""
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PkiError("not a public key in PEM") from None
    if not isinstance(key, X25519PublicKey):
        raise PkiError("not an X25519 public key")
    return key
