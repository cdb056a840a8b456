"""The keys of signed requests, as the operator mounts them: one to sign with, and a keyring to verify with."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from serviceidentity_sdk.credentials import CredentialError, KeyMaterial, Snapshot

SHORTEST: Final = 16  # bytes; the operator's keys have 32
_STATES: Final = ("Prepared", "Active", "Retiring")


@dataclass(frozen=True, slots=True)
class HmacKey:
    """A key and its ID. `until` is the time from which it no longer verifies, where that is fixed."""

    key_id: str
    material: KeyMaterial
    until: datetime | None = None

    def __post_init__(self) -> None:
        if len(self.material.reveal()) < SHORTEST:
            raise CredentialError("an HMAC key is too short")


@dataclass(frozen=True, slots=True)
class Caller:
    """A service whose requests are verified, with every key of its ring.

    All of them verify: the next one may have been used already, the previous one may still be.
    """

    service_id: str
    keys: tuple[HmacKey, ...]
    spiffe_id: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The callers of a service, by service ID."""

    callers: Mapping[str, Caller]

    @classmethod
    def of(cls, keys: Mapping[str, Iterable[bytes]]) -> "Keyring":
        """Make a keyring of plain keys, for services whose keys come from elsewhere. Raises CredentialError."""
        return cls(
            {
                service_id: Caller(
                    service_id, tuple(HmacKey(str(at), KeyMaterial(key)) for at, key in enumerate(found))
                )
                for service_id, found in keys.items()
            }
        )


def read_keyring(snapshot: Snapshot) -> Keyring:
    """Read a mounted `<name>-hmac-keyring` Secret. Raises CredentialError."""
    try:
        services = json.loads(snapshot.read("keyring.json"))["services"]
        return Keyring({service_id: _caller(service_id, entry) for service_id, entry in services.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CredentialError(f"{snapshot.path}/keyring.json is no keyring of the operator") from None


def read_signing_key(snapshot: Snapshot) -> HmacKey:
    """Read the key that signs from a mounted `<name>-hmac` Secret: the Active one. Raises CredentialError."""
    if "keys.json" in snapshot:
        try:
            keys = json.loads(snapshot.read("keys.json"))["keys"]
            (active,) = (jwk for jwk in keys if jwk["state"] == "Active")
            return _key(active)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CredentialError(f"{snapshot.path}/keys.json is no key set of the operator") from None
    try:
        return HmacKey(snapshot.text("key-id").strip(), KeyMaterial(bytes.fromhex(snapshot.text("key"))))
    except ValueError:
        raise CredentialError(f"{snapshot.path}/key is not in hex") from None


def _caller(service_id: str, entry: Mapping[str, Any]) -> Caller:
    claims = {name: str(entry[name]) for name in ("namespace", "name") if name in entry}
    spiffe_id = str(entry["spiffeID"]) if entry.get("spiffeID") else None
    return Caller(service_id, tuple(_key(jwk) for jwk in entry["keys"]), spiffe_id, claims)


def _key(jwk: Mapping[str, Any]) -> HmacKey:
    if jwk["kty"] != "oct" or jwk.get("state", "Active") not in _STATES:
        raise ValueError
    raw = str(jwk["k"])
    material = KeyMaterial(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
    retiring = jwk.get("state") == "Retiring" and "until" in jwk
    return HmacKey(str(jwk["kid"]), material, _time(jwk["until"]) if retiring else None)


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
