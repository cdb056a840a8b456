"""Data keys wrapped by a key of the transit engine: the port `KeyEncryption`. The key never leaves the server."""

import base64
import binascii
import re
from datetime import timedelta
from typing import Final, Protocol
from urllib.parse import quote

from serviceidentity.adapters.vault.connection import Json
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki.envelope import WrappedKey
from serviceidentity.errors import MissingError, RejectedError, RetryableError

SCHEME: Final = "transit:"
_CIPHERTEXT: Final = re.compile(r"vault:(v[1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")


class Requests(Protocol):
    """Requests to a server, logged in."""

    async def request(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send one request. Raises PortError."""
        ...


class TransitKey:
    """One key of one transit mount. Its versions go into the name: `transit:<mount>/<key>:v3`.

    `context` is sent along: a key that was made with derived=true then gives each authority a key of its own.
    """

    check_every = timedelta(hours=1)

    def __init__(self, requests: Requests, mount: str, key: str) -> None:
        self._requests = requests
        self._mount = quote(mount.strip("/"))
        self._key = quote(key, safe="")
        self.name = f"{SCHEME}{mount.strip('/')}/{key}"

    def knows(self, kek: str) -> bool:
        """Say whether a name is that of a version of this key."""
        return kek.startswith(f"{self.name}:")

    async def current(self) -> str:
        """Return the name of the latest version. Raises PortError; MissingError when there is no such key."""
        return self._version(f"v{(await self._describe())['latest_version']}")

    async def wrap(self, data_key: KeyMaterial, context: bytes) -> WrappedKey:
        """Wrap a data key with the latest version. Raises PortError."""
        await self._describe()  # encrypting with a key that is not there would make one
        plain = base64.b64encode(data_key.reveal()).decode()
        return self._wrapped(await self._ask("encrypt", {"plaintext": plain, "context": _encoded(context)}))

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> KeyMaterial:
        """Unwrap. Raises PortError with what stands in the way."""
        self._check(wrapped)
        try:
            answer = await self._ask("decrypt", {"ciphertext": wrapped.text, "context": _encoded(context)})
        except RejectedError as error:
            raise await self._why(wrapped, error) from error
        try:
            return KeyMaterial(base64.b64decode(answer["plaintext"], validate=True))
        except (KeyError, TypeError, binascii.Error, ValueError):
            raise RetryableError("Vault's answer can't be understood") from None

    async def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """Let the server wrap the same data key with the latest version. Raises PortError."""
        self._check(wrapped)
        try:
            return self._wrapped(await self._ask("rewrap", {"ciphertext": wrapped.text, "context": _encoded(context)}))
        except RejectedError as error:
            raise await self._why(wrapped, error) from error

    async def _ask(self, operation: str, body: Json) -> Json:
        answer = await self._requests.request("post", f"{self._mount}/{operation}/{self._key}", body)
        return dict(answer.get("data") or {})

    async def _describe(self) -> Json:
        try:
            answer = await self._requests.request("get", f"{self._mount}/keys/{self._key}")
        except MissingError as error:
            raise MissingError(f"{self.name} does not exist at Vault") from error
        found = dict(answer.get("data") or {})
        if not isinstance(found.get("latest_version"), int):
            raise RetryableError("Vault's answer can't be understood")
        return found

    async def _why(self, wrapped: WrappedKey, error: RejectedError) -> RejectedError | MissingError:
        """Find out what a refusal means; the server's own words are not repeated."""
        try:
            oldest = int((await self._describe()).get("min_decryption_version") or 1)
        except MissingError as missing:
            return missing
        except RejectedError:
            return error  # neither is allowed to us
        version = int(wrapped.kek.rpartition(":v")[2])
        if version < oldest:
            return RejectedError(f"{wrapped.kek} may not decrypt any more: min_decryption_version is {oldest}")
        return RejectedError(f"{self.name} does not open it: {error}")

    def _wrapped(self, answer: Json) -> WrappedKey:
        text = str(answer.get("ciphertext"))
        found = _CIPHERTEXT.fullmatch(text)
        if found is None:
            raise RetryableError("Vault's answer can't be understood")
        return WrappedKey(self._version(found[1]), text)

    def _check(self, wrapped: WrappedKey) -> None:
        found = _CIPHERTEXT.fullmatch(wrapped.text)
        if found is None or self._version(found[1]) != wrapped.kek:
            raise RejectedError("the wrapped key was changed")

    def _version(self, version: str) -> str:
        return f"{self.name}:{version}"


def _encoded(context: bytes) -> str:
    return base64.b64encode(context).decode()
