"""The API server as a kubelet sees it: requests, and mirrors of what it holds kept up to date by watches."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from tests.controlplane.cluster import ControlPlane

Object = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
PAUSE: Final = 0.3  # seconds between tries while the API server is away
# What a request can fail with when the server is away, restarts, or cuts a watch.
AWAY: Final = (aiohttp.ClientError, OSError, TimeoutError)

_log = logging.getLogger(__name__)


class ApiError(RuntimeError):
    """The API server refused; `status` is its HTTP status."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{method} {path}: {status} {message}")
        self.status = status


class ApiClient:
    """Requests as the control plane's admin. Use it in an event loop, as a context manager."""

    def __init__(self, plane: ControlPlane) -> None:
        self._url = plane.url
        self._trust = ssl.create_default_context(cafile=str(plane.ca_file))
        self._headers = {"Authorization": f"Bearer {plane.admin_token}", "User-Agent": "sio-test-node"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust, limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=10),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: Object | None = None, content_type: str = "") -> Object:
        """Return the decoded answer. Raises ApiError when it is refused, one of AWAY when there is no answer."""
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type or "application/json"}
        async with self._session.request(method, self._url + path, data=content, headers=headers) as answer:
            if answer.status >= 400:
                raise ApiError(method, path, answer.status, _message(await answer.text()))
            return dict(await answer.json())

    async def watch(self, path: str, version: str) -> AsyncIterator[Object]:
        """Yield the events from a version on, until the server ends the watch. Raises as `request` does."""
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "300"}
        patient = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._session.get(self._url + path, params=query, timeout=patient) as answer:
            if answer.status >= 400:
                raise ApiError("GET", path, answer.status, _message(await answer.text()))
            line = bytearray()
            async for part in answer.content.iter_any():
                *whole, rest = part.split(b"\n")
                for end in whole:
                    line += end
                    yield json.loads(line)
                    line.clear()
                line += rest


class Mirror:
    """The objects of one kind in one namespace, by name. `changed` is called for each that came, changed or went."""

    def __init__(self, api: ApiClient, path: str, changed: Callable[[Object, bool], None]) -> None:
        """Prepare it; `changed` gets the object and whether it is there (False: it has gone)."""
        self.objects: dict[str, Object] = {}
        self._api = api
        self._path = path
        self._changed = changed

    async def run(self) -> None:
        """Follow the API server for ever, whatever happens to it."""
        while True:
            try:
                version = await self._list()
                while version:
                    version = await self._follow(version)
            except (ApiError, *AWAY) as error:
                _log.info("watch of %s: %s", self._path, error)
                await asyncio.sleep(PAUSE)

    async def _list(self) -> str:
        found = await self._api.request("GET", self._path)
        items = {item["metadata"]["name"]: item for item in found.get("items") or []}
        for name in self.objects.keys() - items.keys():
            self._changed(self.objects.pop(name), False)
        for name, item in items.items():
            old = self.objects.get(name)
            if old is None or old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._put(item)
        return str(found["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> str:
        """Take in what one watch tells; return where the next one begins, nothing when a list must come first."""
        async for event in self._api.watch(self._path, version):
            item = event["object"]
            if event["type"] == "ERROR":
                return ""
            version = str(item["metadata"]["resourceVersion"])
            if event["type"] == "DELETED":
                self.objects.pop(item["metadata"]["name"], None)
                self._changed(item, False)
            elif event["type"] != "BOOKMARK":
                self._put(item)
        return version

    def _put(self, item: Object) -> None:
        old = self.objects.get(item["metadata"]["name"])
        if old is not None and old["metadata"]["uid"] != item["metadata"]["uid"]:
            self._changed(old, False)  # deleted and made again between two lists
        self.objects[item["metadata"]["name"]] = item
        self._changed(item, True)


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200]
