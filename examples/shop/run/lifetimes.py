"""Lifetimes of seconds, so that everything rotates while one looks on. The rules between them are those of any length.

A Secret's change takes up to a second to a volume here, and a service looks every half second: what is published before
it is used, and what stays after it was, has twice that and more.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from examples.shop.run.bed import Bed

CERTIFICATE: Final = {"duration": "20s", "renewBefore": "14s"}
HMAC: Final = {"rotateEvery": "10s", "overlap": "4s", "publishBefore": "4s"}
# A key stays published for propagation and the life of a token; auth-service's live for 10 s (AUTH_ACCESS_SECONDS).
JWT: Final = {"rotateEvery": "16s", "maxTokenTTL": "10s", "cacheTime": "0s", "propagation": "3s"}
LEASE: Final = ("12s", "13s")  # asked for more after 8 s, Vault grants 5: less than half, so there is a new user
OVERLAP: Final = "5s"
NOON, MIDNIGHT = 12, 0


def shorten(bed: Bed) -> None:
    """Patch all lifetimes, and have everything made anew, so that the short ones begin. Raises KubectlError."""
    bed.platform.lease_for(*LEASE)
    for name, spec in _identities(bed).items():
        short: dict[str, Any] = {"certificate": CERTIFICATE}
        if "hmac" in spec:
            short["hmac"] = HMAC
        if "jwt" in spec:
            short["jwt"] = JWT
        if "vault" in spec:
            short["vault"] = {"secrets": [_shortened(one) for one in spec["vault"]["secrets"]]}
        bed.patch("sid", name, short)
    bed.rotate(*_identities(bed))


def set_hour(bed: Bed, hour: int) -> None:
    """Make it that hour where the policy `payments` has its clock, by moving it there. Raises KubectlError."""
    bed.patch("accesspolicy", "payments", {"timeZone": zone(hour, datetime.now(UTC))})


def zone(hour: int, now: datetime) -> str:
    """Return the time zone in which it is that hour now; with `Etc/GMT-2` it is two hours later than in Greenwich."""
    ahead = (hour - now.hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}" if ahead else "UTC"


def _identities(bed: Bed) -> Mapping[str, dict[str, Any]]:
    items = json.loads(bed.kubectl("get", "sid", "--output=json"))["items"]
    return {item["metadata"]["name"]: item["spec"] for item in items}


def _shortened(secret: dict[str, Any]) -> dict[str, Any]:
    return secret | ({"overlap": OVERLAP} if "database" in secret else {})
