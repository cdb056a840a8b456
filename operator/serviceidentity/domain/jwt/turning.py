"""What is due for a trust domain's token keys, and what is told of them. Pure: `next_change` is the whole decision.

A key is made, published, and signs only when everyone has had it for its lead; it counts from when the ConfigMap and
the trust bundle of every selected namespace have it, which is on record on the Secret.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain import key_ring
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.jwt.authority import CONFIG_MAP, TokenKeys, secret_name
from serviceidentity.domain.key_ring import KeyState, Rhythm, Ring, RingKey
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import Meta, TrustDomain
from serviceidentity.domain.schedule import format_time, parse_time, upcoming

ROTATE_ANNOTATION: Final = "serviceidentity.dev/rotate-jwt"
ROTATED_ANNOTATION: Final = "serviceidentity.dev/rotated-jwt"
REVOKE_ANNOTATION: Final = "serviceidentity.dev/revoke-jwt"
REVOKED_ANNOTATION: Final = "serviceidentity.dev/revoked-jwt"
PUBLISHED_ANNOTATION: Final = "serviceidentity.dev/published"  # JSON: key ID, and since when everyone has it
LOST_ANNOTATION: Final = "serviceidentity.dev/token-keys-lost"  # when it was found that those before were gone
CONDITION: Final = "JWTReady"
READY: Final = "Ready"
MADE, LOST, REVOKED, ROTATING = "TokenKeysMade", "TokenKeysLost", "TokenKeysRevoked", "TokenKeysRotating"
_REQUESTS: Final = {ROTATE_ANNOTATION: ROTATED_ANNOTATION, REVOKE_ANNOTATION: REVOKED_ANNOTATION}
_NAMED: Final = 3  # namespaces in a message


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that decisions about the token keys of a trust domain depend on, besides the time.

    `view` is their Secret, `keys` what it holds, or why it can't be read. `wanted` says whether somebody asks for
    keys. `missing` names who does not have the current JWK Set yet, `refusing` the namespaces of which that is said:
    they are not waited for for ever. `earlier` are the IDs of the keys that there were, as far as that is known without
    the Secret.
    """

    domain: TrustDomain
    view: SecretView | None = None
    keys: TokenKeys | Held | None = None
    wanted: bool = False
    missing: tuple[str, ...] = ()
    refusing: tuple[str, ...] = ()
    earlier: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """A ring to store, with the records beside it, and why."""

    ring: Ring
    records: Mapping[str, str]
    reason: str
    message: str
    warning: bool = False


def next_change(seen: Seen, now: datetime) -> Change | None:
    """Return what is due for the keys; None when they are as they should be, or nothing can be done."""
    if seen.view is None:
        return _first(seen, now) if seen.wanted else None
    if revocation_is_due(seen.domain.meta, seen.view):
        ring = key_ring.new_ring(rings.maker(seen.domain.jwt.rotation.algorithm), now)
        message = f"every earlier key is refused from now on; {ring.active.key_id} signs"
        return Change(ring, _records_of_requests(seen.domain.meta), REVOKED, message)
    if not isinstance(seen.keys, TokenKeys) or seen.keys.ring is None:
        return None
    return _turned(seen, seen.view, seen.keys.ring, now)


def revocation_is_due(meta: Meta, view: SecretView) -> bool:
    """Say whether a revocation is asked for that has not been carried out: nobody is to accept the keys in `view`."""
    return _asked(meta, view, REVOKE_ANNOTATION)


def rhythm_of(seen: Seen, now: datetime) -> Rhythm:
    """Return how the ring turns now."""
    rotation = seen.domain.jwt.rotation
    since = _published(seen.view, now)

    def published(key_id: str) -> bool:
        return not _waits(seen, now) and key_id in since and now >= since[key_id] + rotation.lead

    keys, asked = seen.keys, False
    if seen.view is not None and isinstance(keys, TokenKeys):
        newest = keys.public.in_state(KeyState.PREPARED) or keys.public.active
        other = rings.algorithm_of(newest) is not rotation.algorithm
        asked = other or _asked(seen.domain.meta, seen.view, ROTATE_ANNOTATION)
    return Rhythm(rotation.rotate_every, rotation.tail, rotation.lead, published, asked)


def deadline(seen: Seen, now: datetime) -> datetime | None:
    """When something is due, if nothing changes before. What waits for others has no time."""
    if not isinstance(seen.keys, TokenKeys):
        return None
    ring, times = seen.keys.public, []
    times += [key.until for key in ring.keys if key.state is KeyState.RETIRING]
    prepared = ring.in_state(KeyState.PREPARED)
    if prepared is None:
        times.append(key_ring.prepare_time(ring, rhythm_of(seen, now)))
    elif (since := _published(seen.view, now).get(prepared.key_id)) is not None:
        times += [prepared.until, since + seen.domain.jwt.rotation.lead]
    elif seen.refusing:
        times.append(_patience(seen, prepared))
    return upcoming(now, *times)


def report(seen: Seen, issuer: str, now: datetime) -> dict[str, Any] | None:
    """Return `status.jwt`; None without keys. No key material."""
    if not isinstance(seen.keys, TokenKeys):
        return None
    ring = seen.keys.public
    entries = [key_ring.status_of(key) for key in ring.keys]
    report: dict[str, Any] = {
        "issuer": issuer,
        "secretName": secret_name(seen.domain.meta.name),
        "jwksConfigMapName": CONFIG_MAP,
        "keys": [_without_the_past(entry, now) for entry in entries],
    }
    following = key_ring.next_activation(ring, rhythm_of(seen, now))
    return report | ({"nextRotationTime": format_time(following)} if following > now else {})


def summary(seen: Seen, issuer: str) -> str:
    """One line about the keys, for the condition."""
    if not isinstance(seen.keys, TokenKeys) or seen.view is None:
        return ""
    ring = seen.keys.public
    text = f"key {ring.active.key_id} signs tokens of {issuer}"
    if verifying := [key for key in ring.keys if key.state is KeyState.RETIRING]:
        text += f", {len(verifying)} still verified"
    if lacking := (*seen.missing, *seen.refusing):
        text += f"; not everyone has the current JWK Set: {_listed(lacking)}"
        if seen.refusing and (prepared := ring.in_state(KeyState.PREPARED)):
            text += f"; key {prepared.key_id} waits for them until {format_time(_patience(seen, prepared))}"
    if lost := seen.view.annotations.get(LOST_ANNOTATION):
        text += f"; the keys before were lost, as was found at {lost}: what they signed is refused"
    return text


def _first(seen: Seen, now: datetime) -> Change:
    ring = key_ring.new_ring(rings.maker(seen.domain.jwt.rotation.algorithm), now)
    records, signs = _records_of_requests(seen.domain.meta), f"{ring.active.key_id} signs tokens"
    if not seen.earlier:
        return Change(ring, records, MADE, signs)
    message = (
        f"Secret {secret_name(seen.domain.meta.name)} is gone; {signs}, and what the keys before signed is refused"
    )
    return Change(ring, records | {LOST_ANNOTATION: format_time(now)}, LOST, message, warning=True)


def _turned(seen: Seen, view: SecretView, ring: Ring, now: datetime) -> Change | None:
    rotation, since = seen.domain.jwt.rotation, _published(view, now)
    prepared = ring.in_state(KeyState.PREPARED)
    if prepared is not None and prepared.key_id not in since and not _waits(seen, now):
        since = {prepared.key_id: now}
        waiting = replace(prepared, until=now + rotation.lead)
        ring = Ring(tuple(waiting if key is prepared else key for key in ring.keys))
        records = _kept(view) | {PUBLISHED_ANNOTATION: json.dumps({prepared.key_id: format_time(now)})}
        everyone = f"everyone but {_listed(seen.refusing)}" if seen.refusing else "everyone"
        message = f"{everyone} has key {prepared.key_id}; it signs from {format_time(now + rotation.lead)}"
        return Change(ring, records, ROTATING, message)
    rhythm = rhythm_of(seen, now)
    turned = key_ring.advance(ring, rhythm, rings.maker(rotation.algorithm), now)
    if turned == ring:
        return None
    records = _kept(view)
    if turned.key_ids - ring.key_ids:
        # A request that comes while a rotation is under way is served by one of its own, after that one.
        records |= _records_of_requests(seen.domain.meta, ROTATE_ANNOTATION)
    if turned.active.key_id != ring.active.key_id:
        records.pop(LOST_ANNOTATION, None)
    if (next_one := turned.in_state(KeyState.PREPARED)) is None or next_one.key_id not in since:
        records.pop(PUBLISHED_ANNOTATION, None)
    return Change(turned, records, ROTATING, _told(ring, turned))


def _waits(seen: Seen, now: datetime) -> bool:
    """Say whether somebody is waited for who lacks the current JWK Set.

    A namespace whose owner keeps the copy from being written, out of malice or by a quota, puts off the next key for
    one period, while conditions tell of it; after that the trust domain goes on.
    """
    prepared = seen.keys.public.in_state(KeyState.PREPARED) if isinstance(seen.keys, TokenKeys) else None
    patient = prepared is None or now < _patience(seen, prepared)
    return bool(seen.missing or (seen.refusing and patient))


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _patience(seen: Seen, prepared: RingKey) -> datetime:
    return prepared.changed + seen.domain.jwt.rotation.rotate_every


def _told(before: Ring, after: Ring) -> str:
    made = [f"key {key_id} is published and signs nothing yet" for key_id in sorted(after.key_ids - before.key_ids)]
    gone = [f"key {key_id} is not accepted any more" for key_id in sorted(before.key_ids - after.key_ids)]
    signs = [f"key {after.active.key_id} signs"] if after.active.key_id != before.active.key_id else []
    return "; ".join([*signs, *made, *gone])


def _asked(meta: Meta, view: SecretView, annotation: str) -> bool:
    wanted = meta.annotations.get(annotation)
    return wanted is not None and wanted != view.annotations.get(_REQUESTS[annotation])


def _records_of_requests(meta: Meta, *annotations: str) -> dict[str, str]:
    """Return what records that the requests of these annotations, by default of all, have been served."""
    asked = annotations or tuple(_REQUESTS)
    return {_REQUESTS[name]: meta.annotations[name] for name in asked if name in meta.annotations}


def _kept(view: SecretView) -> dict[str, str]:
    ours = (ROTATED_ANNOTATION, REVOKED_ANNOTATION, PUBLISHED_ANNOTATION, LOST_ANNOTATION)
    return {name: view.annotations[name] for name in ours if name in view.annotations}


def _published(view: SecretView | None, now: datetime) -> dict[str, datetime]:
    """Read since when everyone has which key; what can't be read, or is yet to come, has not been recorded.

    A clock that was ahead once must not keep the next key waiting for that time to come.
    """
    try:
        found = json.loads(view.annotations[PUBLISHED_ANNOTATION]) if view is not None else {}
        times = {str(key_id): parse_time(time) for key_id, time in found.items()}
        return {key_id: time for key_id, time in times.items() if time <= now}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _without_the_past(entry: dict[str, str], now: datetime) -> dict[str, str]:
    """Of a key that waits for others, the time at which it would have been its turn says nothing."""
    prepared = entry["state"] == KeyState.PREPARED
    late = prepared and parse_time(entry["activationTime"]) <= now
    return {name: value for name, value in entry.items() if not (late and name == "activationTime")}
