"""Requests through the middlewares, as ASGI calls in process: beside the bare application and the bare cryptography."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.sdk import policies, signatures, tokens
from bench.sdk.measure import Case, WrongAnswerError, finish
from bench.sdk.pki import Mounted, Pki, spiffe_id
from serviceidentity_sdk.asgi import Application, Message, Receive, Scope, Send, read_body
from serviceidentity_sdk.jwt import BearerMiddleware
from serviceidentity_sdk.mtls import MutualTLS, MutualTLSMiddleware, Peers
from serviceidentity_sdk.policy.guards import authorize_action
from serviceidentity_sdk.requests import MemoryReplayCache, ServiceAuthenticator, SignedRequestMiddleware

_CREATED: Final = 201
_PEERS: Final = Peers(spiffe_ids=[spiffe_id("order-service")])


async def application(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as an endpoint that read its body; nothing else."""
    await read_body(receive, 1 << 20)
    await send({"type": "http.response.start", "status": _CREATED, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def cases(pki: Pki, room: Path) -> Iterator[Case]:
    """Each middleware alone, then all that a service has."""
    content = signatures.body(1024)
    issued = tokens.issued("ES256")
    certificate, signed = _certificate(pki), signatures.signer().sign(content)
    bearer = {"Authorization": f"Bearer {issued.token}"}
    tls = MutualTLS(Mounted(room / "service", pki.files("payment-service", revoked=10)).path)
    verified = BearerMiddleware(application, issued.verifier)
    authenticator = ServiceAuthenticator(signatures.keyring(), window_ms=86_400_000)
    hmac = signatures.bare(content)
    yield Case(
        "mTLS middleware",
        {
            "floor": _through(application, content, {}, certificate),
            "sdk": _through(MutualTLSMiddleware(application, tls, allowed=_PEERS), content, {}, certificate),
        },
    )
    yield Case(
        "token middleware, ES256",
        {
            "floor": _through(application, content, bearer, after=issued.bare),
            "sdk": _through(verified, content, bearer),
        },
    )
    yield Case(
        "signature middleware, 1 KiB",
        {
            "floor": _through(application, content, signed, after=hmac),
            "sdk": _through(SignedRequestMiddleware(application, authenticator), content, signed),
        },
    )
    headers = signed | bearer
    signer = signatures.signer()
    replay = ServiceAuthenticator(
        signatures.keyring(), window_ms=86_400_000, replay=MemoryReplayCache(largest=10_000_000)
    )
    whole: Application = BearerMiddleware(_Asking(application), issued.verifier)
    whole = SignedRequestMiddleware(whole, replay)
    whole = MutualTLSMiddleware(whole, tls, allowed=_PEERS)

    def stack() -> None:  # a new signature each time, as the replay cache wants: the caller's half is in the figure
        _called(whole, content, signer.sign(content) | bearer, certificate)

    def by_hand() -> None:
        hmac()  # of the signer
        hmac()
        issued.bare()
        _called(application, content, headers, certificate)

    yield Case("a service's whole stack", {"floor": by_hand, "sdk": stack})


class _Asking:
    """Ask the policy before the application, with the rule of a route."""

    def __init__(self, app: Application) -> None:
        self._app = app
        resource = {"owner": "8b0c3c5e-6a0a-4c55-b9a4-0f3b1a2f4d11", "amount": 19.5}
        self._rule = authorize_action(policies.engine(), policies.ACTION, resource=lambda _: resource)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._rule.refusal(scope)
        if refusal is not None:
            raise WrongAnswerError(str(refusal.body))
        await self._app(scope, receive, send)


def _certificate(pki: Pki) -> dict[str, Any]:
    chain = pki.files("order-service")["tls.crt"].decode()
    end = "-----END CERTIFICATE-----\n"
    return {"tls": {"tls_version": 0x0304, "client_cert_chain": [part + end for part in chain.split(end) if part]}}


def _nothing() -> None:
    pass


def _through(
    app: Application,
    content: bytes,
    headers: dict[str, str],
    extensions: Any = None,
    *,
    after: Callable[[], object] = _nothing,
) -> Callable[[], None]:
    def call() -> None:
        after()
        _called(app, content, headers, extensions)

    return call


def _called(app: Application, content: bytes, headers: dict[str, str], extensions: Any = None) -> None:
    """One request, with the scope that a server makes for it."""
    answered = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal answered
        answered = answered or message["status"]

    lines = [(b"host", b"payment-service.shop.svc:8443"), (b"content-type", b"application/json")]
    lines += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "scheme": "https",
        "path": "/payments",
        "raw_path": b"/payments",
        "query_string": b"",
        "http_version": "1.1",
        "headers": lines,
        "extensions": extensions or {},
        "state": {},
    }
    asked: Awaitable[None] = app(scope, receive, send)
    finish(asked)  # type: ignore[arg-type]  # the middlewares' are coroutines
    if answered != _CREATED:
        raise WrongAnswerError(f"answered {answered}")
