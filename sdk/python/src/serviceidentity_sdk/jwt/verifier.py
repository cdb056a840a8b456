"""Verifying tokens with a source of keys."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from serviceidentity_sdk.jwt import claims as claim_rules
from serviceidentity_sdk.jwt import jose
from serviceidentity_sdk.jwt.claims import DEFAULT_AUDIENCE, DEFAULT_ISSUER, Expected
from serviceidentity_sdk.jwt.errors import Refusal, TokenError
from serviceidentity_sdk.jwt.jose import DEFAULT_ALGORITHMS, Algorithm, KeySet, Unverified
from serviceidentity_sdk.principal import Principal

_DEFAULT_LEEWAY: Final = timedelta(seconds=5)


def wall_clock() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class KeySource(Protocol):
    """Where the keys that verify come from: `MountedKeys`, `RemoteKeys`."""

    async def keys(self, key_id: str | None) -> KeySet:
        """Return the set to use for a token with this kid. Raises UnavailableError when there is none."""
        ...


class Revocations(Protocol):
    """Says whether a token was revoked before its end."""

    async def is_revoked(self, claims: Mapping[str, Any]) -> bool:
        """Look at the verified claims: jti, parents, sid, sub, iat. Raises UnavailableError when that can't be said."""
        ...


@dataclass(frozen=True, slots=True)
class Verified:
    """A token's claims after every check."""

    claims: Mapping[str, Any]
    principal: Principal


class TokenVerifier:
    """Verifies tokens of one issuer. `audience`: a token for any one of them is accepted.

    exp is required and has no leeway; nbf and iat may be `leeway` ahead. PS256 has to be asked for with `algorithms`.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str = DEFAULT_ISSUER,
        audience: str | Collection[str] = DEFAULT_AUDIENCE,
        algorithms: Collection[Algorithm | str] = DEFAULT_ALGORITHMS,
        leeway: timedelta = _DEFAULT_LEEWAY,
        revocations: Revocations | None = None,
        clock: Callable[[], datetime] = wall_clock,
    ) -> None:
        audiences = frozenset({audience} if isinstance(audience, str) else audience)
        if not issuer or not audiences or "" in audiences:
            raise ValueError("an issuer and an audience are needed")
        self._keys = keys
        self._expected = Expected(issuer, audiences, leeway)
        self._algorithms = frozenset(Algorithm(name) for name in algorithms)  # ValueError for none, HS256, ...
        self._revocations = revocations
        self._clock = clock

    @property
    def audiences(self) -> frozenset[str]:
        """For whom a token has to be made."""
        return self._expected.audiences

    async def verify(self, token: str) -> Verified:
        """Return the claims of a good token. Raises TokenError, UnavailableError."""
        read = jose.read(token)
        if read.header.algorithm not in self._algorithms:
            raise TokenError(Refusal.INVALID, "the algorithm is not accepted")
        claim_rules.check_type(read.header.type)
        keys = await self._keys.keys(read.header.key_id)
        verified = verify(read, keys, self._expected, self._clock())
        if self._revocations is not None and await self._revocations.is_revoked(verified.claims):
            raise TokenError(Refusal.REVOKED)
        return verified


def verify(token: Unverified, keys: KeySet, expected: Expected, now: datetime) -> Verified:
    """Check signature and claims; a pure function. Raises TokenError."""
    for key in keys.candidates(token.header):
        payload = jose.payload_of(token, key)
        if payload is not None:
            claims = claim_rules.read(payload)
            claim_rules.check(claims, expected, now)
            return Verified(claims, claim_rules.principal(claims))
    raise TokenError(Refusal.INVALID, "no key verifies the signature")
