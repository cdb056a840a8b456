"""Calling the next service: mutual TLS and a signature on every request, and a token where the caller gives one."""

import logging
from collections.abc import Mapping
from typing import Any, Final

import httpx

from examples.shop.services import journal
from examples.shop.services.errors import RefusedError, UnavailableError

_LOG: Final = logging.getLogger("shop.calls")
_UNAUTHORIZED: Final = 401
_FAULTS: Final = range(500, 600)
_REFUSED: Final = range(400, 500)
_NOT_TRUSTED: Final = "Client certificate not trusted"
_OURS: Final = (_NOT_TRUSTED, "Client certificate required", "Caller not allowed")
_PASSED_ON: Final = ("www-authenticate", "retry-after", "ratelimit", "ratelimit-policy")
_ATTEMPTS: Final = 2


class Next:
    """Another service. What is asked of it may be done twice, so what failed before an answer is asked once more."""

    def __init__(self, name: str, client: httpx.AsyncClient) -> None:
        self._name = name
        self._client = client

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return an answer below 400. `token` is sent along: say which, the caller's own or a narrower one.

        Raises RefusedError with an answer that the caller is meant to see, UnavailableError for everything else.
        """
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        try:
            response = await self._asked(method, path, json, sent)
        except httpx.HTTPError as error:
            _LOG.warning("%s does not answer: %s", self._name, type(error).__name__)
            raise UnavailableError(f"{self._name} does not answer") from None
        if response.status_code in _FAULTS:
            raise UnavailableError(f"{self._name} is unavailable", response.headers.get("retry-after", "1"))
        if response.status_code not in _REFUSED:
            return response
        body = _body(response)
        if _means_us(response, body):
            _LOG.error("%s refuses this service: %s", self._name, body.get("error"))
            raise UnavailableError(f"{self._name} refuses this service")
        passed = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
        raise RefusedError(response.status_code, body, passed)

    async def _asked(self, method: str, path: str, json: Any, headers: Mapping[str, str]) -> httpx.Response:
        """Ask, and once more if the connection went away before an answer: certificates and Pods are replaced."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._client.request(method, path, json=json, headers=headers)
                if attempt == _ATTEMPTS or not _wants_handshake(response):
                    return response
                reason = _NOT_TRUSTED
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                if attempt == _ATTEMPTS:
                    raise
                reason = type(error).__name__
            _LOG.info("%s is asked again: %s", self._name, reason)
            journal.note(retries=journal.noted("retries", 0) + 1)
        raise AssertionError  # pragma: no cover


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": "refused"}


def _wants_handshake(response: httpx.Response) -> bool:
    """Say whether the certificate of an old connection is refused; on a new one the newest is shown."""
    return response.status_code == _UNAUTHORIZED and _body(response).get("error") == _NOT_TRUSTED


def _means_us(response: httpx.Response, body: Mapping[str, Any]) -> bool:
    """Say whether a refusal is about this service's own credentials: the user can do nothing about it."""
    if body.get("error") in _OURS:
        return True
    challenge: str = response.headers.get("www-authenticate", "")
    return response.status_code == _UNAUTHORIZED and not challenge.startswith("Bearer")
