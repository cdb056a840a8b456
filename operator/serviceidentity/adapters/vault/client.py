"""One server as one login may use it: the port `VaultClient`."""

import base64
import binascii
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from serviceidentity.adapters.vault.connection import NO_ANSWER, Connection, data_of, explained, made_of, quoted, said
from serviceidentity.adapters.vault.kv import KvEngines
from serviceidentity.adapters.vault.leases import VaultLeases
from serviceidentity.adapters.vault.pki import sign
from serviceidentity.adapters.vault.session import Session
from serviceidentity.adapters.vault.sessions import Sessions
from serviceidentity.app.vault.ports import DataKey, Grant, KvSecret, Leased, LeaseToken, Login, Signed
from serviceidentity.domain.credentials.remote_leaf import LeafRequest
from serviceidentity.domain.material import KeyMaterial
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import MissingError, RejectedError, RetryableError

_BITS: Final = 8


class HvacClient:
    """Requests of one login. It is cheap: logins and connections are those of the server."""

    def __init__(self, login: Login, sessions: Sessions, connection: Connection, kv: KvEngines) -> None:
        self._login = login
        self._sessions = sessions
        self._connection = connection
        self._kv = kv

    @property
    def login(self) -> Login:
        return self._login

    async def read_kv(self, mount: str, path: str, version: int | None) -> KvSecret:
        await self._session.token()  # now, so that a refused login is not taken for a secret that may not be read
        return await self._kv.read(self._session.request, mount, path, version)

    async def read(self, path: str) -> Mapping[str, Any]:
        try:
            return made_of(await self._session.request("get", quoted(path)))
        except RejectedError as error:
            if (meaning := explained(error)) is not None:
                raise meaning from error
            raise

    async def lease_token(self, ttl: timedelta, name: str, *, own_login: bool = False) -> LeaseToken:
        return await self._leases.token(ttl, name, own_login=own_login)

    async def issue(self, path: str, method: str, parameters: Mapping[str, str], token: LeaseToken) -> Leased:
        return await self._leases.issue(path, method, parameters, token)

    async def renew(self, lease_id: str, increment: timedelta, token: LeaseToken) -> Grant:
        return await self._leases.renew(lease_id, increment, token)

    async def lookup(self, lease_id: str, token: LeaseToken) -> Grant:
        return await self._leases.lookup(lease_id, token)

    async def renew_token(self, token: LeaseToken, increment: timedelta) -> Grant:
        return await self._leases.renew_token(token, increment)

    async def revoke(self, token: LeaseToken, lease_id: str) -> None:
        await self._leases.revoke(token, lease_id)

    async def sign(self, mount: str, role: str, request: LeafRequest) -> Signed:
        found = await sign(self._session, quoted(f"{mount}/sign/{role}"), request, {})
        own, issuing, above = found.get("certificate"), found.get("issuing_ca"), found.get("ca_chain") or []
        above = [issuing, *(one for one in above if one != issuing)]  # an engine that knows none sends no chain
        if not isinstance(own, str) or not all(isinstance(one, str) and one for one in above):
            raise RetryableError(NO_ANSWER)
        return signed(own, [str(one) for one in above])

    async def data_key(self, mount: str, key: str, bits: int) -> DataKey:
        try:
            found = data_of(
                await self._session.request("post", quoted(f"{mount}/datakey/plaintext/{key}"), {"bits": bits})
            )
        except RejectedError as error:
            if "encryption key not found" in said(error):
                raise MissingError("there is no such key of the transit engine") from error
            raise
        wrapped = found.get("ciphertext")
        try:
            plaintext = base64.b64decode(found["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            plaintext = b""
        if len(plaintext) * _BITS != bits or not isinstance(wrapped, str) or not wrapped:
            raise RetryableError(NO_ANSWER)
        return DataKey(KeyMaterial(plaintext), wrapped)

    @property
    def _session(self) -> Session:
        return self._sessions.of(self._login)

    @property
    def _leases(self) -> VaultLeases:
        return VaultLeases(self._session, self._connection)


def signed(own: str, above: list[str]) -> Signed:
    """Put what came back in order. Raises RetryableError when it is no certificate."""
    try:
        leaf = certificates.load_chain(own.encode())[0]
        path = certificates.load_chain("\n".join(above).encode())
    except (PkiError, UnicodeEncodeError):
        raise RetryableError(NO_ANSWER) from None

    def pem(*chain: Any) -> str:
        return certificates.encode_chain(*chain).decode()

    return Signed(pem(leaf), tuple(pem(one) for one in certificates.without_root(path)), pem(path[-1]))
