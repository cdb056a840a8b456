"""Verifying signed requests with the mounted keyring."""

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from serviceidentity_sdk.principal import Kind, Principal
from serviceidentity_sdk.requests import signature
from serviceidentity_sdk.requests.errors import Refusal, RefusedError
from serviceidentity_sdk.requests.keys import Keyring
from serviceidentity_sdk.requests.replay import ReplayCache
from serviceidentity_sdk.requests.signature import WINDOW_MS, EmptyBody, Headers
from serviceidentity_sdk.source import Source

_NS_PER_MS: Final = 1_000_000


def wall_clock_ms() -> int:
    """Return the time as in X-Timestamp: milliseconds since 1970."""
    return time.time_ns() // _NS_PER_MS


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. `url` is absolute; headers are in their order, as latin-1 text."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """Who sent a request, and the body that the signature covers, which is the one to work with."""

    principal: Principal
    body: bytes


class Authenticator(Protocol):
    """What decides about a signed request."""

    async def authenticate(self, request: Received) -> Accepted:
        """Return who sent it. Raises RefusedError, ReplayUnavailableError."""
        ...


class ServiceAuthenticator:
    """Verifies requests with X-Service-ID, X-Timestamp and X-Signature.

    `keyring` is a `Watch` of the keyring Secret, or `Fixed`. `empty` names what requests without a body may have
    signed. The signature covers neither method nor path: with a replay cache a request is at least accepted only once.
    """

    def __init__(
        self,
        keyring: Source[Keyring],
        *,
        replay: ReplayCache | None = None,
        window_ms: int = WINDOW_MS,
        empty: Collection[EmptyBody] = (EmptyBody.OBJECT,),
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._keyring = keyring
        self._replay = replay
        self._window_ms = window_ms
        self._empty = tuple(empty)
        self._clock_ms = clock_ms

    def verify(self, headers: Headers, body: bytes = b"") -> Principal:
        """Return who signed; the replay cache is not asked. Raises RefusedError."""
        return _principal(self._check(headers, body, self._clock_ms()))

    async def authenticate(self, request: Received) -> Accepted:
        """Return who signed, the first time it is seen. Raises RefusedError, ReplayUnavailableError."""
        now_ms = self._clock_ms()
        checked = self._check(request.headers, request.body, now_ms)
        lifetime = checked.timestamp_ms + self._window_ms - now_ms + 1
        await first_time(self._replay, checked.signature, lifetime)
        return Accepted(_principal(checked), checked.body)

    def _check(self, headers: Headers, body: bytes, now_ms: int) -> signature.Checked:
        keyring = self._keyring.current
        return signature.verify(keyring, headers, body, now_ms, window_ms=self._window_ms, empty=self._empty)


async def first_time(replay: ReplayCache | None, given: bytes, lifetime_ms: int) -> None:
    """Raise RefusedError if this signature was seen before. The key is the hash of its bytes: hex has many forms."""
    if replay is not None and not await replay.first_use(hashlib.sha256(given).hexdigest(), lifetime_ms):
        raise RefusedError(Refusal.REPLAYED)


def _principal(checked: signature.Checked) -> Principal:
    caller = checked.caller
    claims = {**caller.claims, "keyID": checked.key_id, "timestamp": checked.timestamp_ms}
    return Principal(Kind.SIGNATURE, caller.service_id, caller.spiffe_id, claims=claims)
