"""What a service gets: the rules of all policies that select it, in one JSON text, the same for the same rules."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from serviceidentity.domain.access.spec import Rules
from serviceidentity.domain.model import Key

FORMAT: Final = 1
LARGEST: Final = 384 * 1024  # octets: signed and in base64 it has to fit into a ConfigMap of 1 MiB

Json = Mapping[str, Any]


class TooLargeError(ValueError):
    """The policies of a service are more than fits into a ConfigMap."""


def part_of(policy: Rules) -> dict[str, Any]:
    """Return a policy as it stands in bundles."""
    return {
        "name": policy.name,
        "timeZone": policy.zone.key,
        "roles": [{"name": role.name, "permissions": list(role.permissions)} for role in policy.roles],
        "rules": [
            {"name": rule.name, "effect": rule.effect.value, "expression": rule.text, "reason": rule.reason}
            for rule in policy.rules
        ],
    }


def bundle_of(service: Key, parts: Iterable[Json]) -> dict[str, Any]:
    """Return the bundle of a service, its policies by name, with the digest of all of it. Raises TooLargeError."""
    body: dict[str, Any] = {
        "version": FORMAT,
        "service": {"namespace": service.namespace, "name": service.name},
        "policies": sorted(parts, key=lambda part: str(part["name"])),
    }
    text = canonical(body)
    if len(text) > LARGEST:
        raise TooLargeError(f"the policies of the service are larger than {LARGEST >> 10} KiB together")
    return body | {"digest": f"sha256:{hashlib.sha256(text).hexdigest()}"}


def canonical(body: Json) -> bytes:
    """Return JSON in its one form: keys sorted, no spaces, UTF-8."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
