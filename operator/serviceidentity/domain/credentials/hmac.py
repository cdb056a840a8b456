"""The HMAC key that an identity signs its requests with: its Secret and its rotation."""

from datetime import UTC, datetime
from typing import Any, Final

from serviceidentity.domain import hmac_ring, key_ring, ownership
from serviceidentity.domain.credentials.base import Due, Made, MadeHere, Observed, Reason
from serviceidentity.domain.key_ring import KeyState, Rhythm, Ring, Step
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import HmacSpec, Identity, SecretTemplate
from serviceidentity.domain.schedule import format_time, upcoming

SECRET_TYPE: Final = "serviceidentity.dev/hmac"  # noqa: S105  # a Secret's type, not a secret

_STEP_MESSAGES: Final = {
    Step.PREPARE: "the next key is published",
    Step.ACTIVATE: "the next key signs now",
    Step.DROP: "the previous key's deadline has passed",
}


def read_ring(view: SecretView) -> Ring:
    """Return the keys in an identity's HMAC Secret. Raises MalformedError when they are not what was written there."""
    return hmac_ring.from_json(view.value("keys.json"))


def _is_whole(view: SecretView, ring: Ring) -> bool:
    """Say whether the single values beside `keys.json` are what it says, and nothing else is there."""
    try:
        return all(view.value(name) == value for name, value in _data(ring).items()) and len(view.data) == len(
            _data(ring)
        )
    except MalformedError:
        return False


def _data(ring: Ring) -> dict[str, bytes]:
    """`keys.json` for programs that follow rotations, single values for everything simpler.

    Keys are 64 lower-case hex digits (32 bytes), so that they also survive an environment variable.
    """
    data = {
        "keys.json": hmac_ring.to_json(ring),
        "key": ring.active.material.reveal().hex().encode(),
        "key-id": ring.active.key_id.encode(),
    }
    previous = max(
        (key for key in ring.keys if key.state is KeyState.RETIRING), key=lambda key: key.changed, default=None
    )
    if previous is not None and previous.until is not None:
        data["previous-key"] = previous.material.reveal().hex().encode()
        data["previous-key-id"] = previous.key_id.encode()
        data["previous-key-until"] = format_time(previous.until).encode()
    return data


class HmacKeys(MadeHere):
    """The credential `spec.hmac`."""

    name = "hmac"
    condition = "HMACReady"
    status_field = "hmac"
    listed = False
    governed = True

    def requested(self, identity: Identity) -> bool:
        return identity.hmac is not None

    def secret_name(self, identity: Identity) -> str:
        return identity.hmac.secret_name if identity.hmac else ""

    def template(self, identity: Identity) -> SecretTemplate:
        return identity.hmac.template if identity.hmac else SecretTemplate()

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet")
        try:
            ring = read_ring(view)
        except MalformedError as error:
            return Due(Reason.MISSING_DATA, f"the Secret can't be used: {error}")
        step = key_ring.next_step(ring, _rhythm(seen, view, now), now)
        if step is None:
            same = view.name in seen.known_good or _is_whole(view, ring)
            return (
                None if same else Due(Reason.MISSING_DATA, "the single keys do not agree with keys.json", fresh=False)
            )
        return Due(Reason.ROTATING, _STEP_MESSAGES[step], fresh=step is Step.PREPARE)

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        view = seen.contents.get(self.secret_name(seen.identity))
        record = ownership.rotation_record(seen.identity.meta)
        ring = _readable_ring(view)
        if view is None and (moved := _under_another_name(seen, self.name)) is not None:
            view, ring = moved, _readable_ring(moved)
        if view is None or ring is None:
            return SecretContent.of(SECRET_TYPE, _data(key_ring.new_ring(hmac_ring.make, now)), record)
        rhythm = _rhythm(seen, view, now)
        turned = key_ring.advance(ring, rhythm, hmac_ring.make, now)
        if rhythm.rotation_requested and turned.key_ids <= ring.key_ids:
            record = ownership.earlier_rotation_record(view)
        return SecretContent.of(SECRET_TYPE, _data(turned), record)

    def consumed(self, content: SecretContent | SecretView) -> object:
        # The key that signs; that another one is being prepared, or was dropped, changes nothing for who signs.
        return content.data.get("key")

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return None
        ring = read_ring(view)
        prepared = ring.in_state(KeyState.PREPARED)
        arrived = _usable_from(seen, prepared.key_id) if prepared else None
        return upcoming(now, key_ring.deadline(ring, _rhythm(seen, view, now)), arrived)

    def ends(self, seen: Observed) -> datetime | None:
        return None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        view = seen.contents[self.secret_name(seen.identity)]
        ring = read_ring(view)
        return {
            "secretName": view.name,
            "keys": [key_ring.status_of(key) for key in ring.keys],
            "nextRotationTime": format_time(key_ring.next_activation(ring, _rhythm(seen, view, now))),
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        ring = read_ring(seen.contents[self.secret_name(seen.identity)])
        previous = len([key for key in ring.keys if key.state is KeyState.RETIRING])
        text = f"HMAC key {ring.active.key_id} signs" + (f", {previous} still verified" if previous else "")
        prepared = ring.in_state(KeyState.PREPARED)
        if prepared is None or prepared.until is None or now < prepared.until:
            return text
        missing = sorted(str(key) for key, times in seen.published.items() if prepared.key_id not in times)
        return text + (f"; the next one waits for the keyring of {', '.join(missing)}" if missing else "")


def _under_another_name(seen: Observed, credential: str) -> SecretView | None:
    """Return the identity's Secret from before `secretName` was changed: its keys go on under the new name."""
    held = (v for v in seen.contents.values() if v.labels.get(ownership.CREDENTIAL_LABEL) == credential)
    return next((view for view in held if _readable_ring(view) is not None), None)


def _readable_ring(view: SecretView | None) -> Ring | None:
    try:
        return read_ring(view) if view is not None else None
    except MalformedError:
        return None


def _spec(seen: Observed) -> HmacSpec:
    if seen.identity.hmac is None:
        raise LookupError("the identity asks for no HMAC key")
    return seen.identity.hmac


def _usable_from(seen: Observed, key_id: str) -> datetime | None:
    """When a key has been in every keyring for its time; None when one does not have it yet.

    It counts from its arrival there: that is when Pods begin to see it.
    """
    since = [times.get(key_id) for times in seen.published.values()]
    arrived = [time for time in since if time is not None]
    if len(arrived) < len(since):
        return None
    return max(arrived, default=datetime.min.replace(tzinfo=UTC)) + _spec(seen).publish_before


def _rhythm(seen: Observed, view: SecretView, now: datetime) -> Rhythm:
    spec = _spec(seen)

    def published(key_id: str) -> bool:
        usable = _usable_from(seen, key_id)
        return usable is not None and now >= usable

    return Rhythm(
        rotate_every=spec.rotate_every,
        overlap=spec.overlap,
        publish_before=spec.publish_before,
        published=published,
        rotation_requested=ownership.rotation_requested(seen.identity.meta, view),
    )
