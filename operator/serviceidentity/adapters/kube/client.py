"""Requests to the API server: JSON in, JSON out, our errors.

The generated model classes are left aside: they cost a multiple of the request itself, and every object here is either
ours or a Secret. Transport, TLS, kubeconfig and token refresh are the official client's.
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from serviceidentity.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    MissingError,
    PortError,
    RejectedError,
    RetryableError,
)

Json = dict[str, Any]

REQUEST_TIMEOUT: Final = 30.0
CONNECTIONS: Final = 48
FIELD_MANAGER: Final = "serviceidentity-operator"
MERGE_PATCH: Final = "application/merge-patch+json"

_MESSAGES: Final[Mapping[int, str]] = {
    400: "the API server could not understand the request",
    401: "the API server did not accept the credentials",
    403: "the API server does not allow this: missing permission, exhausted quota or a namespace being deleted",
    404: "the object or its namespace does not exist",
    409: "the object changed meanwhile",
    413: "the object is too large",
    422: "the API server refused the object as invalid",
}


class KubeClient:
    """One connection pool to one API server."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS
        # aiohttp would look for a proxy in the environment anew, in a thread, for each request; once is enough.
        configuration.proxy = configuration.proxy or _environment_proxy(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = ApiClient(configuration)
        self._host: str = configuration.host

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> "KubeClient":
        """Use the kubeconfig file if one is named, else the service account of the pod.

        Raises RejectedError when neither can be used.
        """
        configuration = Configuration()
        try:
            if kubeconfig is not None:
                await load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
            else:
                load_incluster_config(client_configuration=configuration)
            return cls(configuration)
        except (ConfigException, OSError, ValueError, TypeError, AttributeError, KeyError, YAMLError) as error:
            raise RejectedError("no usable kubeconfig, and not running in a cluster") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """Send one request and return the JSON answer.

        Raises RetryableError (no answer, 429, 5xx, 401), MissingError (404), ConflictError and AlreadyExistsError
        (409), ForbiddenError (403), RejectedError (everything else). Messages are fixed: what the server wrote is
        never in them.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type}
        query = query if method == "GET" else {"fieldManager": FIELD_MANAGER}
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUT)
            payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RetryableError("the API server does not answer") from error
        if response.status >= 400:  # noqa: PLR2004  # HTTP
            raise _error(method, response.status, payload)
        try:
            answer = json.loads(payload)
        except ValueError as error:
            raise RetryableError("the API server's answer is not JSON") from error
        return answer if isinstance(answer, dict) else {}

    async def list_all(self, path: str, selector: str | None = None, chunk: int = 500) -> tuple[list[Json], int]:
        """Return all items of a collection, read in chunks, and the resource version of the list."""
        items: list[Json] = []
        query = {"limit": str(chunk)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self.request("GET", path, query=query)
            items += page.get("items") or []
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, int(meta.get("resourceVersion") or 0)
            query["continue"] = meta["continue"]


_TIMEOUT: Final = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)


def _environment_proxy(host: str) -> str | None:
    """Return the proxy that HTTPS_PROXY and NO_PROXY name for the API server, if any."""
    address = urlsplit(host)
    if proxy_bypass(address.hostname or ""):
        return None
    return getproxies().get(address.scheme)


def segment(name: str) -> str:
    """Return a name as one segment of a URL path."""
    return quote(name, safe="")


def _error(method: str, status: int, payload: bytes) -> PortError:
    message = _MESSAGES.get(status, "the API server failed")
    match status:
        case 404:
            return MissingError(message)
        case 403 if b'"NamespaceTerminating"' in payload:
            return MissingError("the namespace is being deleted")
        case 403:
            return ForbiddenError(message)
        case 409:
            return (
                AlreadyExistsError(message)
                if method == "POST" and _reason(payload) == "AlreadyExists"
                else (ConflictError(message))
            )
        case 401 | 408 | 425 | 429 | 500 | 502 | 503 | 504:
            return RetryableError(message)
        case _:
            return RejectedError(message)


def _reason(payload: bytes) -> str:
    try:
        return str(json.loads(payload).get("reason"))
    except (ValueError, AttributeError):
        return ""
