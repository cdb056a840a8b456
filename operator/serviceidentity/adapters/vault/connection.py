"""Requests to Vault or OpenBao: JSON in, JSON out, our errors, off the event loop.

hvac blocks, so each request runs in a thread of a small pool of its own: a server that hangs fills this pool and
nobody else's. Redirects are not followed: they would carry the token to wherever an answer points.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import hvac.exceptions
import requests
from hvac.adapters import JSONAdapter

from serviceidentity.adapters.vault.settings import VaultSettings
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import MissingError, PortError, RejectedError, RetryableError

logger = logging.getLogger(__name__)

Json = dict[str, Any]

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 10.0
TOTAL_TIMEOUT: Final = 20.0  # a server that sends a byte now and then never reaches the others
THREADS: Final = 4


class ForbiddenError(RejectedError):
    """403: the token is not good (any more), or its policies do not allow this. The server does not say which."""


class Connection(Protocol):
    """Sends requests to one server; tests may fake it."""

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        """Send one request to /v1/`path` and return the JSON answer; empty for an answer without content.

        Raises RetryableError, ForbiddenError, MissingError (404) and RejectedError (everything else). Messages are
        fixed: neither what the server wrote nor a token is ever in them.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class VaultConnection:
    """One connection pool to one server: the port `Connection`."""

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self._session = requests.Session()
        # Nothing from the environment but the proxy: no .netrc, and no other CA file than the one that was named.
        self._session.proxies = requests.utils.get_environ_proxies(settings.address)
        self._session.trust_env = False
        self._session.verify = settings.ca_file or True
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        if urlsplit(settings.address).scheme == "http":
            logger.warning("VAULT_ADDR is a plain http address: keys and tokens go over the network unprotected")

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        call = partial(self._send, method, path, dict(body) if body is not None else None, token)
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise RetryableError("Vault does not answer in time") from error

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _send(self, method: str, path: str, body: Json | None, token: KeyMaterial | None) -> Json:
        adapter = JSONAdapter(
            base_uri=self._settings.address,
            token=token.reveal().decode() if token else None,
            verify=self._session.verify,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            proxies=self._session.proxies,
            allow_redirects=False,
            session=self._session,
            namespace=self._settings.namespace,
            strict_http=True,
        )
        try:
            answer = adapter.request(method, f"/v1/{path}", **({} if body is None else {"json": body}))
        except hvac.exceptions.VaultError as error:
            raise translated(error) from error
        except requests.exceptions.SSLError as error:
            raise RetryableError("Vault's TLS certificate can't be verified") from error
        except (requests.RequestException, OSError) as error:
            raise RetryableError("Vault does not answer") from error
        if isinstance(answer, dict):
            return answer
        if answer.status_code == requests.codes.no_content:
            return {}
        if answer.is_redirect:
            raise RejectedError("Vault redirects to another address: name the server that answers")
        raise RetryableError("Vault's answer can't be understood")


_MEANINGS: Final[tuple[tuple[type[Exception], type[PortError], str], ...]] = (
    (hvac.exceptions.Forbidden, ForbiddenError, "Vault does not allow this: a bad token, or a policy that lacks it"),
    (hvac.exceptions.Unauthorized, RejectedError, "Vault does not accept the credentials"),
    (hvac.exceptions.InvalidPath, MissingError, "Vault has nothing under this path"),
    (hvac.exceptions.InvalidRequest, RejectedError, "Vault refused the request as invalid"),
    (hvac.exceptions.ParamValidationError, RejectedError, "Vault refused the request as invalid"),
    (hvac.exceptions.UnsupportedOperation, RejectedError, "Vault does not support this operation here"),
    (hvac.exceptions.VaultDown, RetryableError, "Vault is sealed, or does not serve now"),
    (hvac.exceptions.VaultNotInitialized, RetryableError, "Vault is not initialised"),
    (hvac.exceptions.RateLimitExceeded, RetryableError, "Vault limits the rate of requests"),
)


def translated(error: Exception) -> PortError:
    """Return what an exception of hvac means to us."""
    for kind, meaning, message in _MEANINGS:
        if isinstance(error, kind):
            return meaning(message)
    return RetryableError("Vault failed")
