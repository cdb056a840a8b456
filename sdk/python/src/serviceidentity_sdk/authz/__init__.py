"""Authorisation: what a caller may do, by its roles and permissions. Whatever no rule allows is denied."""

from serviceidentity_sdk.authz.coverage import (
    DenyByDefault,
    UnprotectedRoutesError,
    protect,
    require_rules,
    unprotected,
)
from serviceidentity_sdk.authz.guards import (
    Guard,
    RefusedError,
    Rule,
    authenticated,
    authorize,
    check_permission,
    public,
)
from serviceidentity_sdk.authz.rules import Refusal
from serviceidentity_sdk.permissions import granted_by, grants, is_permission

__all__ = [
    "DenyByDefault",
    "Guard",
    "Refusal",
    "RefusedError",
    "Rule",
    "UnprotectedRoutesError",
    "authenticated",
    "authorize",
    "check_permission",
    "granted_by",
    "grants",
    "is_permission",
    "protect",
    "public",
    "require_rules",
    "unprotected",
]
