"""RFC 9421, the standard for signed requests: it covers the method, the target and any kind of body.

The same keys and keyrings; `keyid` is the service ID, the algorithm hmac-sha256. Both sides have to speak it.
"""

import secrets
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from serviceidentity_sdk.principal import Kind, Principal
from serviceidentity_sdk.requests.authenticator import Accepted, Received, first_time, wall_clock_ms
from serviceidentity_sdk.requests.errors import Refusal, RefusedError
from serviceidentity_sdk.requests.keys import Caller, HmacKey, Keyring
from serviceidentity_sdk.requests.replay import ReplayCache
from serviceidentity_sdk.requests.signature import WINDOW_MS, usable
from serviceidentity_sdk.source import Source

try:
    import httpx
    from http_message_signatures import (
        HTTPMessageSigner,
        HTTPMessageVerifier,
        HTTPSignatureKeyResolver,
        InvalidSignature,
        VerifyResult,
    )
    from http_message_signatures.algorithms import HMAC_SHA256
except ImportError as missing:  # pragma: no cover
    raise ImportError("RFC 9421 needs: pip install 'serviceidentity-sdk[http-signatures,httpx]'") from missing

COVERED: Final = ("@method", "@authority", "@path", "@query")
_TARGETS: Final = (frozenset({"@method", "@target-uri"}), frozenset(COVERED))  # one of them has to be covered
_HEADERS: Final = frozenset({"signature", "signature-input"})


class _SigningKey(HTTPSignatureKeyResolver):
    def __init__(self, key: HmacKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> bytes:
        return self._key.material.reveal()


class _CallersKeys(HTTPSignatureKeyResolver):
    """Looks the caller up by `keyid` and hands out one of its keys, the one whose turn it is."""

    def __init__(self, keyring: Keyring, now_ms: int) -> None:
        self._keyring = keyring
        self._now_ms = now_ms
        self.asked = False
        self.caller: Caller | None = None
        self.left: list[HmacKey] = []

    def resolve_public_key(self, key_id: str) -> bytes | None:
        if not self.asked:
            self.asked = True
            self.caller = self._keyring.callers.get(key_id)
            self.left = usable(self.caller, self._now_ms) if self.caller else []
        return self.left.pop(0).material.reveal() if self.left else None


class _Verifier(HTTPMessageVerifier):
    """The library's verifier, its clock and window replaced by ours."""

    def __init__(self, keys: _CallersKeys, now_ms: int, window_ms: int) -> None:
        super().__init__(signature_algorithm=HMAC_SHA256, key_resolver=keys)
        self._now_ms = now_ms
        self._window_ms = window_ms

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        created, expires = sig_input.params.get("created"), sig_input.params.get("expires")
        if type(created) is not int:
            raise InvalidSignature("created is missing")
        if abs(self._now_ms - created * 1000) > self._window_ms or (
            expires is not None and self._now_ms >= expires * 1000
        ):
            raise _ExpiredError


class _ExpiredError(InvalidSignature):
    pass


class _Fields:
    """Header lines as the library reads them: in order, with repeated names."""

    def __init__(self, lines: tuple[tuple[str, str], ...]) -> None:
        self._lines = lines

    def items(self) -> tuple[tuple[str, str], ...]:
        return self._lines


class _Message:
    def __init__(self, request: Received) -> None:
        self.method = request.method
        self.url = request.url
        self.headers = _Fields(request.headers)


class MessageAuthenticator:
    """Verifies RFC 9421 signatures. It stands where a `ServiceAuthenticator` does, in `SignedRequestMiddleware` too.

    A request has one signature, made within the window, over `@method` and the target (`@target-uri`, or `@authority`,
    `@path` and `@query`), and over `content-digest` (RFC 9530) if it has a body. `@authority` is the Host header: a
    proxy that changes it makes signatures invalid.
    """

    def __init__(
        self,
        keyring: Source[Keyring],
        *,
        replay: ReplayCache | None = None,
        window_ms: int = WINDOW_MS,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._keyring = keyring
        self._replay = replay
        self._window_ms = window_ms
        self._clock_ms = clock_ms

    async def authenticate(self, request: Received) -> Accepted:
        """Return who signed. Raises RefusedError, ReplayUnavailableError."""
        now_ms = self._clock_ms()
        caller, result = self.verify(request, now_ms)
        lifetime = int(result.parameters["created"]) * 1000 + self._window_ms - now_ms + 1
        # What is covered, with created and nonce, is one to one with the signature, whose text has several forms.
        covered = "\n".join(f"{name}: {value}" for name, value in result.covered_components.items())
        await first_time(self._replay, covered.encode(), lifetime)
        claims = {**caller.claims, "created": result.parameters["created"]}
        return Accepted(Principal(Kind.SIGNATURE, caller.service_id, caller.spiffe_id, claims=claims), request.body)

    def verify(self, request: Received, now_ms: int) -> tuple[Caller, VerifyResult]:
        """Return the caller and what its signature covers. Raises RefusedError, and nothing else."""
        if not {name.lower() for name, _ in request.headers} >= _HEADERS:
            raise RefusedError(Refusal.MISSING)
        keys = _CallersKeys(self._keyring.current, now_ms)
        verifier = _Verifier(keys, now_ms, self._window_ms)
        while True:
            result = _result(verifier, request)
            if result is not None and keys.caller is not None:
                return keys.caller, result
            if keys.asked and keys.caller is None:
                raise RefusedError(Refusal.UNKNOWN)
            if not keys.left:
                raise RefusedError(Refusal.INVALID)


def _result(verifier: _Verifier, request: Received) -> VerifyResult | None:
    try:
        (result,) = verifier.verify(_Message(request), max_age=None, body=request.body)
    except _ExpiredError:
        raise RefusedError(Refusal.EXPIRED) from None
    except Exception:  # noqa: BLE001  # whatever the library makes of a stranger's headers, it is no signature
        return None
    covered = {name.strip('"') for name in result.covered_components}
    return result if any(target <= covered for target in _TARGETS) else None


class SignedMessages(httpx.Auth):
    """`httpx.AsyncClient(auth=SignedMessages("order-service", key))`: each request is signed as RFC 9421 says."""

    requires_request_body = True

    def __init__(self, service_id: str, key: Source[HmacKey], *, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._service_id = service_id
        self._key = key
        self._clock_ms = clock_ms

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        for name in ("content-digest", *_HEADERS):
            request.headers.pop(name, None)
        signer = HTTPMessageSigner(signature_algorithm=HMAC_SHA256, key_resolver=_SigningKey(self._key.current))
        signer.sign(
            request,
            key_id=self._service_id,
            created=datetime.fromtimestamp(self._clock_ms() // 1000, UTC),
            nonce=secrets.token_urlsafe(16),
            label="sig1",
            covered_component_ids=COVERED,
            body=request.content or None,
        )
        yield request
