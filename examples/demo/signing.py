"""Signed requests between services: X-Service-ID, X-Timestamp, X-Signature.

The signature is hex HMAC-SHA256 over `serviceId:timestamp:body`, the body as compact JSON: for the bodies here the same
text as JavaScript's JSON.stringify makes.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final

WINDOW_MS: Final = 300_000


class RefusedError(Exception):
    """The request is not accepted; the text says why."""


def serialise(body: object) -> str:
    """Return compact JSON with non-ASCII characters as they are."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def sign(service_id: str, key: bytes, body: object, now_ms: int) -> dict[str, str]:
    """Return the headers of a request."""
    message = f"{service_id}:{now_ms}:{serialise(body)}".encode()
    signature = hmac.digest(key, message, "sha256").hex()
    return {"X-Service-ID": service_id, "X-Timestamp": str(now_ms), "X-Signature": signature}


def verify(keyring: bytes, headers: Mapping[str, str], body: object, now_ms: int) -> str:
    """Return the caller's service ID. `keyring` is the content of a keyring Secret. Raises RefusedError."""
    service_id, timestamp = headers.get("X-Service-ID", ""), headers.get("X-Timestamp", "")
    if not (service_id and timestamp.isascii() and timestamp.isdecimal() and "X-Signature" in headers):
        raise RefusedError("Missing service authentication")
    if abs(now_ms - int(timestamp)) > WINDOW_MS:
        raise RefusedError("Request expired")
    service: dict[str, Any] | None = json.loads(keyring)["services"].get(service_id)
    if service is None:
        raise RefusedError("Unknown service")
    message = f"{service_id}:{timestamp}:{serialise(body)}".encode()
    given = headers["X-Signature"].encode()
    wanted = (hmac.digest(_key(jwk["k"]), message, "sha256").hex().encode() for jwk in service["keys"])
    if not any(hmac.compare_digest(signature, given) for signature in wanted):
        raise RefusedError("Invalid signature")
    return service_id


def _key(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
