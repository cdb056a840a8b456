"""The life of a key that others verify with: Prepared -> Active -> Retiring -> gone, as pure transitions of a ring.

A Prepared key is known to every verifier but signs nothing; the Active one signs; a Retiring one only verifies, until
its deadline. So a verifier always holds a key before its first signature and until after its last one. What kind of key
it is, HMAC or the private half of a pair, makes no difference here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.schedule import earliest, format_time, jitter

LAST_YEAR: Final = 9000  # there is room behind it for every duration
MOST_KEYS: Final = 32  # a schedule needs three; more come of rotations that are asked for one after the other


class KeyState(StrEnum):
    """Where a key is in its life."""

    PREPARED = "Prepared"
    ACTIVE = "Active"
    RETIRING = "Retiring"


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key. `changed` is when it came into its state; `until` is when it leaves it, where that is fixed."""

    key_id: str
    material: KeyMaterial
    state: KeyState
    changed: datetime
    until: datetime | None = None


Make = Callable[[], tuple[str, KeyMaterial]]  # makes a key and its ID


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of one identity: exactly one Active, at most one Prepared, any Retiring."""

    keys: tuple[RingKey, ...]

    def in_state(self, state: KeyState) -> RingKey | None:
        """Return the first key in the state."""
        return next((key for key in self.keys if key.state is state), None)

    @property
    def active(self) -> RingKey:
        """The key that signs."""
        return next(key for key in self.keys if key.state is KeyState.ACTIVE)

    @property
    def key_ids(self) -> frozenset[str]:
        """IDs of all keys."""
        return frozenset(key.key_id for key in self.keys)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a ring turns, and who must have a key before it signs. `overlap`: how long a replaced key still verifies."""

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


def new_ring(make: Make, now: datetime) -> Ring:
    """Return a first ring: nobody has seen a key yet, so its only key is Active at once."""
    return Ring((RingKey(*make(), KeyState.ACTIVE, now),))


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
    if len(ring.keys) < MOST_KEYS and (rhythm.rotation_requested or now >= prepare_time(ring, rhythm)):
        return Step.PREPARE
    return None


def advance(ring: Ring, rhythm: Rhythm, make: Make, now: datetime) -> Ring:
    """Take every transition that is due at `now`; return the same ring when none is."""
    while (step := next_step(ring, rhythm, now)) is not None:
        match step:
            case Step.DROP:
                kept = (k for k in ring.keys if k.state is not KeyState.RETIRING or k.until is None or now < k.until)
                ring = Ring(tuple(kept))
            case Step.ACTIVATE:
                ring = _activate(ring, rhythm, now)
            case Step.PREPARE:
                key = RingKey(*make(), KeyState.PREPARED, now, now + rhythm.publish_before)
                ring = Ring((*ring.keys, key))
                rhythm = replace(rhythm, rotation_requested=False)
    return ring


def without_wait_for_the_future(ring: Ring, now: datetime) -> Ring:
    """Return the ring with a Prepared key that was made by a clock that was ahead due at once.

    For rings whose keys wait for a record of when they were published besides: that is what keeps the lead.
    """
    prepared = ring.in_state(KeyState.PREPARED)
    if prepared is None or prepared.changed <= now:
        return ring
    due = replace(prepared, changed=now, until=now)
    return Ring(tuple(due if key is prepared else key for key in ring.keys))


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
    if (prepared := ring.in_state(KeyState.PREPARED)) is not None:
        return earliest(*retiring, prepared.until)
    return earliest(*retiring, prepare_time(ring, rhythm) if len(ring.keys) < MOST_KEYS else None)


def checked(keys: tuple[RingKey, ...]) -> Ring:
    """Return the ring of keys that were read from somewhere. Raises MalformedError when they can't be one."""
    for key in keys:
        if (key.until is None) is not (key.state is KeyState.ACTIVE) or max(
            key.changed, key.until or key.changed
        ).year > LAST_YEAR:
            raise MalformedError("a key's times are not those of its state")
    states = [key.state for key in keys]
    if states.count(KeyState.ACTIVE) != 1 or states.count(KeyState.PREPARED) > 1:
        raise MalformedError("the keys are not one Active and at most one Prepared")
    return Ring(keys)


def status_of(key: RingKey) -> dict[str, str]:
    """Return what a status says of a key: its ID, its state and its deadline."""
    status = {"keyID": key.key_id, "state": key.state.value}
    if key.state is KeyState.ACTIVE:
        status["activationTime"] = format_time(key.changed)
    elif key.until is not None:
        name = "activationTime" if key.state is KeyState.PREPARED else "retirementTime"
        status[name] = format_time(key.until)
    return status


def next_activation(ring: Ring, rhythm: Rhythm) -> datetime:
    """When the next key begins to sign, supposing that it is published in time."""
    prepared = ring.in_state(KeyState.PREPARED)
    if prepared is not None and prepared.until is not None:
        return prepared.until
    return prepare_time(ring, rhythm) + rhythm.publish_before
