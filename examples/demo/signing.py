"""Signed requests between services: X-Service-ID, X-Timestamp, X-Signature, with times in milliseconds as they have."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from serviceidentity.domain.requests.signing import WINDOW, read_keyring, sign, verify_request
from serviceidentity.domain.verdict import Refused

__all__ = ["WINDOW_MS", "sign", "verdict"]

WINDOW_MS: Final = WINDOW // timedelta(milliseconds=1)


def verdict(keyring: bytes, headers: Mapping[str, str], body: object, now_ms: int) -> str:
    """Return what a receiver says to a request, from whom it is or why not. `keyring` is a Secret's `keyring.json`."""
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)
    answer = verify_request(headers.items(), json.dumps(body).encode(), read_keyring(keyring), now)
    if isinstance(answer, Refused):
        return f"{answer.first.reason}: {answer.first.message}"
    return f"from {answer.caller.service_id}"
