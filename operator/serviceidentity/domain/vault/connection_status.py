"""The status of a VaultConnection, computed anew each time from what was found. At rest it stays the same text."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.model import Meta
from serviceidentity.domain.schedule import format_duration, parse_duration
from serviceidentity.domain.status import Json, as_conditions

READY: Final = "Ready"
UNREACHABLE: Final = "Unreachable"
UNTRUSTED: Final = "TLSUntrusted"
NOT_INITIALIZED: Final = "NotInitialized"
SEALED: Final = "Sealed"
LOGIN_FAILED: Final = "LoginFailed"
SETTINGS_UNUSABLE: Final = "SettingsUnusable"
NOT_CONFIGURED: Final = "VaultNotConfigured"
AWAY: Final = frozenset({UNREACHABLE, UNTRUSTED, NOT_INITIALIZED, SEALED})

_TOLERANCE: Final = timedelta(minutes=1)
_IN_MINUTES_FROM: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a connection is of no use now."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a connection.

    `version` is empty and `sealed` None while the server does not answer. `token_ttl` is what is left of the operator's
    own login; None when it never ends, and where identities log in as themselves, which `own_login` tells apart.
    """

    problem: Problem | None
    version: str = ""
    sealed: bool | None = None
    own_login: bool = False
    token_ttl: timedelta | None = None


def of_connection(meta: Meta, found: Found, previous: Mapping[str, Any], now: datetime) -> Json:
    """Return the whole status of a connection. The version that was last told stays while the server is away."""
    problem = found.problem
    message = "the server answers and is unsealed" + ("; the operator is logged in" if found.own_login else "")
    ready = (READY, False, problem.reason, problem.message) if problem else (READY, True, READY, message)
    status: Json = {
        "observedGeneration": meta.generation,
        "conditions": as_conditions([ready], previous, meta.generation, now),
    }
    if version := found.version or previous.get("version"):
        status["version"] = version
    if found.sealed is not None:
        status["sealed"] = found.sealed
    if problem is None and found.token_ttl is not None:
        status["tokenTTL"] = _granted(found.token_ttl, previous.get("tokenTTL"))
    return status


def _granted(left: timedelta, told: object) -> str:
    """Return for how long a login was granted, as far as what is left of it tells that.

    What was told before stays as long as it may be right, or each look would be a write: a login that is renewed in
    time has always more left than a quarter of what it was granted.
    """
    try:
        before = parse_duration(told if isinstance(told, str) else "")
    except ValueError:
        before = timedelta(0)
    if before / 4 <= left <= before + _TOLERANCE and before:
        return str(told)
    if left < _IN_MINUTES_FROM:
        return format_duration(left)
    return format_duration(timedelta(minutes=-(-left // timedelta(minutes=1))))
