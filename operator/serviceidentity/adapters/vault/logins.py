"""Ways to log in: what is shown to the server, and what it grants for that.

Whatever can change meanwhile (a file, a Secret, the token of a service account) is read anew at each login.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serviceidentity.adapters.vault.connection import Connection, Json, data_of, quoted
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.errors import ForbiddenError, MissingError, RejectedError, SettingsError


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and what the server granted with it. Times are those of the event loop; `ends` None means never.

    `of_entity` means that some of its policies are those of the entity or its groups: only a login has them.
    """

    token: KeyMaterial
    renewable: bool
    granted: float
    ends: float | None
    accessor: str = ""
    of_entity: bool = False

    def is_over(self, now: float) -> bool:
        """Say whether the server has forgotten the token by now."""
        return self.ends is not None and now >= self.ends


class LoginMethod(Protocol):
    """One way to log in. `given` means that the token is somebody else's: there is only one, and it is not revoked."""

    given: bool

    async def log_in(self, connection: Connection, refused: KeyMaterial | None) -> Token:
        """Log in. Raises PortError; RejectedError when all there is is the token that was `refused`."""
        ...


class GivenToken:
    """A token that somebody else made, wherever it is read from."""

    given = True

    def __init__(self, read: Callable[[], Awaitable[KeyMaterial]]) -> None:
        self._read = read

    async def log_in(self, connection: Connection, refused: KeyMaterial | None) -> Token:
        token = await self._read()
        if token == refused:
            raise RejectedError("Vault refuses the token that was given")
        try:
            found = data_of(await connection.send("get", "auth/token/lookup-self", None, token))
        except ForbiddenError as error:
            raise RejectedError("Vault refuses the token that was given") from error
        # Whole seconds: the last one of a token that ends shows as 0, as does one that never ends.
        left = found.get("ttl") or (1 if found.get("expire_time") else 0)
        return granted({"auth": {**found, "lease_duration": left}}, token)


class MethodLogin:
    """An auth method, to which something is proven each time."""

    given = False

    def __init__(self, mount: str, proof: Callable[[], Awaitable[Json]], refusal: str) -> None:
        """Log in at `mount` with the body that `proof` returns; `refusal` is what to say when that is not accepted."""
        self._path = f"auth/{quoted(mount.strip('/'))}/login"
        self._proof = proof
        self._refusal = refusal

    async def log_in(self, connection: Connection, refused: KeyMaterial | None) -> Token:
        proof = await self._proof()
        try:
            answer = await connection.send("post", self._path, proof)
        except (RejectedError, MissingError) as error:  # missing: nothing is mounted there
            raise RejectedError(self._refusal) from error
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise RejectedError("Vault gave no token")
        return granted(answer, KeyMaterial(token.encode()))


def granted(answer: Json, token: KeyMaterial) -> Token:
    """Read what was granted; a lease of 0 seconds is one without end, as that of a root token."""
    auth: Any = answer.get("auth") or {}
    seconds = auth.get("lease_duration")
    duration = float(seconds) if isinstance(seconds, int | float) else 0.0
    return Token(
        token,
        renewable=bool(auth.get("renewable")),
        granted=duration,
        ends=loop_time() + duration if duration else None,
        accessor=str(auth.get("accessor") or ""),
        of_entity=bool(auth.get("identity_policies")),
    )


async def from_file(file: Path, what: str) -> KeyMaterial:
    """Read a token. Raises SettingsError, which calls it `what`."""
    return KeyMaterial((await asyncio.to_thread(_read, file, what)).encode())


def as_token(raw: bytes, what: str) -> KeyMaterial:
    """Return a token that may stand in a request. Raises SettingsError when it is none."""
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text.isascii() or not text.isprintable() or not text:
        raise SettingsError(f"{what} holds no token")
    return KeyMaterial(text.encode())


def _read(file: Path, what: str) -> str:
    try:
        raw = file.read_bytes()
    except OSError:
        raise SettingsError(f"{what} can't be read from its file") from None
    return as_token(raw, f"the file of {what}").reveal().decode()


def loop_time() -> float:
    """Return the time of the event loop."""
    return asyncio.get_running_loop().time()
