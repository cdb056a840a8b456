"""Signed requests between services: X-Service-ID, X-Timestamp, X-Signature.

The signature is hex HMAC-SHA256 over `serviceId:timestamp:body`. The body is compact JSON; for texts, integers, and
fractions such as 12.5 that is what JavaScript's JSON.stringify makes of it too.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final

WINDOW_MS: Final = 300_000
LONGEST_TIMESTAMP: Final = 16  # digits; int() of very long ones is an error


class RefusedError(Exception):
    """The request is not accepted; the text says why."""


def serialise(body: object) -> bytes:
    """Return compact JSON in UTF-8, half a surrogate pair escaped as JSON.stringify does it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")


def sign(service_id: str, key: bytes, body: object, now_ms: int) -> dict[str, str]:
    """Return the headers of a request. `key` is the decoded key: 32 bytes, not the 64 hex digits in the Secret."""
    signature = _signature(key, service_id, str(now_ms), body).decode()
    return {"X-Service-ID": service_id, "X-Timestamp": str(now_ms), "X-Signature": signature}


def verify(keyring: bytes, headers: Mapping[str, str], body: object, now_ms: int) -> str:
    """Return the caller's service ID. `keyring` is `keyring.json` of a keyring Secret.

    Raises RefusedError for every request that is not right, whatever is in its headers.
    """
    service_id, timestamp = headers.get("X-Service-ID", ""), headers.get("X-Timestamp", "")
    if not (service_id and _is_timestamp(timestamp) and "X-Signature" in headers):
        raise RefusedError("Missing service authentication")
    if abs(now_ms - int(timestamp)) > WINDOW_MS:
        raise RefusedError("Request expired")
    service: dict[str, Any] | None = json.loads(keyring)["services"].get(service_id)
    if service is None:
        raise RefusedError("Unknown service")
    given = headers["X-Signature"].encode(errors="backslashreplace")
    # Every key of the ring: the next one may have been used already, the previous one may still be.
    wanted = [_signature(_decode(jwk["k"]), service_id, timestamp, body) for jwk in service["keys"]]
    if not any(hmac.compare_digest(signature, given) for signature in wanted):
        raise RefusedError("Invalid signature")
    return service_id


def _is_timestamp(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_TIMESTAMP


def _signature(key: bytes, service_id: str, timestamp: str, body: object) -> bytes:
    message = f"{service_id}:{timestamp}:".encode(errors="backslashreplace") + serialise(body)
    return hmac.digest(key, message, "sha256").hex().encode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
