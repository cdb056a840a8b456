"""The keyring of a service that verifies signed requests: the keys of every caller, by consent of both sides."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from serviceidentity.domain import hmac_ring, key_ring
from serviceidentity.domain.credentials.base import Caller, Due, Made, MadeHere, Observed, Reason
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import Identity, Key, SecretTemplate
from serviceidentity.domain.schedule import format_time, parse_time

SECRET_TYPE: Final = "serviceidentity.dev/hmac-keyring"  # noqa: S105  # a Secret's type, not a secret


def distinct(
    identity: Identity, callers: tuple[Caller, ...], view: SecretView | None = None
) -> tuple[tuple[Caller, ...], tuple[Caller, ...]]:
    """Return the callers to deliver, and those left out because their service ID is taken.

    Who has the service ID in the keyring keeps it: a newcomer must not put itself in another's place. Among newcomers
    one of the same namespace goes first, then the first namespace by name.
    """
    holders = {
        service_id: (entry.get("namespace"), entry.get("name"))
        for service_id, entry in _services(view).items()
        if isinstance(entry, dict)
    }

    def rank(caller: Caller) -> tuple[bool, bool, Key]:
        holds = holders.get(caller.service_id) == (caller.key.namespace, caller.key.name)
        return not holds, caller.key.namespace != identity.meta.namespace, caller.key

    ordered = sorted(callers, key=rank)
    taken: set[str] = set()
    chosen: list[Caller] = []
    for caller in ordered:
        if caller.service_id not in taken:
            taken.add(caller.service_id)
            chosen.append(caller)
    left_out = tuple(caller for caller in ordered if caller not in chosen)
    return tuple(chosen), left_out


def published_since(view: SecretView, caller: Key, service_id: str) -> dict[str, datetime] | None:
    """Return since when a keyring Secret holds each of a caller's keys, by key ID; empty when it can't be read.

    None means that another caller holds the service ID there: this one's keys will not be delivered, so it does not
    have to wait for them.
    """
    entry = _services(view).get(service_id)
    try:
        if entry is None:
            return {}
        if (entry["namespace"], entry["name"]) != (caller.namespace, caller.name):
            return None
        since = {key["kid"]: parse_time(key["published"]) for key in entry["keys"]}
        return {key_id: time for key_id, time in since.items() if time.year <= key_ring.LAST_YEAR}
    except (ValueError, KeyError, TypeError):
        return {}


def _services(view: SecretContent | SecretView | None) -> Mapping[str, Any]:
    try:
        services = json.loads(view.value("keyring.json"))["services"] if view else {}
    except (MalformedError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return services if isinstance(services, dict) else {}


def _keyring(seen: Observed, view: SecretView | None, now: datetime) -> bytes:
    """Return the keyring as it should be. A key keeps the time at which it was first put there."""
    chosen, _ = distinct(seen.identity, seen.callers, view)
    services = {}
    for caller in chosen:
        since = (published_since(view, caller.key, caller.service_id) if view else None) or {}
        services[caller.service_id] = {
            "namespace": caller.key.namespace,
            "name": caller.key.name,
            "spiffeID": caller.spiffe_id,
            "keys": [
                hmac_ring.to_jwk(key) | {"published": format_time(min(since.get(key.key_id, now), now))}
                for key in (caller.ring.keys if caller.ring else ())
            ],
        }
    return json.dumps({"services": services}, separators=(",", ":")).encode()


class Keyring(MadeHere):
    """The credential behind `spec.callers`."""

    name = "hmac-keyring"
    condition = "KeyringReady"
    status_field = "keyring"
    listed = False
    governed = True

    def requested(self, identity: Identity) -> bool:
        return bool(identity.callers)

    def secret_name(self, identity: Identity) -> str:
        return identity.keyring_secret_name

    def template(self, identity: Identity) -> SecretTemplate:
        return SecretTemplate()

    def decide(self, seen: Observed, now: datetime) -> Due | Held | None:
        view = seen.contents.get(self.secret_name(seen.identity))
        if view is None:
            return Due(Reason.DOES_NOT_EXIST, "the Secret does not exist yet", fresh=False)
        try:
            same = view.value("keyring.json") == _keyring(seen, view, now) and len(view.data) == 1
        except MalformedError:
            same = False
        return None if same else Due(Reason.CALLERS_CHANGED, "the keys of the callers changed", fresh=False)

    def render(
        self, seen: Observed, due: Due, now: datetime, password: bytes | None, made: Made | None = None
    ) -> SecretContent:
        view = seen.contents.get(self.secret_name(seen.identity))
        return SecretContent.of(SECRET_TYPE, {"keyring.json": _keyring(seen, view, now)}, {})

    def consumed(self, content: SecretContent | SecretView) -> object:
        # Whose requests verify, with which keys; a key's state and times change nothing about that.
        services = _services(content)
        try:
            return {
                service_id: (
                    entry["namespace"],
                    entry["name"],
                    entry["spiffeID"],
                    {key["kid"] for key in entry["keys"]},
                )
                for service_id, entry in services.items()
            }
        except (KeyError, TypeError):
            return content.data

    def deadline(self, seen: Observed, now: datetime) -> datetime | None:
        return None  # a change of a caller's keys wakes the verifier

    def ends(self, seen: Observed) -> datetime | None:
        return None

    def report(self, seen: Observed, now: datetime) -> dict[str, Any]:
        chosen, _ = distinct(seen.identity, seen.callers, seen.contents.get(self.secret_name(seen.identity)))
        return {
            "secretName": self.secret_name(seen.identity),
            "callers": [
                {
                    "serviceID": caller.service_id,
                    "name": caller.key.name,
                    "namespace": caller.key.namespace,
                    "keyIDs": sorted(caller.ring.key_ids) if caller.ring else [],
                }
                for caller in chosen
            ],
        }

    def summary(self, seen: Observed, now: datetime) -> str:
        view = seen.contents.get(self.secret_name(seen.identity))
        chosen, left_out = distinct(seen.identity, seen.callers, view)
        text = f"keys of {len(chosen)} caller{'s' * (len(chosen) != 1)}"
        if left_out:
            names = ", ".join(f"{caller.key.namespace}/{caller.key.name}" for caller in left_out)
            ids = ", ".join(sorted(Counter(caller.service_id for caller in left_out)))
            text += f"; left out because service ID {ids} is taken: {names}"
        return text
