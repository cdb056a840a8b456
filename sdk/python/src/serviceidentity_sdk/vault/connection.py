"""Requests to Vault or OpenBao through hvac: JSON in, JSON out, our errors."""

from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

try:
    import requests
    from hvac.adapters import JSONAdapter
except ImportError as error:
    raise ImportError("serviceidentity_sdk.vault needs: pip install 'serviceidentity-sdk[vault]'") from error

from serviceidentity_sdk.vault.errors import (
    VaultAwayError,
    VaultForbiddenError,
    VaultMissingError,
    VaultRefusedError,
)

Json = dict[str, Any]
TIMEOUTS: Final = (5.0, 10.0)  # seconds: for the connection, for each part of the answer
_NO_ANSWER: Final = "Vault's answer can't be understood"
_FORBIDDEN, _MISSING, _TOO_MANY, _FAILED = 403, 404, 429, 500
_BAD, _EMPTY = 400, 204


class Requests(Protocol):
    """Sends requests; tests may fake it."""

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None) -> Json:
        """Send one request to /v1/`path`, which is quoted, and return the JSON answer. Raises VaultError."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Connection:
    """A pool of connections to one server; any thread may use it.

    Redirects are not followed: they would carry the token to wherever an answer points.
    """

    def __init__(self, address: str, *, ca_file: str | None = None, namespace: str | None = None) -> None:
        """Prepare connections to `address`, such as https://vault:8200; `ca_file` has the CAs that may vouch for it."""
        self._address = address.rstrip("/")
        self._namespace = namespace
        self._session = requests.Session()
        self._session.proxies = requests.utils.get_environ_proxies(self._address)
        self._session.trust_env = False  # no .netrc, and no other CA file than the one that was named
        self._session.verify = ca_file or True

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None) -> Json:
        """Send one request, as the protocol says."""
        adapter = JSONAdapter(
            base_uri=self._address,
            token=token,
            verify=self._session.verify,
            timeout=TIMEOUTS,
            proxies=self._session.proxies,
            allow_redirects=False,
            session=self._session,
            namespace=self._namespace,
            strict_http=True,
        )
        content = {} if body is None else {"json": dict(body)}
        try:
            answer = adapter.request(method, f"/v1/{path}", raise_exception=False, **content)
        except requests.exceptions.SSLError as error:
            raise VaultAwayError("Vault's TLS certificate can't be verified") from error
        except (requests.RequestException, OSError) as error:
            raise VaultAwayError("Vault does not answer") from error
        if isinstance(answer, dict):
            return answer
        if answer.status_code == _EMPTY:
            return {}
        raise _refusal(answer.status_code)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def _refusal(status: int) -> Exception:
    if status == _FORBIDDEN:
        return VaultForbiddenError("Vault does not allow this: a bad token, or a policy that lacks it")
    if status == _MISSING:
        return VaultMissingError("Vault has nothing under this path")
    if status == _TOO_MANY or status >= _FAILED:
        return VaultAwayError("Vault is sealed, or does not serve now")
    if status >= _BAD:
        return VaultRefusedError("Vault refused the request as invalid")
    return VaultAwayError(_NO_ANSWER)


def quoted(path: str) -> str:
    """Return a path, or a part of one, as it goes into a URL. Raises VaultRefusedError when it would lead elsewhere."""
    if any(segment in ("", ".", "..") for segment in path.split("/")) or not path.isprintable():
        raise VaultRefusedError("this is no path in Vault")
    return quote(path)


def data_of(answer: Json) -> Json:
    """Return the data of an answer. Raises VaultRefusedError when it has none."""
    data = answer.get("data")
    if not isinstance(data, dict):
        raise VaultRefusedError("Vault's answer has no data: is this a path that is read?")
    return data


def grant_of(answer: Json) -> tuple[float, bool]:
    """Return how many seconds an answer grants, and whether they can be renewed. Raises VaultAwayError."""
    try:
        return max(float(answer["lease_duration"]), 0.0), bool(answer.get("renewable"))
    except (KeyError, TypeError, ValueError):
        raise VaultAwayError(_NO_ANSWER) from None
