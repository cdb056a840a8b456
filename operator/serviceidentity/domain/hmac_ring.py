"""The life of an HMAC key: Prepared -> Active -> Retiring -> gone, as pure transitions of a ring of keys.

A Prepared key is in every keyring but signs nothing; the Active one signs; a Retiring one only verifies, until its
deadline. So a verifier always holds a key before its first signature and until after its last one.
"""

import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.schedule import earliest, format_time, jitter, parse_time

KEY_BYTES: Final = 32
LAST_YEAR: Final = 9000  # there is room behind it for every duration
_CHECK_LABEL: Final = b"serviceidentity.dev/key-id/v1"


class KeyState(StrEnum):
    """Where a key is in its life."""

    PREPARED = "Prepared"
    ACTIVE = "Active"
    RETIRING = "Retiring"


@dataclass(frozen=True, slots=True)
class HmacKey:
    """One key. `changed` is when it came into its state; `until` is when it leaves it, where that is fixed."""

    key_id: str
    material: KeyMaterial
    state: KeyState
    changed: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of one identity: exactly one Active, at most one Prepared, any Retiring."""

    keys: tuple[HmacKey, ...]

    def in_state(self, state: KeyState) -> HmacKey | None:
        """Return the first key in the state."""
        return next((key for key in self.keys if key.state is state), None)

    @property
    def active(self) -> HmacKey:
        """The key that signs."""
        return next(key for key in self.keys if key.state is KeyState.ACTIVE)

    @property
    def key_ids(self) -> frozenset[str]:
        """IDs of all keys."""
        return frozenset(key.key_id for key in self.keys)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a ring turns: the durations of `spec.hmac`, and who must have a key before it is used."""

    rotate_every: timedelta
    overlap: timedelta
    publish_before: timedelta
    published: Callable[[str], bool]
    rotation_requested: bool = False


class Step(StrEnum):
    """One transition of a ring."""

    DROP = "Drop"
    ACTIVATE = "Activate"
    PREPARE = "Prepare"


def key_id(material: KeyMaterial) -> str:
    """Return a key's ID: 64 bits of HMAC-SHA256 over a fixed label under the key itself, in hex.

    A key check value: it says nothing about a random 256-bit key, and a Secret whose key was edited no longer matches
    its ID, even for an operator that has just started and remembers nothing.
    """
    return hmac.digest(material.reveal(), _CHECK_LABEL, "sha256")[:8].hex()


def generate(state: KeyState, now: datetime, until: datetime | None = None) -> HmacKey:
    """Make a key from the system's random source."""
    material = KeyMaterial(secrets.token_bytes(KEY_BYTES))
    return HmacKey(key_id(material), material, state, now, until)


def new_ring(now: datetime) -> Ring:
    """Return a first ring: nobody has seen a key yet, so its only key is Active at once."""
    return Ring((generate(KeyState.ACTIVE, now),))


def prepare_time(ring: Ring, rhythm: Rhythm) -> datetime:
    """When the next key has to be published for the Active one to be replaced on schedule (jitter only earlier)."""
    active = ring.active
    wait = rhythm.rotate_every - rhythm.publish_before
    return active.changed + wait - jitter(wait, active.key_id)


def next_step(ring: Ring, rhythm: Rhythm, now: datetime) -> Step | None:
    """Return the one transition that is due, or None. Deadlines first, so that time moved far ahead is no harm."""
    if any(key.state is KeyState.RETIRING and key.until is not None and now >= key.until for key in ring.keys):
        return Step.DROP
    prepared = ring.in_state(KeyState.PREPARED)
    if prepared is not None:
        due = prepared.until is None or now >= prepared.until
        return Step.ACTIVATE if due and rhythm.published(prepared.key_id) else None
    if rhythm.rotation_requested or now >= prepare_time(ring, rhythm):
        return Step.PREPARE
    return None


def advance(ring: Ring, rhythm: Rhythm, now: datetime) -> Ring:
    """Take every transition that is due at `now`; return the same ring when none is."""
    while (step := next_step(ring, rhythm, now)) is not None:
        match step:
            case Step.DROP:
                kept = (k for k in ring.keys if k.state is not KeyState.RETIRING or k.until is None or now < k.until)
                ring = Ring(tuple(kept))
            case Step.ACTIVATE:
                ring = _activate(ring, rhythm, now)
            case Step.PREPARE:
                key = generate(KeyState.PREPARED, now, now + rhythm.publish_before)
                ring = Ring((*ring.keys, key))
                rhythm = replace(rhythm, rotation_requested=False)
    return ring


def _activate(ring: Ring, rhythm: Rhythm, now: datetime) -> Ring:
    moved = {
        KeyState.PREPARED: lambda key: replace(key, state=KeyState.ACTIVE, changed=now, until=None),
        KeyState.ACTIVE: lambda key: replace(key, state=KeyState.RETIRING, changed=now, until=now + rhythm.overlap),
        KeyState.RETIRING: lambda key: key,
    }
    return Ring(tuple(moved[key.state](key) for key in ring.keys))


def deadline(ring: Ring, rhythm: Rhythm) -> datetime | None:
    """When the ring has its next transition, supposing that keys are published in time."""
    retiring = (key.until for key in ring.keys if key.state is KeyState.RETIRING)
    prepared = ring.in_state(KeyState.PREPARED)
    return earliest(*retiring, prepared.until if prepared else prepare_time(ring, rhythm))


def to_jwk(key: HmacKey) -> dict[str, str]:
    """One key as a JWK (RFC 7518 6.4) with our members for its state and deadlines; this holds the key itself."""
    jwk = {
        "kid": key.key_id,
        "kty": "oct",
        "alg": "HS256",
        "k": urlsafe_b64encode(key.material.reveal()).rstrip(b"=").decode(),
        "state": key.state.value,
        "changed": format_time(key.changed),
    }
    return jwk | ({"until": format_time(key.until)} if key.until else {})


def _from_jwk(jwk: Mapping[str, Any]) -> HmacKey:
    raw = jwk["k"]
    material = KeyMaterial(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
    if len(material.reveal()) != KEY_BYTES or not hmac.compare_digest(key_id(material), jwk["kid"]):
        raise MalformedError("a key does not match its ID")
    state, changed = KeyState(jwk["state"]), parse_time(jwk["changed"])
    until = parse_time(jwk["until"]) if "until" in jwk else None
    if (until is None) is not (state is KeyState.ACTIVE) or max(changed, until or changed).year > LAST_YEAR:
        raise MalformedError("a key's times are not those of its state")
    return HmacKey(jwk["kid"], material, state, changed, until)


def to_json(ring: Ring) -> bytes:
    """Write a ring as a JWK Set (RFC 7517 5)."""
    return json.dumps({"keys": [to_jwk(key) for key in ring.keys]}, separators=(",", ":")).encode()


def from_json(text: bytes) -> Ring:
    """Read what `to_json` wrote. Raises MalformedError on anything else, including a key that is not its ID's."""
    try:
        ring = Ring(tuple(_from_jwk(jwk) for jwk in json.loads(text)["keys"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("the keys are not a JWK Set of this operator") from None
    states = [key.state for key in ring.keys]
    if states.count(KeyState.ACTIVE) != 1 or states.count(KeyState.PREPARED) > 1:
        raise MalformedError("the keys are not one Active and at most one Prepared")
    return ring
