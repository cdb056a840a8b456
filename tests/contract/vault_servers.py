"""Words for the contract tests of connections to Vault: Secrets that a test holds, and work with a server."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from serviceidentity.adapters.vault.servers import HvacServer, HvacServers
from serviceidentity.app.vault.ports import Login
from serviceidentity.domain.material import KeyMaterial, SecretContent, SecretView
from serviceidentity.domain.vault.spec import AllowedNamespaces, Auth, ConnectionSpec, SecretKey, TokenAuth
from serviceidentity.errors import RejectedError
from tests.controlplane import OpenBao

T = TypeVar("T")
NAMESPACE = "operator"
OPERATOR = Login("test")


class HeldSecrets:
    """Secrets of the operator's namespace; only `read` is needed."""

    def __init__(self) -> None:
        self.held: dict[str, SecretView] = {}

    def put(self, name: str, data: Mapping[str, bytes], type_: str = "Opaque") -> None:
        content = SecretContent.of(type_, data, {})
        self.held[name] = SecretView(NAMESPACE, name, "", 1, type_, {}, {}, (), content.data)

    async def read(self, namespace: str, name: str) -> SecretView | None:
        return self.held.get(name) if namespace == NAMESPACE else None


class NoTokens:
    """There is no API server to ask."""

    async def of(self, namespace: str, name: str, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        raise RejectedError("no service accounts here")

    async def own(self, audiences: tuple[str, ...], lifetime: timedelta) -> KeyMaterial:
        raise RejectedError("no service accounts here")


def spec(bao: OpenBao, auth: Auth, **changes: Any) -> ConnectionSpec:
    """Return a connection to a server, whose authority is named if it has one."""
    ca = bao.ca_file.read_text() if bao.ca_file else None
    return ConnectionSpec(**{"address": bao.address, "auth": auth, "allowed": AllowedNamespaces(), "ca": ca} | changes)


def during(
    found: ConnectionSpec,
    work: Callable[[HvacServer], Awaitable[T]],
    secrets: Any = None,
    tokens: Any = None,
    *,
    revoke: bool = True,
) -> T:
    """Run some work with the server of a connection."""

    async def run() -> T:
        server = await HvacServers(secrets or HeldSecrets(), NAMESPACE, tokens or NoTokens()).open("test", found)
        try:
            return await work(server)
        finally:
            await server.close(revoke=revoke)

    return asyncio.run(run())


def with_policy(bao: OpenBao, rules: str, **options: Any) -> tuple[ConnectionSpec, HeldSecrets]:
    """Return a connection with a token that may do what `rules` allow, and the Secret that the token is in."""
    name = f"p{abs(hash(rules))}"
    bao.request("PUT", f"sys/policies/acl/{name}", {"policy": rules})
    secrets = HeldSecrets()
    secrets.put("token", {"token": new_token(bao, name, **options).encode()})
    return spec(bao, TokenAuth(secret=SecretKey("token", "token"))), secrets


def new_token(bao: OpenBao, *policies: str, **options: Any) -> str:
    """Make a token, not to be revoked with root's."""
    made = bao.request("POST", "auth/token/create", {"policies": list(policies), "no_parent": True, **options})
    return str(made["auth"]["client_token"])


def accessors(bao: OpenBao) -> set[str]:
    """Return the accessors of all tokens that there are."""
    return set(bao.request("LIST", "auth/token/accessors")["data"]["keys"])
