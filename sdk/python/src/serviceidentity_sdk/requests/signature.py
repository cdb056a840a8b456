"""The signature: hex HMAC-SHA256 over `serviceId:timestamp:JSON body`, the body as JSON.stringify writes it."""

import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from serviceidentity_sdk.requests.ecmascript import NotJsonError, canonical
from serviceidentity_sdk.requests.errors import Refusal, RefusedError
from serviceidentity_sdk.requests.keys import Caller, HmacKey, Keyring

WINDOW_MS: Final = 300_000
SERVICE_ID: Final = "x-service-id"
TIMESTAMP: Final = "x-timestamp"
SIGNATURE: Final = "x-signature"
_TIMESTAMP_FORM: Final = re.compile(r"[0-9]{1,16}", re.ASCII)  # more digits than any time until the year 300,000
_SIGNATURE_FORM: Final = re.compile(r"[0-9a-fA-F]{64}")

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class EmptyBody(StrEnum):
    """What a request without a body signs.

    Node services differ: `req.body` is `{}` with Express 4, and undefined with Express 5, which makes the text
    "undefined" of a template literal; others write `body ? JSON.stringify(body) : ""`.
    """

    OBJECT = "{}"
    UNDEFINED = "undefined"
    NOTHING = ""


def message(service_id: str, timestamp: str, body: bytes) -> bytes:
    """Return what is signed. `body` is as `canonical` gives it. Text is UTF-8, as Node's crypto takes it."""
    return f"{service_id}:{timestamp}:".encode(errors="surrogatepass") + body


def sign(key: bytes, service_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature in lower-case hex. `key` is the decoded key: 32 bytes, not the hex digits of them."""
    return hmac.digest(key, message(service_id, timestamp, body), "sha256").hex()


class Checked:
    """A request whose signature is right: who sent it, when, with which key; its body, as it was signed."""

    __slots__ = ("body", "caller", "key_id", "signature", "timestamp_ms")

    def __init__(self, caller: Caller, key_id: str, timestamp_ms: int, signature: bytes, body: bytes) -> None:
        self.caller = caller
        self.key_id = key_id
        self.timestamp_ms = timestamp_ms
        self.signature = signature
        self.body = body


def verify(
    keyring: Keyring,
    headers: Headers,
    body: bytes,
    now_ms: int,
    *,
    window_ms: int = WINDOW_MS,
    empty: Iterable[EmptyBody] = (EmptyBody.OBJECT,),
) -> Checked:
    """Check a request; `body` is as it came. Raises RefusedError for every request that is not right, and nothing else.

    A header that comes twice counts as both values joined by a comma, as in Node and RFC 9110 5.2, so it is refused.
    """
    found = _values(headers)
    service_id, timestamp, given = found.get(SERVICE_ID), found.get(TIMESTAMP), found.get(SIGNATURE)
    if not (service_id and timestamp and given):
        raise RefusedError(Refusal.MISSING)
    if not _TIMESTAMP_FORM.fullmatch(timestamp) or abs(now_ms - int(timestamp)) > window_ms:
        raise RefusedError(Refusal.EXPIRED)
    caller = keyring.callers.get(service_id)
    if caller is None:
        raise RefusedError(Refusal.UNKNOWN)
    if not _SIGNATURE_FORM.fullmatch(given):
        raise RefusedError(Refusal.INVALID)
    signature = bytes.fromhex(given)
    try:
        texts = [canonical(body)] if body else [form.value.encode() for form in empty]
    except NotJsonError:
        raise RefusedError(Refusal.INVALID) from None
    messages = [message(service_id, timestamp, text) for text in texts]
    key = _matching(usable(caller, now_ms), messages, signature)
    if key is None:
        raise RefusedError(Refusal.INVALID)
    return Checked(caller, key.key_id, int(timestamp), signature, texts[0] if body else b"")


def usable(caller: Caller, now_ms: int) -> list[HmacKey]:
    """Return the keys that verify at this time."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return [key for key in caller.keys if key.until is None or now < key.until]


def _matching(keys: Iterable[HmacKey], messages: Iterable[bytes], signature: bytes) -> HmacKey | None:
    """Return the key that made the signature. All are tried, whichever fits, so that time says nothing."""
    fitting = None
    for key in keys:
        for text in messages:
            if hmac.compare_digest(hmac.digest(key.material.reveal(), text, "sha256"), signature):
                fitting = key
    return fitting


def _values(headers: Headers) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
