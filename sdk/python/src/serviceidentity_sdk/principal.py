"""Who a request comes from: what a middleware that checked a credential puts on the request, and authorisation reads.

A request can carry several credentials at once: the calling service's certificate, its signature, and the token of the
user on whose behalf it calls. Each is kept under its kind; `request.state.principal` is the one that says most about
who wants this: token before signature before certificate, in whichever order the middlewares run.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Kind(StrEnum):
    """The kind of credential that a principal was known by."""

    CERTIFICATE = "certificate"
    SIGNATURE = "signature"
    TOKEN = "token"  # noqa: S105  # a kind of credential, not one


_BY_WEIGHT: Final = (Kind.TOKEN, Kind.SIGNATURE, Kind.CERTIFICATE)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a verified credential stands for.

    `subject` is never empty: the common name of a certificate, the service ID of a signature, the `sub` of a token.
    `claims` is what else the credential says: the claims of a token, the fields of a certificate; nothing secret.
    """

    kind: Kind
    subject: str
    spiffe_id: str | None = None
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)

    def __post_init__(self) -> None:
        if not self.subject:
            raise ValueError("a principal has a subject")


def attach(scope: MutableMapping[str, Any], principal: Principal) -> None:
    """Put a principal on an ASGI request: `request.state.principals[kind]`, and `request.state.principal`."""
    state = scope.setdefault("state", {})
    found = {**state.get("principals", {}), principal.kind: principal}
    state["principals"] = found
    state["principal"] = next(found[kind] for kind in _BY_WEIGHT if kind in found)


def principal_of(scope: Mapping[str, Any], kind: Kind | None = None) -> Principal | None:
    """Return the principal of an ASGI request, or the one known by this kind of credential; None without one."""
    state: Mapping[str, Any] = scope.get("state") or {}
    found = state.get("principal") if kind is None else state.get("principals", {}).get(kind)
    return found if isinstance(found, Principal) else None
