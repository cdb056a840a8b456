"""Signing tokens with the mounted key, and narrowing a caller's token for the next service."""

import json
import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from serviceidentity_sdk.credentials import CredentialError, Snapshot
from serviceidentity_sdk.jwt import jose
from serviceidentity_sdk.jwt.claims import DEFAULT_AUDIENCE, DEFAULT_ISSUER, token_ids
from serviceidentity_sdk.jwt.jose import Key
from serviceidentity_sdk.jwt.verifier import Verified, wall_clock
from serviceidentity_sdk.permissions import granted_by
from serviceidentity_sdk.source import Source

DEFAULT_LIFETIME: Final = timedelta(minutes=15)
LONGEST_LIFETIME: Final = timedelta(hours=1)  # the default of spec.jwt.maxTokenTTL
_SET_HERE: Final = frozenset(
    {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "roles", "permissions", "act", "parents"}
)


def read_token_key(snapshot: Snapshot) -> Key:
    """Read the key that signs from a mounted `<name>-jwt` Secret: the Active one. Raises CredentialError.

    A Prepared key is there for verifiers to learn of it first; what it signs now would be refused by some.
    """
    try:
        if "keys.json" in snapshot:
            keys = json.loads(snapshot.read("keys.json"))["keys"]
            (jwk,) = (found for found in keys if found["state"] == "Active")
        else:
            jwk = json.loads(snapshot.read("key.jwk"))
        return jose.read_private(jwk)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CredentialError(f"{snapshot.path} has no active signing key of the operator") from None


class TokenSigner:
    """Signs tokens of this service. `key` is a `Watch` of the `<name>-jwt` Secret, or `Fixed`.

    `longest` is the `spec.jwt.maxTokenTTL` of the identity's manifest: so long after a rotation the old key stays
    published, and a token that lived longer would be refused before its end.
    """

    def __init__(
        self,
        key: Source[Key],
        *,
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
        lifetime: timedelta = DEFAULT_LIFETIME,
        longest: timedelta = LONGEST_LIFETIME,
        clock: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime
        self._longest = longest
        self._clock = clock
        self._checked(lifetime)

    def sign(
        self,
        subject: str,
        *,
        roles: Collection[str] = (),
        permissions: Collection[str] = (),
        audience: str | None = None,
        lifetime: timedelta | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a token for a subject. `claims` are further ones. Raises ValueError for what can't be right."""
        now = int(self._clock().timestamp())
        end = now + int(self._checked(self._lifetime if lifetime is None else lifetime).total_seconds())
        return self._signed(subject, audience or self._audience, now, end, roles, permissions, claims or {})

    def narrow(
        self,
        caller: Verified,
        *,
        service: str,
        audience: str,
        permissions: Collection[str],
        lifetime: timedelta = timedelta(minutes=1),
    ) -> str:
        """Return a token with which `service`, this one, acts for a caller at one other service (RFC 8693 4.1).

        It has these permissions and no roles, and never more, nor for longer, than the caller's own token: ValueError.
        The other service has to accept this signer's issuer. `sid` is that of the caller's token, and `parents` the
        `jti` of every token it was narrowed from: what revokes one of those revokes this one.
        """
        if not permissions or isinstance(permissions, str):
            raise ValueError("a narrower token is for certain permissions")
        if not all(granted_by(caller.principal.permissions, wanted) for wanted in permissions):
            raise ValueError("the caller's token does not have these permissions")
        now = int(self._clock().timestamp())
        end = min(now + int(self._checked(lifetime).total_seconds()), int(caller.claims["exp"]))
        if end <= now:
            raise ValueError("the caller's token has expired")
        derived = _derived(caller.claims, service)
        return self._signed(caller.principal.subject, audience, now, end, (), permissions, {}, derived)

    def _signed(  # the claims of RFC 7519 one by one
        self,
        subject: str,
        audience: str,
        now: int,
        end: int,
        roles: Collection[str],
        permissions: Collection[str],
        further: Mapping[str, Any],
        derived: Mapping[str, Any] | None = None,
    ) -> str:
        if not subject or isinstance(roles, str) or isinstance(permissions, str) or _SET_HERE & further.keys():
            raise ValueError("a subject is text, roles and permissions are lists, and other claims are not set twice")
        claims: dict[str, Any] = {**further, "iss": self._issuer, "sub": subject, "aud": audience}
        claims |= {"iat": now, "nbf": now, "exp": end, "jti": secrets.token_urlsafe(16)}
        claims |= {"roles": sorted(roles), "permissions": sorted(permissions)}
        return jose.sign(claims | dict(derived or {}), self._key.current)

    def _checked(self, lifetime: timedelta) -> timedelta:
        if not timedelta(seconds=1) <= lifetime <= self._longest:
            raise ValueError(f"a token lives between a second and {self._longest}")
        return lifetime


def _derived(caller: Mapping[str, Any], service: str) -> dict[str, Any]:
    """Return what a narrowed token says of its origin: who acts, and by what it can be revoked."""
    before = caller.get("act")
    found: dict[str, Any] = {"act": {"sub": service, "act": before} if isinstance(before, dict) else {"sub": service}}
    if isinstance(caller.get("sid"), str):
        found["sid"] = caller["sid"]
    if parents := token_ids(caller):
        found["parents"] = parents
    return found
