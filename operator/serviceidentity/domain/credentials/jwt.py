"""The key that a service signs its own tokens with: its Secret, its rotation, and what is published of it.

A key is public before anybody can sign with it. So the ConfigMap is written before the Secret, and the next key signs
when it has been in the ConfigMap for as long as a verifier may use what it fetched before.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain import key_ring, ownership
from serviceidentity.domain.credentials.base import Due, Made, MadeHere, Observed, Reason
from serviceidentity.domain.jwt import jose, publication
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.jwt.spec import SigningKeySpec
from serviceidentity.domain.key_ring import KeyState, Rhythm, Ring, RingKey, Step
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, SecretTemplate
from serviceidentity.domain.schedule import format_time, upcoming

SECRET_TYPE: Final = "serviceidentity.dev/jwt"  # noqa: S105  # a Secret's type, not a secret
_LEAST_LEAD: Final = timedelta(seconds=1)  # times are whole seconds: with less, "published before" would mean nothing
_NONE: Final = Ring(())  # nothing is published

_STEP_MESSAGES: Final = {
    Step.PREPARE: "the next key is published",
    Step.ACTIVATE: "the next key signs now",
    Step.DROP: "the previous key's deadline has passed",
}


def read_ring(content: SecretContent | SecretView) -> Ring:
    """Return the keys in an identity's JWT Secret. Raises MalformedError when they are not what was written there."""
    return rings.from_json(content.value("keys.json"))


class JwtKeys(MadeHere):
    """The credential `spec.jwt`, unless its `signingKey` is None."""

    name = publication.CREDENTIAL
    condition = "JWTReady"
    status_field = "jwt"
    listed = False
    governed = True

    def requested(self, identity: Identity) -> bool:
        return signing_key(identity) is not None

    def secret_name(self, identity: Identity) -> str:
        spec = signing_key(identity)
        return spec.secret_name if spec else ""

    def template(self, identity: Identity) -> SecretTemplate:
        spec = signing_key(identity)
        return SecretTemplate(spec.labels, spec.annotations) if spec else SecretTemplate()

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet")
        if ownership.key_revocation_requested(seen.identity.meta, view):
            return Due(Reason.REVOKED, "the keys were revoked: a new one signs, and no earlier one verifies any more")
        try:
            ring = read_ring(view)
        except MalformedError as error:
            return Due(Reason.MISSING_DATA, f"the Secret can't be used: {error}")
        step = key_ring.next_step(key_ring.without_wait_for_the_future(ring, now), _rhythm(seen, view, ring, now), now)
        if step is not None:
            return Due(Reason.ROTATING, _STEP_MESSAGES[step], fresh=step is Step.PREPARE)
        if view.name in seen.known_good or _is_whole(view, ring):
            return None
        return Due(Reason.MISSING_DATA, "the single values do not agree with keys.json", fresh=False)

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        meta = seen.identity.meta
        rotated, revoked = ownership.rotation_record(meta), ownership.key_revocation_record(meta)
        make = rings.maker(_spec(seen).rotation.algorithm)
        view = seen.contents.get(self.secret_name(seen.identity))
        ring = _readable_ring(view)
        if view is None and (moved := _under_another_name(seen)) is not None:
            view, ring = moved, _readable_ring(moved)
        if view is None or ring is None or ownership.key_revocation_requested(meta, view):
            return SecretContent.of(SECRET_TYPE, _data(key_ring.new_ring(make, now)), rotated | revoked)
        turned = key_ring.advance(
            key_ring.without_wait_for_the_future(ring, now), _rhythm(seen, view, ring, now), make, now
        )
        if ownership.rotation_requested(meta, view) and turned.key_ids <= ring.key_ids:
            rotated = ownership.earlier_rotation_record(view)
        return SecretContent.of(SECRET_TYPE, _data(turned), rotated | revoked)

    def consumed(self, content: SecretContent | SecretView) -> object:
        # The key that signs; that another one is being prepared, or was dropped, changes nothing for who signs.
        return content.data.get("key.pem")

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return None
        ring = read_ring(view)
        prepared = ring.in_state(KeyState.PREPARED)
        arrived = _usable_from(seen, prepared) if prepared else None
        return upcoming(now, key_ring.deadline(ring, _rhythm(seen, view, ring, now)), arrived)

    def ends(self, seen: Observed) -> datetime | None:
        return None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        view = seen.contents[self.secret_name(seen.identity)]
        ring = read_ring(view)
        prepared = ring.in_state(KeyState.PREPARED)
        turn = key_ring.next_activation(ring, _rhythm(seen, view, ring, now))
        usable = _usable_from(seen, prepared) if prepared else None
        return {
            "secretName": view.name,
            "jwksConfigMapName": _spec(seen).config_map_name,
            "keys": [key_ring.status_of(key) for key in ring.keys],
            "nextRotationTime": format_time(max(turn, usable or turn)),
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        ring = read_ring(seen.contents[self.secret_name(seen.identity)])
        previous = len([key for key in ring.keys if key.state is KeyState.RETIRING])
        text = f"JWT key {ring.active.key_id} signs ({rings.algorithm_of(ring.active)})"
        return text + (f", {previous} still verified" if previous else "")


def signing_key(identity: Identity) -> SigningKeySpec | None:
    """Return what an identity says about a signing key of its own, if it asks for one."""
    return identity.jwt.key if identity.jwt is not None else None


def to_publish(seen: Observed, content: SecretContent | SecretView, now: datetime) -> SecretContent | None:
    """Return what the ConfigMap has to hold when the Secret holds `content`; None when that can't be known.

    While a revocation is asked for that can't be carried out, for a policy forbids a new key, the old ones leave the
    JWK Set all the same.
    """
    found = published(seen)
    if ownership.key_revocation_requested(seen.identity.meta, content):
        return publication.content_of(_NONE, found, now)
    ring = _readable_ring(content)
    return publication.content_of(ring, found, now) if ring is not None else None


def published(seen: Observed) -> SecretView | None:
    """Return the identity's ConfigMap as it is, if it is there."""
    return seen.jwks.get(_spec(seen).config_map_name)


def is_published(seen: Observed, wanted: SecretContent) -> bool:
    """Say whether the ConfigMap is as wanted."""
    found, name = published(seen), _spec(seen).config_map_name
    metadata = publication.metadata_of(seen.identity, name, wanted)
    return found is not None and dict(found.data) == dict(wanted.data) and ownership.satisfied(found, metadata)


def unpublished(seen: Observed, now: datetime) -> Due | None:
    """Say whether the ConfigMap has to be written for the keys that are in the Secret."""
    view = seen.contents.get(_spec(seen).secret_name)
    wanted = to_publish(seen, view, now) if view is not None else None
    if view is None or wanted is None or is_published(seen, wanted):
        return None
    name, found = _spec(seen).config_map_name, published(seen)
    if found is None:
        return Due(Reason.DRIFTED, f"ConfigMap {name} is not there", fresh=False)
    if ownership.key_revocation_requested(seen.identity.meta, view):
        return Due(Reason.REVOKED, "the keys were revoked: none of them is published any more", fresh=False)
    if dict(found.data) != dict(wanted.data):
        return Due(Reason.DRIFTED, f"ConfigMap {name} was edited by someone else", fresh=False)
    return Due(Reason.METADATA_CHANGED, "labels, annotations or owner changed", fresh=False)


def _data(ring: Ring) -> dict[str, bytes]:
    """`keys.json` for the operator and for programs that follow rotations, single values for everything simpler."""
    active = ring.active
    return {
        "keys.json": rings.to_json(ring),
        "key.pem": jose.private_pem(active.material),
        "key.jwk": active.material.reveal(),
        "key-id": active.key_id.encode(),
        "algorithm": rings.algorithm_of(active).encode(),
        publication.JWKS: rings.jwks(ring),
    }


def _is_whole(view: SecretView, ring: Ring) -> bool:
    """Say whether the single values beside `keys.json` are what it says, and nothing else is there."""
    return dict(view.data) == dict(SecretContent.of(SECRET_TYPE, _data(ring), {}).data)


def _under_another_name(seen: Observed) -> SecretView | None:
    """Return the identity's Secret from before `secretName` was changed: its keys go on under the new name."""
    held = (v for v in seen.contents.values() if v.labels.get(ownership.CREDENTIAL_LABEL) == publication.CREDENTIAL)
    return next((view for view in held if _readable_ring(view) is not None), None)


def _readable_ring(content: SecretContent | SecretView | None) -> Ring | None:
    try:
        return read_ring(content) if content is not None else None
    except MalformedError:
        return None


def _spec(seen: Observed) -> SigningKeySpec:
    spec = signing_key(seen.identity)
    if spec is None:
        raise LookupError("the identity asks for no signing key")
    return spec


def _lead(seen: Observed) -> timedelta:
    return max(_spec(seen).rotation.lead, _LEAST_LEAD)


def _usable_from(seen: Observed, key: RingKey) -> datetime | None:
    """When a key has been published for its time; None while it is not."""
    arrived = publication.since(Ring((key,)), published(seen)).get(key.key_id)
    return arrived + _lead(seen) if arrived is not None else None


def _rhythm(seen: Observed, view: SecretView, ring: Ring, now: datetime) -> Rhythm:
    rotation = _spec(seen).rotation

    def is_usable(key_id: str) -> bool:
        usable = next((_usable_from(seen, key) for key in ring.keys if key.key_id == key_id), None)
        return usable is not None and now >= usable

    # The newest key tells whether a change of the algorithm is under way already.
    newest = ring.in_state(KeyState.PREPARED) or ring.active
    other = rings.algorithm_of(newest) is not rotation.algorithm
    return Rhythm(
        rotate_every=rotation.rotate_every,
        overlap=rotation.tail,
        publish_before=_lead(seen),
        published=is_usable,
        rotation_requested=other or ownership.rotation_requested(seen.identity.meta, view),
    )
