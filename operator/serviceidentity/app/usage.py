"""How the authorities of a trust domain are used at the moment, as the inventory shows it."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from serviceidentity.app.entries import Entry
from serviceidentity.app.inventory import Inventory
from serviceidentity.domain import ownership
from serviceidentity.domain.authority import Usage
from serviceidentity.domain.model import Identity, Kind, TrustDomain
from serviceidentity.domain.schedule import parse_time
from serviceidentity.errors import InvalidSpecError

NAMED = 3  # in messages, of those that everyone waits for


def usage_of(
    inventory: Inventory, domain: TrustDomain, bundle: bytes, now: datetime, unpublished: Sequence[str] = ()
) -> Usage:
    """Return who has the bundle (PEM) and which authority's certificates are in use.

    `unpublished` names the namespaces whose published trust bundle does not have these roots yet.
    A suspended identity keeps what it has, so nobody waits for it; its certificate counts as in use all the same, and
    so does that of an identity whose spec can't be followed, or that has moved to a trust domain that can't sign.
    """
    wanted = b64encode(bundle).decode()
    leaves: dict[str, datetime] = {}
    published, stuck = not unpublished, list[str]()
    members = inventory.identities_of(domain.meta.name)
    for key, entry in inventory.identities.items():
        if entry.meta.deleting:
            continue
        leaf = _leaf(entry)
        if leaf is not None and leaf[1] > now:
            leaves[leaf[0]] = max(leaf[1], leaves.get(leaf[0], leaf[1]))
        if key in members and _waits_for(inventory, entry, wanted):
            published = False
            if _in_trouble(entry):
                stuck.append(f"{key.namespace}/{key.name}")
    stuck = [*sorted(stuck), *unpublished]
    named = stuck[:NAMED]
    more = [f"{len(stuck) - NAMED} more"] if len(stuck) > NAMED else []
    return Usage(published=published, waiting_for=(*named, *more), leaves=leaves)


def _leaf(entry: Entry[Identity]) -> tuple[str, datetime] | None:
    """Return who signed the certificate that the status shows, and when that ends."""
    shown: Any = entry.status.get("certificate")
    try:
        return str(shown["issuerFingerprint"]), parse_time(shown["notAfter"])
    except (KeyError, TypeError, ValueError):
        return None


def _in_trouble(entry: Entry[Identity]) -> bool:
    """Say whether writing fails. Who only has not come to it yet is not worth a word, and a status, each."""
    reasons = {condition.get("reason") for condition in entry.status.get("conditions") or ()}
    return "backoff" in entry.status or "KeystorePasswordMissing" in reasons


def _waits_for(inventory: Inventory, entry: Entry[Identity], wanted: str) -> bool:
    if isinstance(entry.spec, InvalidSpecError) or entry.spec.suspend or entry.spec.certificate is None:
        return False
    found = inventory.secrets.get((entry.meta.namespace, entry.spec.certificate.secret_name))
    if found is None or not ownership.is_owned(found, Kind.SERVICE_IDENTITY, entry.meta):
        return False
    return found.data.get("ca.crt") != wanted
