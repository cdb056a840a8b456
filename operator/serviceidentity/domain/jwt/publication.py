"""The ConfigMap with the public half of an identity's signing keys, and since when each of them is there."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt import ring as rings
from serviceidentity.domain.key_ring import LAST_YEAR, Ring
from serviceidentity.domain.material import MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import GROUP, Identity, Kind
from serviceidentity.domain.ownership import Metadata
from serviceidentity.domain.schedule import format_time, parse_time

JWKS: Final = "jwks.json"
PUBLISHED_ANNOTATION: Final = f"{GROUP}/published"
CREDENTIAL: Final = "jwt"


def content_of(ring: Ring, found: SecretView | None, now: datetime) -> SecretContent:
    """Return what the ConfigMap has to hold for the keys of `ring`: they, and since when each is there.

    A key that is in what was `found`, with a record of since when, keeps its time; every other one is there from now.
    """
    before = since(ring, found)
    # A clock that was ahead once must not keep the next key waiting for that time to come.
    times = {key_id: min(before.get(key_id, now), now) for key_id in ring.key_ids}
    record = json.dumps({key_id: format_time(time) for key_id, time in sorted(times.items())}, separators=(",", ":"))
    return SecretContent.of("", {JWKS: rings.jwks(ring)}, {PUBLISHED_ANNOTATION: record})


def since(ring: Ring, found: SecretView | None) -> dict[str, datetime]:
    """Return since when a ConfigMap has the keys of a ring, by their IDs, as far as it has them."""
    if found is None:
        return {}
    record, public = _object(found.annotations.get(PUBLISHED_ANNOTATION, "")), _public(found)
    times: dict[str, datetime] = {}
    for key in ring.keys:
        if jose.public_jwk(key.material) in public and (time := _time(record.get(key.key_id))) is not None:
            times[key.key_id] = time
    return times


def metadata_of(identity: Identity, name: str, content: SecretContent) -> Metadata:
    """Return the metadata that the ConfigMap must have."""
    labels = {ownership.IDENTITY_LABEL: identity.meta.name, ownership.CREDENTIAL_LABEL: CREDENTIAL}
    return ownership.metadata_for(Kind.SERVICE_IDENTITY, identity.meta, identity.deletion_policy, name, labels, content)


def _public(found: SecretView) -> list[Any]:
    try:
        keys = _object(found.value(JWKS).decode()).get("keys")
    except (MalformedError, UnicodeDecodeError):
        return []
    return keys if isinstance(keys, list) else []


def _time(text: object) -> datetime | None:
    try:
        time = parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time if time is not None and time.year <= LAST_YEAR else None


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
