"""Signed requests: the SDK beside one HMAC over the same bytes, and beside what a service does that signs by hand."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx

from bench.sdk.measure import Case, WrongAnswerError
from serviceidentity_sdk.credentials import KeyMaterial
from serviceidentity_sdk.requests import HmacKey, Keyring, ServiceAuthenticator, ServiceSigner
from serviceidentity_sdk.requests.authenticator import Received
from serviceidentity_sdk.requests.message_signatures import MessageAuthenticator, SignedMessages
from serviceidentity_sdk.source import Fixed

SERVICE: Final = "order-service"
KEY: Final = bytes(range(32))
URL: Final = "https://payment-service.shop.svc:8443/payments?dry=1"
_WINDOW_MS: Final = 86_400_000  # the run may take long; the check is the same


def body(size: int) -> bytes:
    """Return JSON of about so many bytes: an order with its lines, as JSON.stringify writes it."""
    if size < 64:  # noqa: PLR2004
        return b'{"order":"o-12","amount":19.5}'
    line = {"item": "item-0001", "quantity": 2, "price": 9.95, "note": 'blue, 12"'}
    lines = [line] * ((size - 48) // len(json.dumps(line, separators=(",", ":"))))
    return json.dumps({"order": "o-1", "customer": "alice", "lines": lines}, separators=(",", ":")).encode()


def keyring() -> Fixed[Keyring]:
    """Return a ring as after a rotation: the current key and the one before."""
    return Fixed(Keyring.of({SERVICE: [KEY, bytes(32)]}))


def signer() -> ServiceSigner:
    """Return what signs."""
    return ServiceSigner(SERVICE, Fixed(HmacKey("0", KeyMaterial(KEY))))


def bare(content: bytes) -> Callable[[], bytes]:
    """Return the HMAC alone; the message is ready."""
    message = f"{SERVICE}:{int(time.time() * 1000)}:".encode() + content
    return lambda: hmac.digest(KEY, message, "sha256")


def cases() -> Iterator[Case]:
    """Verify and sign at each size; then RFC 9421."""
    for name, size in (("30 B", 30), ("1 KiB", 1024), ("64 KiB", 65_536)):
        content = body(size)
        yield _verify(name, content)
        yield _sign(name, content)
    yield _message_signature(body(1024))


def _verify(name: str, content: bytes) -> Case:
    headers = signer().sign(content)
    authenticator = ServiceAuthenticator(keyring(), window_ms=_WINDOW_MS)

    def by_hand() -> None:
        text = json.dumps(json.loads(content), separators=(",", ":"), ensure_ascii=False)
        message = f"{headers['X-Service-ID']}:{headers['X-Timestamp']}:{text}".encode()
        made = hmac.digest(KEY, message, "sha256").hex()
        if abs(time.time() * 1000 - int(headers["X-Timestamp"])) > _WINDOW_MS or not hmac.compare_digest(
            made, headers["X-Signature"]
        ):
            raise WrongAnswerError("another signature")

    variants = {"floor": bare(content), "sdk": lambda: authenticator.verify(headers, content), "by hand": by_hand}
    return Case(f"verify request {name}", variants)


def _sign(name: str, content: bytes) -> Case:
    sdk = signer()

    def by_hand() -> dict[str, str]:
        timestamp = str(int(time.time() * 1000))
        text = json.dumps(json.loads(content), separators=(",", ":"), ensure_ascii=False)
        made = hmac.digest(KEY, f"{SERVICE}:{timestamp}:{text}".encode(), "sha256").hex()
        return {"X-Service-ID": SERVICE, "X-Timestamp": timestamp, "X-Signature": made}

    return Case(f"sign request {name}", {"floor": bare(content), "sdk": lambda: sdk.sign(content), "by hand": by_hand})


def _message_signature(content: bytes) -> Case:
    request = httpx.Request("POST", URL, content=content)
    for signed in SignedMessages(SERVICE, Fixed(HmacKey("0", KeyMaterial(KEY)))).auth_flow(request):
        request = signed
        break
    received = Received("POST", URL, tuple(request.headers.items()), content)
    authenticator = MessageAuthenticator(keyring(), window_ms=_WINDOW_MS)
    base = b"x" * 400  # what RFC 9421 signs is about so long, whatever the body

    def floor() -> None:
        hashlib.sha256(content).digest()
        hmac.digest(KEY, base, "sha256")

    now_ms = int(time.time() * 1000)
    return Case("verify RFC 9421 1 KiB", {"floor": floor, "sdk": lambda: authenticator.verify(received, now_ms)})
