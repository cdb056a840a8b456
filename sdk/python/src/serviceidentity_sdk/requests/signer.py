"""Signing requests with the mounted key."""

import threading
from collections.abc import Callable
from typing import Any, Final

from serviceidentity_sdk.requests import signature
from serviceidentity_sdk.requests.authenticator import wall_clock_ms
from serviceidentity_sdk.requests.ecmascript import canonical_and_rounded, stringify
from serviceidentity_sdk.requests.keys import HmacKey
from serviceidentity_sdk.requests.signature import EmptyBody
from serviceidentity_sdk.source import Source

_MOST_AHEAD_MS: Final = 5_000


class UnsignableError(ValueError):
    """The body can't be carried by this signature. The message does not quote it."""


class ServiceSigner:
    """Signs requests of this service. `key` is a `Watch` of the `<name>-hmac` Secret, or `Fixed`.

    Timestamps of one signer are all different: two equal requests in one millisecond would have one signature, and a
    verifier with a replay cache would refuse the second.
    """

    def __init__(
        self,
        service_id: str,
        key: Source[HmacKey],
        *,
        empty: EmptyBody = EmptyBody.OBJECT,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        if (
            not service_id.isascii()
            or not service_id.isprintable()
            or service_id.strip() != service_id
            or not service_id
        ):
            raise ValueError("a service ID is printable ASCII text")
        self.service_id: Final = service_id
        self._key = key
        self._empty = empty
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._last_ms = 0

    def sign(self, body: bytes = b"") -> dict[str, str]:
        """Return the headers for a body that is JSON text, or empty.

        Raises UnsignableError (a ValueError) when a number in it would be another one for a JavaScript program, and
        NotJsonError when it is no JSON.
        """
        if not body:
            return self._headers(self._empty.value.encode())
        text, rounded = canonical_and_rounded(body)
        if rounded:
            raise UnsignableError("a number has more digits than a double holds: send it as text")
        return self._headers(text)

    def sign_json(self, value: Any) -> tuple[bytes, dict[str, str]]:
        """Return the body to send for a value, as JSON.stringify writes it, and the headers for it."""
        body = stringify(value)
        return body, self._headers(body)

    def _headers(self, text: bytes) -> dict[str, str]:
        timestamp = str(self._next_ms())
        key = self._key.current.material.reveal()
        return {
            "X-Service-ID": self.service_id,
            "X-Timestamp": timestamp,
            "X-Signature": signature.sign(key, self.service_id, timestamp, text),
        }

    def _next_ms(self) -> int:
        with self._lock:
            now = self._clock_ms()
            # A clock that was set back is followed; otherwise every request would be from the future.
            self._last_ms = self._last_ms + 1 if 0 <= self._last_ms - now <= _MOST_AHEAD_MS else now
            return self._last_ms
