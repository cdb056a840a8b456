"""Signing requests and verifying them: hex HMAC-SHA256 over `serviceId:timestamp:body`.

The body is what JavaScript's JSON.stringify makes of it, so the signature does not depend on who wrote the JSON.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.requests import javascript
from serviceidentity.domain.schedule import format_time
from serviceidentity.domain.verdict import Check, Problem, Refused, refusal

SERVICE_ID: Final = "X-Service-ID"
TIMESTAMP: Final = "X-Timestamp"
SIGNATURE: Final = "X-Signature"
HEADERS: Final = (SERVICE_ID, TIMESTAMP, SIGNATURE)
WINDOW: Final = timedelta(milliseconds=300_000)  # in either direction
LONGEST_TIMESTAMP: Final = 15  # digits: beyond it there are years that no calendar has
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_QUOTED: Final = 80


@dataclass(frozen=True, slots=True)
class RequestKey:
    """One key of a caller: its ID, and itself."""

    key_id: str
    material: KeyMaterial


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a keyring names, and the keys that its requests verify with."""

    service_id: str
    namespace: str
    name: str
    spiffe_id: str
    keys: tuple[RequestKey, ...]


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """Whose request it is, when it was signed, until when it is accepted, and with which key."""

    caller: Caller
    signed_at: datetime
    accepted_until: datetime
    key_id: str


@dataclass(frozen=True, slots=True)
class _Seen:
    headers: Mapping[str, tuple[str, ...]]
    body: bytes = field(repr=False)
    keyring: Mapping[str, Caller]
    now: datetime

    def header(self, name: str) -> str:
        """The value of a header that is there once, else nothing."""
        values = self.headers.get(name.lower(), ())
        return values[0] if len(values) == 1 else ""

    @property
    def signed_at(self) -> datetime | None:
        text = self.header(TIMESTAMP)
        if not (text.isascii() and text.isdecimal()) or len(text) > LONGEST_TIMESTAMP or int(text) > _LATEST_MS:
            return None
        return _EPOCH + timedelta(milliseconds=int(text))

    @property
    def caller(self) -> Caller | None:
        return self.keyring.get(self.header(SERVICE_ID))

    @property
    def key(self) -> RequestKey | None:
        """The key that the signature is by. Every one is tried: the next may be in use already, the previous still."""
        try:
            text = _canonical(self.body)
        except MalformedError:
            return None
        given = self.header(SIGNATURE).encode(errors="backslashreplace")
        service_id, timestamp = self.header(SERVICE_ID), self.header(TIMESTAMP)
        matching = [
            key
            for key in (self.caller.keys if self.caller else ())
            if hmac.compare_digest(_signature(key.material.reveal(), service_id, timestamp, text), given)
        ]
        return matching[0] if matching else None


def sign(service_id: str, key: bytes, body: object, now_ms: int) -> dict[str, str]:
    """Return the headers of a request with this body, as an object. Raises MalformedError when JSON can't say it.

    `key` is the decoded key: 32 bytes, not the 64 hex digits in the Secret.
    """
    signature = _signature(key, service_id, str(now_ms), javascript.stringify(body)).decode()
    return {SERVICE_ID: service_id, TIMESTAMP: str(now_ms), SIGNATURE: signature}


def read_keyring(text: bytes) -> dict[str, Caller]:
    """Read `keyring.json` of a keyring Secret: callers by service ID. Raises MalformedError when it is none."""
    try:
        return {service_id: _caller(service_id, entry) for service_id, entry in json.loads(text)["services"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError("it is no keyring of this operator") from None


def verify_request(
    headers: Iterable[tuple[str, str]], body: bytes, keyring: Mapping[str, Caller], now: datetime
) -> AcceptedRequest | Refused:
    """Verify a request by its headers and the bytes of its body. Never raises on a request.

    A request without a body counts as one with the body `{}`, as it does for Express.
    """
    named: dict[str, tuple[str, ...]] = {}
    for name, value in headers:
        named[name.lower()] = (*named.get(name.lower(), ()), value)
    seen = _Seen(named, body, keyring, now)
    if (refused := refusal(REQUEST_CHECKS, seen)) is not None:
        return refused
    caller, key, signed_at = seen.caller, seen.key, seen.signed_at
    assert caller is not None  # noqa: S101  # the checks said so
    assert key is not None  # noqa: S101
    assert signed_at is not None  # noqa: S101
    return AcceptedRequest(caller, signed_at, signed_at + WINDOW, key.key_id)


def not_signed(seen: _Seen) -> Problem | None:
    """One that lacks a header, or has one twice, so that nobody knows which one counts."""
    for name in HEADERS:
        if not seen.header(name):
            how = "is there more than once" if len(seen.headers.get(name.lower(), ())) > 1 else "is missing"
            return Problem("NotSigned", f"the header {name} {how}")
    return None


def bad_timestamp(seen: _Seen) -> Problem | None:
    """A time that is none: whole milliseconds since 1970."""
    if not seen.header(TIMESTAMP) or seen.signed_at is not None:
        return None
    return Problem("Malformed", f"the header {TIMESTAMP} is not a number of milliseconds since 1970")


def outside_the_window(seen: _Seen) -> Problem | None:
    """One that was signed too long ago, and may be a replay, or whose signer's clock is ahead."""
    if seen.signed_at is None or abs(seen.now - seen.signed_at) <= WINDOW:
        return None
    late = seen.now > seen.signed_at
    reason, how = ("Expired", "before") if late else ("IssuedInTheFuture", "after")
    apart = abs(seen.now - seen.signed_at)
    shown = f"{apart / timedelta(seconds=1):.3f} s" if apart < timedelta(hours=1) else format_time(seen.signed_at)
    when = f"it was signed {shown} {how} now" if apart < timedelta(hours=1) else f"it was signed at {shown}"
    return Problem(reason, f"{when}; 300 s are allowed")


def bad_body(seen: _Seen) -> Problem | None:
    """A body that can't have been signed."""
    try:
        _canonical(seen.body)
    except MalformedError as error:
        return Problem("Malformed", str(error))
    return None


def unknown_service(seen: _Seen) -> Problem | None:
    """A service whose key the verifier does not have."""
    if not seen.header(SERVICE_ID) or seen.caller is not None:
        return None
    given = seen.header(SERVICE_ID)
    shown = ascii(given if len(given) <= _QUOTED else given[:_QUOTED] + "...")
    return Problem("UnknownService", f"the keyring has no service {shown}: it is no caller of this verifier")


def bad_signature(seen: _Seen) -> Problem | None:
    """A signature by none of the caller's keys."""
    if seen.caller is None or not seen.header(SIGNATURE) or bad_body(seen) or seen.key is not None:
        return None
    return Problem("BadSignature", "the signature is by none of the caller's keys, or the request was changed")


REQUEST_CHECKS: Final[tuple[Check[_Seen], ...]] = (
    not_signed,
    bad_timestamp,
    outside_the_window,
    bad_body,
    unknown_service,
    bad_signature,
)


def _canonical(body: bytes) -> bytes:
    return javascript.stringify(javascript.parse(body)) if body else b"{}"


def _signature(key: bytes, service_id: str, timestamp: str, body: bytes) -> bytes:
    message = f"{service_id}:{timestamp}:".encode(errors="backslashreplace") + body
    return hmac.digest(key, message, "sha256").hex().encode()


def _caller(service_id: str, entry: Mapping[str, Any]) -> Caller:
    keys = tuple(RequestKey(str(jwk["kid"]), KeyMaterial(_decoded(jwk["k"]))) for jwk in entry["keys"])
    return Caller(service_id, str(entry["namespace"]), str(entry["name"]), str(entry["spiffeID"]), keys)


def _decoded(text: str) -> bytes:
    decoded = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if not decoded:
        raise ValueError("an empty key, under which anyone can sign")
    return decoded
