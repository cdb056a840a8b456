"""What the claims of a token have to be (RFC 7519 4.1), after its signature was verified."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from serviceidentity_sdk.jwt.errors import Refusal, TokenError
from serviceidentity_sdk.principal import Kind, Principal

DEFAULT_ISSUER: Final = "auth-service"
DEFAULT_AUDIENCE: Final = "microservices"
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
_TYPES: Final = frozenset({"jwt", "at+jwt"})  # RFC 9068 2.1; RFC 8725 3.11: a token for another purpose is none
_SPIFFE: Final = "spiffe://"


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose tokens are accepted, made for whom. `leeway` is for clocks that are behind; it never extends `exp`."""

    issuer: str = DEFAULT_ISSUER
    audiences: frozenset[str] = frozenset({DEFAULT_AUDIENCE})
    leeway: timedelta = timedelta(seconds=5)


def check_type(type_: str | None) -> None:
    """Raise TokenError for a token that says it is for something else, a logout or a security event."""
    if type_ is not None and type_.lower().removeprefix("application/") not in _TYPES:
        raise TokenError(Refusal.INVALID, "the token is of another type")


def read(payload: bytes) -> dict[str, Any]:
    """Read the claims. Raises TokenError when they are no JSON object; NaN and doubled names are none."""
    try:
        claims = json.loads(payload.decode(), parse_constant=_no_number, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise TokenError(Refusal.INVALID, "the claims are no JSON") from None
    if not isinstance(claims, dict):
        raise TokenError(Refusal.INVALID, "the claims are no JSON object")
    return claims


def check(claims: Mapping[str, Any], expected: Expected, now: datetime) -> None:
    """Raise TokenError unless issuer, audience, subject and times are right at `now`."""
    if claims.get("iss") != expected.issuer:
        raise TokenError(Refusal.INVALID, "the issuer is another one")
    if not expected.audiences & _audiences(claims.get("aud")):
        raise TokenError(Refusal.INVALID, "the audience is another one")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise TokenError(Refusal.INVALID, "there is no subject")
    jti = claims.get("jti")
    if jti is not None and not isinstance(jti, str):
        raise TokenError(Refusal.INVALID, "the token's ID is no text")
    moment, latest = now.timestamp(), (now + expected.leeway).timestamp()
    for name in ("nbf", "iat"):
        if name in claims and _time(claims[name]) > latest:
            raise TokenError(Refusal.INVALID, "the token is not valid yet")
    if moment >= _time(claims.get("exp")):
        raise TokenError(Refusal.EXPIRED)


def principal(claims: Mapping[str, Any]) -> Principal:
    """Return whom checked claims stand for.

    `permissions` is a list of texts; without it, the words of `scope` (RFC 8693 4.2) are. Raises TokenError for other
    forms.
    """
    subject = claims["sub"]
    permissions = claims["permissions"] if "permissions" in claims else _words(claims.get("scope", ""))
    return Principal(
        Kind.TOKEN,
        subject,
        subject if subject.startswith(_SPIFFE) else None,
        _texts(claims.get("roles", [])),
        _texts(permissions),
        claims,
    )


def token_ids(claims: Mapping[str, Any]) -> list[str]:
    """Return the `jti` of the tokens this one was narrowed from, oldest first, then its own: each can be revoked."""
    before = claims.get("parents")
    found = [*before, claims.get("jti")] if isinstance(before, list) else [claims.get("jti")]
    return [one for one in found if isinstance(one, str)]


def _audiences(value: object) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    return frozenset()


def _time(value: object) -> float:
    """Return a NumericDate (RFC 7519 2), which is a number, not text, true or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_bounded(value)):
        raise TokenError(Refusal.INVALID, "a time is no number of seconds")
    return float(value)


def _bounded(value: float) -> float:
    return value if -_LAST_SECOND <= value <= _LAST_SECOND else math.inf


def _words(value: object) -> list[str]:
    if not isinstance(value, str):
        raise TokenError(Refusal.INVALID, "the scope is no text")
    return value.split()


def _texts(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TokenError(Refusal.INVALID, "roles or permissions are no list of texts")
    return frozenset(value)


def _no_number(_name: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found
