"""Requests to Vault or OpenBao: JSON in, JSON out, our errors, off the event loop.

hvac blocks, so each request runs in a thread of a small pool of its own: a server that hangs fills this pool and
nobody else's. Redirects are not followed: they would carry the token to wherever an answer points.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import quote

import hvac.exceptions
import requests
from hvac.adapters import JSONAdapter

from serviceidentity.adapters.vault.settings import VaultSettings
from serviceidentity.adapters.vault.tls import VerifyingAdapter
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import (
    ForbiddenError,
    MissingError,
    PortError,
    RejectedError,
    RetryableError,
    UnansweredError,
)

logger = logging.getLogger(__name__)

Json = dict[str, Any]

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 10.0
TOTAL_TIMEOUT: Final = 20.0  # a server that sends a byte now and then never reaches the others
THREADS: Final = 4
NO_ANSWER: Final = "Vault's answer can't be understood"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds: for the connection, for each part of the answer, and for all of it."""

    connect: float = CONNECT_TIMEOUT
    read: float = READ_TIMEOUT
    total: float = TOTAL_TIMEOUT


class TlsError(RetryableError):
    """The server's certificate can't be verified."""


class Connection(Protocol):
    """Sends requests to one server; tests may fake it."""

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        """Send one request to /v1/`path` and return the JSON answer; empty for an answer without content.

        Raises RetryableError, ForbiddenError (403: the token is not good any more, or its policies do not allow this;
        the server does not say which), MissingError (404) and RejectedError (everything else). Messages are fixed:
        neither what the server wrote nor a token is ever in them. `path` is quoted, and may have a query.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class VaultConnection:
    """One connection pool to one server: the port `Connection`."""

    def __init__(
        self,
        settings: VaultSettings,
        *,
        threads: int = THREADS,
        timeouts: Timeouts | None = None,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """Prepare connections; with a `context` of TLS, that says whom to trust instead of the settings' file."""
        self._settings = settings
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="vault")
        self._size = threads
        self._timeouts = timeouts or Timeouts()
        self._server_name = server_name
        self._proxies = requests.utils.get_environ_proxies(settings.address)
        self._session = self._new_session(context)
        self._closed = False

    def use(self, context: ssl.SSLContext) -> None:
        """Make new connections with another context; requests under way end on the old ones."""
        old, self._session = self._session, self._new_session(context)
        old.close()

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: KeyMaterial | None = None
    ) -> Json:
        if self._closed:
            raise RetryableError("the connection to Vault was closed")
        call = partial(self._send, method, path, dict(body) if body is not None else None, token)
        try:
            async with asyncio.timeout(self._timeouts.total):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise UnansweredError("Vault does not answer in time") from error  # its thread goes on
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise RetryableError("the connection to Vault was closed") from None  # while this waited for a thread

    async def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _new_session(self, context: ssl.SSLContext | None) -> requests.Session:
        session = requests.Session()
        # Nothing from the environment but the proxy: no .netrc, and no other CA file than the one that was named.
        session.proxies = self._proxies
        session.trust_env = False
        session.verify = self._settings.ca_file or True
        if context is not None:
            session.mount("https://", VerifyingAdapter(context, self._server_name, self._size))
        return session

    def _send(self, method: str, path: str, body: Json | None, token: KeyMaterial | None) -> Json:
        session = self._session
        adapter = JSONAdapter(
            base_uri=self._settings.address,
            token=token.reveal().decode() if token else None,
            verify=session.verify,
            timeout=(self._timeouts.connect, self._timeouts.read),
            proxies=session.proxies,
            allow_redirects=False,
            session=session,
            namespace=self._settings.namespace,
            strict_http=True,
        )
        try:
            # Without exceptions of hvac's: these do not tell apart the codes that it has no name for.
            answer = adapter.request(
                method, f"/v1/{path}", raise_exception=False, **({} if body is None else {"json": body})
            )
        except requests.exceptions.SSLError as error:
            raise TlsError("Vault's TLS certificate can't be verified") from error
        except (requests.RequestException, OSError) as error:
            raise RetryableError("Vault does not answer") from error
        if isinstance(answer, dict):
            return answer
        if answer.status_code == requests.codes.no_content:
            return {}
        if answer.status_code >= requests.codes.bad_request:
            raise _refusal(answer)
        if answer.is_redirect:
            raise RejectedError("Vault redirects to another address: name the server that answers")
        raise RetryableError(NO_ANSWER)


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


_NOT_SERVED_HERE: Final = frozenset({405, 411, 413, 414, 415, 422})


def _refusal(answer: Any) -> PortError:
    """Return what an answer with an error code means; its cause has the server's words, to compare, not to show."""
    try:
        found = answer.json()
    except ValueError:
        found = {}
    found = found if isinstance(found, dict) else {}
    errors = [str(error) for error in found.get("errors") or ()]
    cause = hvac.exceptions.VaultError.from_status(answer.status_code, answer.text[:1000], errors=errors, json=found)
    if answer.status_code in _NOT_SERVED_HERE:
        error: PortError = RejectedError("Vault does not support this operation here")
    else:
        error = translated(cause)
    error.__cause__ = cause
    return error


def said(error: PortError) -> tuple[str, ...]:
    """Return what the server wrote with an error, in lower case: to be compared with known wordings, never shown."""
    return tuple(str(one).lower() for one in getattr(error.__cause__, "errors", None) or ())


def told(error: PortError) -> Json:
    """Return the data that came along with an error: also that may not be shown."""
    answer = getattr(error.__cause__, "json", None)
    return data_of(answer) if isinstance(answer, dict) else {}


def data_of(answer: Json) -> Json:
    """Return the data of an answer; empty when there is none."""
    data = answer.get("data")
    return data if isinstance(data, dict) else {}


def made_of(answer: Json) -> Json:
    """Return the data of an answer that must have some. Raises RejectedError."""
    data = answer.get("data")
    if not isinstance(data, dict):
        raise RejectedError("Vault's answer has no data: is this a path that is read?")
    return data


def explained(error: PortError) -> PortError | None:
    """Return what a refusal to read a path means, if it is a known one: engines answer 400 where 404 is meant."""
    if any(text.startswith("unknown role") for text in said(error)):
        return MissingError("there is no such role")
    return None


def quoted(path: str) -> str:
    """Return a path, or a part of one, as it goes into a URL. Raises RejectedError when it would lead elsewhere."""
    if any(segment in ("", ".", "..") for segment in path.split("/")) or not path.isprintable():
        raise RejectedError("this is no path in Vault")
    return quote(path)
