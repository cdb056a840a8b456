"""Tokens on the way to the next service, with httpx: the caller's own, or a narrower one instead (RFC 8693)."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from serviceidentity_sdk.jwt.errors import ExchangeError
from serviceidentity_sdk.jwt.middleware import current_token

try:
    import httpx
except ImportError as missing:  # pragma: no cover
    raise ImportError("tokens for httpx need: pip install 'serviceidentity-sdk[httpx]'") from missing

_GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # a kind of token
_CODES: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
    }
)
_OK: Final = 200
_LONGEST: Final = 3600.0  # seconds for which an exchanged token is used again at most


class PropagatedToken(httpx.Auth):
    """Sends the token of the request being served: `httpx.AsyncClient(auth=PropagatedToken(hosts=["payment.shop"]))`.

    Only to these hosts: a user's token is for the services it was made for. A request with an Authorization header
    keeps it. Outside of a request, or with one that has no token, nothing is sent.
    """

    def __init__(self, *, hosts: Collection[str]) -> None:
        self._hosts = _hosts(hosts)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = current_token.get()
        if token is not None and request.url.host in self._hosts and "authorization" not in request.headers:
            request.headers["Authorization"] = f"Bearer {token}"
        yield request


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A token in exchange for another. The token does not show."""

    token: str = field(repr=False)
    use_until: float = 0.0


class TokenExchange:
    """Asks a token endpoint for tokens that say less, and keeps them while they last.

    `client` is what the endpoint knows this service by: a client with its certificate, or that signs its requests.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        margin: float = 10.0,
        most: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._client = client
        self._margin = margin
        self._most = most
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[str, str, str], Exchanged] = OrderedDict()
        self._asking: dict[tuple[str, str, str], asyncio.Lock] = {}

    async def exchange(self, token: str, *, audience: str, scope: Collection[str] = ()) -> str:
        """Return a token for this audience, with this scope. Raises ExchangeError, which quotes no answer."""
        words = " ".join(sorted(scope))
        key = (hashlib.sha256(token.encode()).hexdigest(), audience, words)
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:  # concurrent requests of one user ask once
                kept = self._kept.get(key)
                if kept is None or self._monotonic() >= kept.use_until:
                    kept = await self._ask(token, audience, words)
                    self._keep(key, kept)
                return kept.token
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    def _keep(self, key: tuple[str, str, str], exchanged: Exchanged) -> None:
        if exchanged.use_until <= self._monotonic():
            return
        self._kept[key] = exchanged
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    async def _ask(self, token: str, audience: str, scope: str) -> Exchanged:
        form = {
            "grant_type": _GRANT,
            "subject_token": token,
            "subject_token_type": _ACCESS_TOKEN,
            "requested_token_type": _ACCESS_TOKEN,
            "audience": audience,
        }
        asked = self._monotonic()
        try:
            response = await self._client.post(
                self._url, data=form | ({"scope": scope} if scope else {}), follow_redirects=False
            )
            answer = response.json()
        except (httpx.HTTPError, ValueError, RecursionError):
            raise ExchangeError("the token endpoint does not answer as it should") from None
        if response.status_code != _OK or not isinstance(answer, dict):
            _refused(answer)
        found, kind, lasts = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in", 0)
        if not isinstance(found, str) or not found or not isinstance(kind, str) or kind.lower() != "bearer":
            raise ExchangeError("the token endpoint gave no bearer token")
        seconds = lasts if isinstance(lasts, int | float) and not isinstance(lasts, bool) and lasts >= 0 else 0
        return Exchanged(found, asked + min(seconds, _LONGEST) - self._margin)


def _refused(answer: Any) -> NoReturn:
    code = answer.get("error") if isinstance(answer, dict) else None
    known = code if isinstance(code, str) and code in _CODES else None
    raise ExchangeError(f"the token endpoint refuses: {known or 'without a known reason'}", known)


class ExchangedToken(httpx.Auth):
    """Sends a narrower token in exchange for that of the request being served, to these hosts only."""

    def __init__(
        self, exchange: TokenExchange, *, hosts: Collection[str], audience: str, scope: Collection[str] = ()
    ) -> None:
        self._exchange = exchange
        self._hosts = _hosts(hosts)
        self._audience = audience
        self._scope = tuple(scope)

    def sync_auth_flow(self, request: httpx.Request) -> NoReturn:
        raise RuntimeError("tokens are exchanged by an AsyncClient")

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = current_token.get()
        if token is not None and request.url.host in self._hosts and "authorization" not in request.headers:
            narrower = await self._exchange.exchange(token, audience=self._audience, scope=self._scope)
            request.headers["Authorization"] = f"Bearer {narrower}"
        yield request


def _hosts(hosts: Collection[str]) -> frozenset[str]:
    if isinstance(hosts, str):
        raise TypeError("hosts is a collection of names")
    return frozenset(host.lower() for host in hosts)
