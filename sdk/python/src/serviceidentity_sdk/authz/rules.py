"""Rules: who may call a route. A decision is a value, and depends on the principal alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from serviceidentity_sdk.permissions import granted_by, is_permission

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403


class Caller(Protocol):
    """What a rule reads of a principal."""

    @property
    def subject(self) -> str: ...
    @property
    def roles(self) -> Iterable[str]: ...
    @property
    def permissions(self) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a caller may not: the status of the answer, and its JSON body."""

    status: int
    body: Mapping[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer. RFC 9110 section 15.5.2: a 401 names a way to authenticate."""
        return {"www-authenticate": "Bearer"} if self.status == UNAUTHORIZED else {}


Check = Callable[[Caller | None], Refusal | None]

NOT_AUTHENTICATED: Final = Refusal(UNAUTHORIZED, {"error": "Not authenticated"})
NO_RULE: Final = Refusal(FORBIDDEN, {"error": "No rule allows this"})


def anyone(_caller: Caller | None) -> Refusal | None:
    """Everyone may, also without a credential."""
    return None


def known(caller: Caller | None) -> Refusal | None:
    """Every caller with a verified credential may."""
    return NOT_AUTHENTICATED if caller is None else None


def any_role(*roles: str) -> Check:
    """Callers with one of these roles may. Raises ValueError when none is named."""
    if not roles or not all(isinstance(role, str) and role for role in roles):
        raise ValueError("name the roles that may, each as a text")

    def check(caller: Caller | None) -> Refusal | None:
        if caller is None:
            return NOT_AUTHENTICATED
        have = _names(caller.roles)
        return None if not have.isdisjoint(roles) else _insufficient(roles, have)

    return check


def all_permissions(*permissions: str) -> Check:
    """Callers whose permissions grant each of these may. Raises ValueError when none is named, or one is not one."""
    if not permissions or not all(is_permission(one) for one in permissions):
        raise ValueError(
            "name the permissions that are needed, such as orders:read; * stands alone or after a last colon"
        )

    def check(caller: Caller | None) -> Refusal | None:
        if caller is None:
            return NOT_AUTHENTICATED
        have = _names(caller.permissions)
        return None if all(granted_by(have, one) for one in permissions) else _insufficient(permissions, have)

    return check


def _names(found: Iterable[str]) -> frozenset[str]:
    """Return roles or permissions; a bare text is not a list of its letters, but a mistake that grants nothing."""
    return frozenset() if isinstance(found, str) else frozenset(one for one in found if isinstance(one, str))


def _insufficient(required: tuple[str, ...], have: frozenset[str]) -> Refusal:
    body = {"error": "Insufficient permissions", "required": list(required), "have": sorted(have)}
    return Refusal(FORBIDDEN, body)
