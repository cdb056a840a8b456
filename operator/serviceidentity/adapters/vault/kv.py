"""KV engines of either version. Which one it is, the server is asked once for each mount."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from serviceidentity.adapters.vault.connection import NO_ANSWER, Json, data_of, quoted, told
from serviceidentity.app.vault.ports import KvSecret
from serviceidentity.errors import ForbiddenError, MissingError, PortError, RejectedError, RetryableError

logger = logging.getLogger(__name__)

Request = Callable[[str, str], Awaitable[Json]]

# What `sys/internal/ui/mounts` calls an engine whose secrets are read as those of KV version 1.
_PLAIN: Final = frozenset({"kv", "generic"})
# What is read there is the server's own, such as the login's token in auth/token/lookup-self. In a Vault namespace its
# path comes first.
_SYSTEM: Final = frozenset({"sys", "auth", "identity", "cubbyhole"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the secrets of an engine are: `mount` is the engine's own path, `below` what was named beyond it."""

    mount: str
    below: str
    versioned: bool

    def path(self, path: str, version: int | None) -> str:
        """Return where to read a secret."""
        inner = f"{self.below}/{path}" if self.below else path
        if not self.versioned:
            return quoted(f"{self.mount}/{inner}")
        return quoted(f"{self.mount}/data/{inner}") + (f"?version={version}" if version else "")


class KvEngines:
    """The KV engines of one server: what is known of them is the same for every login."""

    def __init__(self) -> None:
        self._layouts: dict[str, Layout] = {}
        self._asked: dict[str, asyncio.Event] = {}

    async def read(self, request: Request, mount: str, path: str, version: int | None) -> KvSecret:
        """Read a secret, as the port says, with the `request` of a login."""
        known = self._layouts.get(mount)
        if known is not None:
            try:
                return await _read(request, known, path, version)
            except (MissingError, RejectedError) as error:
                # Nothing there, or no right to: so it looks when the engine has become one of the other version.
                found = await self._detected(request, mount)
                if found is None or found == known:
                    raise
                logger.info("a KV engine has another version than before: %s", type(error).__name__)
                return await _read(request, found, path, version)
        found = await self._found_out(request, mount)
        if found is not None:
            return await _read(request, found, path, version)
        return await self._tried(request, mount, path, version)

    async def _found_out(self, request: Request, mount: str) -> Layout | None:
        """Ask about an engine that is not known yet, once for all who want to know at the same time."""
        asked = self._asked.get(mount)
        if asked is not None:
            await asked.wait()
            return self._layouts.get(mount) or await self._detected(request, mount)
        asked = self._asked[mount] = asyncio.Event()
        try:
            return await self._detected(request, mount)
        finally:
            del self._asked[mount]
            asked.set()

    async def _detected(self, request: Request, mount: str) -> Layout | None:
        """Ask the server which engine it is; None when it does not tell. Whoever may read a secret may ask."""
        try:
            found = data_of(await request("get", f"sys/internal/ui/mounts/{quoted(mount)}"))
        except (ForbiddenError, MissingError):
            return None
        if found.get("type") not in _PLAIN:
            raise RejectedError(f"{mount} is not a KV engine")
        options = found.get("options")
        versioned = isinstance(options, dict) and str(options.get("version")) == "2"
        at = str(found.get("path") or "").strip("/")
        if not at or not f"{mount}/".startswith(f"{at}/"):  # in a Vault namespace its path comes first
            at = mount
        layout = self._layouts[mount] = Layout(at, mount[len(at) + 1 :], versioned)
        return layout

    async def _tried(self, request: Request, mount: str, path: str, version: int | None) -> KvSecret:
        """Read without knowing: as version 2, which is the usual one, then as version 1."""
        try:
            return await _read(request, Layout(mount, "", versioned=True), path, version)
        except (MissingError, RejectedError) as error:
            if version is not None or not _SYSTEM.isdisjoint(f"{mount}/{path}".split("/")):
                raise
            try:
                return await _read(request, Layout(mount, "", versioned=False), path, None)
            except (MissingError, RejectedError):
                raise error from None


async def _read(request: Request, layout: Layout, path: str, version: int | None) -> KvSecret:
    if version is not None and not layout.versioned:
        raise RejectedError(f"{layout.mount} is a KV engine of version 1, which keeps no versions")
    try:
        answer = await request("get", layout.path(path, version))
    except MissingError as error:
        raise MissingError(_why_missing(error)) from error
    if answer.get("lease_id"):
        raise RejectedError("it has a lease, which secrets of a KV engine have not: ask for it as lease or database")
    found = data_of(answer)
    if not layout.versioned:
        return KvSecret(found)
    values, metadata = found.get("data"), found.get("metadata")
    if not isinstance(metadata, dict):
        raise RejectedError("Vault's answer is not that of a KV engine of version 2")
    if not isinstance(values, dict):
        raise MissingError("this version of it was deleted")
    number = metadata.get("version")
    if not isinstance(number, int):
        raise RetryableError(NO_ANSWER)
    return KvSecret(values, number)


def _why_missing(error: PortError) -> str:
    metadata = told(error).get("metadata")
    if not isinstance(metadata, dict):
        return str(error)
    return "this version of it was destroyed" if metadata.get("destroyed") else "this version of it was deleted"
