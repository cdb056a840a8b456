"""Whether a token is accepted (RFC 7519 7.2, RFC 8725): who it is of, and every reason why it would be refused."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.jose import Algorithm, Jwk, SignatureError
from serviceidentity.domain.material import MalformedError
from serviceidentity.domain.schedule import format_duration, format_time
from serviceidentity.domain.verdict import Check, Problem, Refused, refusal

MOST_KEYS: Final = 256
QUOTED: Final = 80  # characters of what a token says, in a message
_LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
_TYPES: Final = frozenset({"jwt", "jose", "at+jwt"})  # RFC 7519 5.1, JWT-SVID 2.3, RFC 9068 2.1


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key of a JWK Set that may verify signatures; `key_id` None for one without a name."""

    key_id: str | None
    key: Jwk = field(repr=False)
    algorithm: Algorithm


@dataclass(frozen=True, slots=True)
class Jwks:
    """The keys of a JWK Set that can be used, and why the others can't."""

    keys: tuple[VerifyingKey, ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an accepted token says. Times are whole seconds; `claims` is everything, with the claims named here."""

    subject: str
    issuer: str | None
    audiences: tuple[str, ...]
    issued_at: datetime | None
    not_before: datetime | None
    expires: datetime
    key_id: str | None
    algorithm: Algorithm
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A token that could be read, what is expected of it, and the key that it names, if that is known."""

    token: str = field(repr=False)
    header: dict[str, Any]
    claims: dict[str, Any]
    keys: Jwks
    issuer: str | None
    audience: str | None
    now: datetime
    leeway: timedelta
    longest_lifetime: timedelta | None

    @property
    def algorithm(self) -> Algorithm | None:
        return jose.algorithm_named(self.header["alg"])

    @property
    def candidates(self) -> tuple[VerifyingKey, ...]:
        """The keys of the token's ID, or all of its algorithm when it names none."""
        key_id = self.header.get("kid")
        if key_id is None:
            return tuple(key for key in self.keys.keys if key.algorithm is self.algorithm)
        return tuple(key for key in self.keys.keys if key.key_id == key_id)

    @property
    def key(self) -> VerifyingKey | None:
        """The one key that the signature has to be by."""
        fitting = [key for key in self.candidates if key.algorithm is self.algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def time(self, claim: str) -> float | None:
        """A NumericDate; None when it is absent, or none (another check says so)."""
        value: Any = self.claims.get(claim)
        return float(value) if _is_time(value) else None


def read_jwks(text: bytes) -> Jwks:
    """Read a JWK Set, or the jwt-svid keys of a SPIFFE bundle. Raises MalformedError when it is none.

    Keys that are not understood, or not for signatures, are left out (RFC 7517 5), and so are private ones.
    """
    members = jose.read_set(text)
    if len(members) > MOST_KEYS:
        raise MalformedError(f"the JWK Set has more than {MOST_KEYS} keys")
    keys: list[VerifyingKey] = []
    ignored: list[str] = []
    for member in members:
        if isinstance(member, dict) and member.get("use") == "x509-svid":
            continue
        try:
            key, algorithm = jose.read_public(member)
        except MalformedError as error:
            ignored.append(str(error))
            continue
        key_id = member.get("kid")
        keys.append(VerifyingKey(key_id if isinstance(key_id, str) else None, key, algorithm))
    return Jwks(tuple(keys), tuple(ignored))


def verify_token(
    token: str,
    keys: Jwks,
    *,
    issuer: str | None,
    audience: str | None,
    now: datetime,
    leeway: timedelta = timedelta(0),
    longest_lifetime: timedelta | None = None,
) -> Accepted | Refused:
    """Verify a token with the keys of its issuer, which nobody but `issuer` may have signed with.

    `issuer` and `audience` None are not asked for; `leeway` is how far clocks may be apart. Never raises on a token.
    """
    if leeway < timedelta(0):
        raise ValueError("a leeway is not negative")
    try:
        header, claims = jose.unverified(token)
    except SignatureError as error:
        return Refused((Problem("Malformed", f"it can't be read: {error}"),))
    seen = _Seen(token, header, claims, keys, issuer, audience, now, leeway, longest_lifetime)
    refused = refusal(TOKEN_CHECKS, seen)
    return refused if refused is not None else _accepted(seen)


def algorithm_not_allowed(seen: _Seen) -> Problem | None:
    """Nothing symmetric and never "none" (RFC 8725 3.1)."""
    if seen.algorithm is not None:
        return None
    allowed = ", ".join(Algorithm)
    return Problem("AlgorithmNotAllowed", f"it is signed with {quoted(seen.header['alg'])}; accepted are {allowed}")


def wrong_type(seen: _Seen) -> Problem | None:
    """A JWT that was made for something else (RFC 8725 3.11)."""
    given = seen.header.get("typ", "JWT")
    if isinstance(given, str) and given.lower().removeprefix("application/") in _TYPES:
        return None
    return Problem("WrongType", f"its type is {quoted(given)}, which is no token that proves an identity")


def unknown_key(seen: _Seen) -> Problem | None:
    """One that is not in the set; a key from the token's own header (jwk, jku, x5c, x5u) is never used."""
    key_id = seen.header.get("kid")
    if key_id is None and len(seen.candidates) != 1:
        return Problem("UnknownKey", f"it names no key, and {len(seen.candidates)} of the issuer's keys fit")
    if not seen.candidates:
        return Problem("UnknownKey", f"its key {quoted(key_id)} is not, or not any more, one of the issuer's")
    return None


def key_of_another_algorithm(seen: _Seen) -> Problem | None:
    """A key is for one algorithm (RFC 8725 3.1), so that nobody takes it for one of another kind."""
    if seen.algorithm is None or "kid" not in seen.header or not seen.candidates or seen.key is not None:
        return None
    if len(seen.candidates) > 1:
        return Problem("UnknownKey", "the issuer has several keys of that ID")
    given, wanted = quoted(seen.header["alg"]), seen.candidates[0].algorithm.value
    return Problem("AlgorithmNotAllowed", f"it is signed with {given}, but its key is for {wanted}")


def bad_signature(seen: _Seen) -> Problem | None:
    """A signature that is not by the key."""
    if seen.key is None:
        return None
    try:
        jose.verify(seen.token, seen.key.key, seen.key.algorithm)
    except SignatureError:
        return Problem("BadSignature", "the signature is not by its key: the token was changed, or another key signed")
    return None


def invalid_claim(seen: _Seen) -> Problem | None:
    """A claim that is not of its type (RFC 7519 4.1), so nobody can say what it means."""
    claims = seen.claims
    for name in ("exp", "nbf", "iat"):
        if name in claims and not _is_time(claims[name]):
            return Problem("InvalidClaim", f"its claim {name} is no time: a number of seconds since 1970")
    for name in ("iss", "sub", "jti"):
        if name in claims and not isinstance(claims[name], str):
            return Problem("InvalidClaim", f"its claim {name} is no text")
    if "aud" in claims and _audiences(claims["aud"]) is None:
        return Problem("InvalidClaim", "its claim aud is neither a text nor a list of texts")
    return None


def no_subject(seen: _Seen) -> Problem | None:
    """One that does not say who it is."""
    if "sub" in seen.claims and seen.claims["sub"] != "":
        return None
    return Problem("NoSubject", "it does not say who it is of: the claim sub is missing")


def wrong_issuer(seen: _Seen) -> Problem | None:
    """One of another issuer."""
    given = seen.claims.get("iss")
    if seen.issuer is None or given == seen.issuer:
        return None
    who = "nobody" if given is None else quoted(given)
    return Problem("WrongIssuer", f"it says that {who} issued it, not {quoted(seen.issuer)}")


def wrong_audience(seen: _Seen) -> Problem | None:
    """One that is for somebody else."""
    if seen.audience is None:
        return None
    audiences = _audiences(seen.claims.get("aud", [])) or ()
    if seen.audience in audiences:
        return None
    who = ", ".join(quoted(one) for one in audiences[:5]) or "nobody"
    return Problem("WrongAudience", f"it is for {who}, not for {quoted(seen.audience)}")


def no_expiry(seen: _Seen) -> Problem | None:
    """One that would be valid for ever."""
    return None if "exp" in seen.claims else Problem("NoExpiry", "it has no end: the claim exp is missing")


def expired(seen: _Seen) -> Problem | None:
    """One whose time is over: not accepted on or after `exp` (RFC 7519 4.1.4)."""
    end = seen.time("exp")
    if end is None or seen.now.timestamp() < end + seen.leeway.total_seconds():
        return None
    return Problem("Expired", f"it expired at {format_time(_instant(end))}")


def not_yet_valid(seen: _Seen) -> Problem | None:
    """One whose time has not come."""
    begin = seen.time("nbf")
    if begin is None or seen.now.timestamp() + seen.leeway.total_seconds() >= begin:
        return None
    return Problem("NotYetValid", f"it is not valid before {format_time(_instant(math.ceil(begin)))}")


def issued_in_the_future(seen: _Seen) -> Problem | None:
    """One by an issuer whose clock is not ours."""
    issued = seen.time("iat")
    if issued is None or seen.now.timestamp() + seen.leeway.total_seconds() >= issued:
        return None
    return Problem("IssuedInTheFuture", f"it says that it was issued at {format_time(_instant(math.ceil(issued)))}")


def lives_too_long(seen: _Seen) -> Problem | None:
    """One that is valid for longer than its issuer gives; without `iat` it counts from now."""
    end, longest = seen.time("exp"), seen.longest_lifetime
    if end is None or longest is None:
        return None
    lifetime = end - (seen.time("iat") or seen.now.timestamp())
    if lifetime <= longest.total_seconds():
        return None
    return Problem(
        "LivesTooLong", f"it is valid for longer than {format_duration(longest)}, the longest that is allowed"
    )


TOKEN_CHECKS: Final[tuple[Check[_Seen], ...]] = (
    algorithm_not_allowed,
    wrong_type,
    unknown_key,
    key_of_another_algorithm,
    bad_signature,
    invalid_claim,
    no_subject,
    wrong_issuer,
    wrong_audience,
    no_expiry,
    expired,
    not_yet_valid,
    issued_in_the_future,
    lives_too_long,
)


def quoted(value: object) -> str:
    """Return what a token says for a message: in ASCII, so that it can't drive a terminal, and not too long."""
    text = value if isinstance(value, str) else type(value).__name__
    return ascii(text if len(text) <= QUOTED else text[:QUOTED] + "...")


def _accepted(seen: _Seen) -> Accepted:
    key, claims = seen.key, seen.claims
    assert key is not None  # noqa: S101  # the checks said so
    return Accepted(
        subject=claims["sub"],
        issuer=claims.get("iss"),
        audiences=_audiences(claims.get("aud", [])) or (),
        issued_at=_instant(claims["iat"]) if "iat" in claims else None,
        not_before=_instant(claims["nbf"]) if "nbf" in claims else None,
        expires=_instant(claims["exp"]),
        key_id=key.key_id,
        algorithm=key.algorithm,
        claims=claims,
    )


def _is_time(value: object) -> bool:
    """Say whether it is a NumericDate (RFC 7519 2) that a calendar has: no boolean, no NaN, no negative number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _audiences(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    return None
