"""JWK Sets: of a mounted file, and of a URL."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from serviceidentity_sdk.credentials import CredentialError, Snapshot
from serviceidentity_sdk.jwt.errors import UnavailableError
from serviceidentity_sdk.jwt.jose import KeyFormatError, KeySet, read_key_set
from serviceidentity_sdk.source import Source

if TYPE_CHECKING:
    import httpx

_LOG: Final = logging.getLogger("serviceidentity_sdk.jwt")
_LARGEST: Final = 512 * 1024  # bytes of an answer
_TIMEOUT: Final = 5.0  # seconds
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})(?:$|[,\s])", re.IGNORECASE)
_OK: Final = 200


def read_jwks(snapshot: Snapshot) -> KeySet:
    """Read the `jwks.json` of a mounted directory, for a `Watch`. Raises CredentialError."""
    try:
        return read_key_set(snapshot.read("jwks.json"))
    except KeyFormatError as error:
        raise CredentialError(f"{snapshot.path}/jwks.json: {error}") from None


class MountedKeys:
    """The keys of a mounted JWK Set: `MountedKeys(Watch([Directory("/identity/jwks")], read_jwks))`."""

    def __init__(self, source: Source[KeySet]) -> None:
        self._source = source

    async def keys(self, key_id: str | None) -> KeySet:
        return self._source.current


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: KeySet
    at: float
    fresh_until: float


class RemoteKeys:
    """The keys of a JWK Set at a URL, fetched when they are needed.

    A set is used for `max_age`, or less if the answer's Cache-Control says so. A token with an unknown kid makes it
    fetch again, at most once in `cooldown`, so that strangers can't make it ask at will. While the URL does not answer,
    the last good set is used until it is `keep` old; then, as without any set, `keys` raises UnavailableError.
    """

    def __init__(
        self,
        url: str,
        client: "httpx.AsyncClient",
        *,
        max_age: timedelta = timedelta(minutes=5),
        cooldown: timedelta = timedelta(seconds=10),
        keep: timedelta = timedelta(hours=1),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("keys that decide who is let in come by https")
        self._url = url
        self._client = client
        self._max_age = max_age.total_seconds()
        self._cooldown = cooldown.total_seconds()
        self._keep = keep.total_seconds()
        self._monotonic = monotonic
        self._fetching = asyncio.Lock()
        self._fetched: _Fetched | None = None
        self._tried: float | None = None

    async def keys(self, key_id: str | None) -> KeySet:
        if not self._at_once(key_id):
            async with self._fetching:  # whoever waited here looks again: one fetch serves all
                if not self._enough(key_id):
                    await self._fetch()
        if self._fetched is None or self._monotonic() - self._fetched.at > self._keep:
            raise UnavailableError("there are no signing keys")
        return self._fetched.keys

    def _at_once(self, key_id: str | None) -> bool:
        """Say whether the set that is there serves, without waiting for a fetch that is under way."""
        if not self._fetching.locked():
            return self._enough(key_id)
        fetched = self._fetched
        return fetched is not None and self._monotonic() - fetched.at <= self._keep and fetched.keys.knows(key_id)

    def _enough(self, key_id: str | None) -> bool:
        """Say whether there is no reason to fetch, or it is too early to."""
        now, fetched = self._monotonic(), self._fetched
        if fetched is not None and now < fetched.fresh_until and fetched.keys.knows(key_id):
            return True
        return self._tried is not None and now - self._tried < self._cooldown

    async def _fetch(self) -> None:
        before, self._tried = self._tried, self._monotonic()
        try:
            keys, max_age = await asyncio.wait_for(self._ask(), _TIMEOUT)
        except asyncio.CancelledError:
            self._tried = before  # whoever asked went away; that says nothing about the URL
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the last good set stays; its text may be the server's
            _LOG.warning("signing keys were not fetched, the last good ones stay: %s", type(error).__name__)
            return
        at = self._monotonic()
        self._fetched = _Fetched(keys, at, at + min(self._max_age, max_age))

    async def _ask(self) -> tuple[KeySet, float]:
        headers = {"Accept": "application/jwk-set+json, application/json"}
        async with self._client.stream("GET", self._url, headers=headers, follow_redirects=False) as response:
            if response.status_code != _OK:
                raise UnavailableError("the answer is not 200")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST:
                    raise UnavailableError("the answer is too large")
            stated = _MAX_AGE.search(response.headers.get("cache-control", ""))
        return read_key_set(bytes(body)), float(stated[1]) if stated else self._max_age
