"""Tokens that a trust domain signs for services that don't sign themselves (RFC 7519): minted, and read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from serviceidentity.domain.jwt import jose
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.jwt.jose import Algorithm, Jwk
from serviceidentity.domain.jwt.spec import Subject, TokenSpec
from serviceidentity.domain.key_ring import LAST_YEAR, Ring
from serviceidentity.domain.material import KeyMaterial, MalformedError
from serviceidentity.domain.model import Identity, spiffe_id
from serviceidentity.domain.schedule import renewal_time

SKEW: Final = timedelta(seconds=30)  # a verifier's clock may be behind by that much: nbf is so much before iat
LONGEST_AHEAD: Final = timedelta(minutes=5)  # a token from further in the future was signed by a clock that was wrong
_LATEST: Final = datetime(LAST_YEAR, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored. Nothing of it is verified but its form; its times are whole seconds."""

    text: KeyMaterial
    key_id: str
    issuer: str
    subject: str
    issued: datetime
    expires: datetime
    others: Mapping[str, Any] = field(repr=False)  # every claim but these

    @property
    def lifetime(self) -> timedelta:
        """From iat to exp."""
        return self.expires - self.issued

    def refresh_time(self, seed: str) -> datetime:
        """When the next token takes its place: at two thirds of its life, up to 5 % of that earlier by `seed`."""
        return renewal_time(self.issued, self.expires, None, seed)


def subject_of(spec: TokenSpec, identity: Identity, spiffe_domain: str) -> str:
    """Return whom the token is about, its `sub`."""
    namespace, account = identity.meta.namespace, identity.service_account
    if spec.subject is Subject.SPIFFE_ID:
        return spiffe_id(spiffe_domain, namespace, account)
    return service_subject(namespace, account)


def service_subject(namespace: str, account: str) -> str:
    """Return the `sub` of Subject.SERVICE. Neither part can have a slash."""
    return f"{namespace}/{account}"


def asked_for(spec: TokenSpec) -> dict[str, Any]:
    """Return the claims that the spec itself names. An audience alone is text (RFC 7519 4.1.3), no list."""
    audiences = list(spec.audiences)
    claims: dict[str, Any] = {"aud": audiences if len(audiences) > 1 else audiences[0]}
    claims |= {"permissions": list(spec.permissions)} if spec.permissions else {}
    return claims | ({"roles": list(spec.roles)} if spec.roles else {})


def mint(spec: TokenSpec, identity: Identity, issuer: TokenIssuer, token_id: str, now: datetime) -> KeyMaterial:
    """Sign a token with the issuer's active key. `token_id` is its `jti`, a random text."""
    claims = {
        "iss": issuer.issuer,
        "sub": subject_of(spec, identity, issuer.spiffe_domain),
        **asked_for(spec),
        "exp": _numeric(now + spec.lifetime),
        "nbf": _numeric(now - SKEW),
        "iat": _numeric(now),
        "jti": token_id,
    }
    active = issuer.ring.active
    key, algorithm = _loaded(active.material)
    return KeyMaterial(jose.sign(claims, key, algorithm, active.key_id).encode())


@lru_cache(maxsize=1024)  # each look at an identity reads its tokens several times
def read(text: KeyMaterial) -> Token:
    """Read a token of ours. Raises MalformedError on anything else."""
    try:
        written = text.reveal().decode("ascii")
    except UnicodeDecodeError:
        raise MalformedError("the token is not in compact form") from None
    key_id, claims = jose.header_of(written).get("kid"), jose.unverified_claims(written)
    issued, expires = _time(claims.pop("iat", None)), _time(claims.pop("exp", None))
    if _time(claims.pop("nbf", None)) != issued - SKEW or expires <= issued:
        raise MalformedError("the token's times are not those of a token of this operator")
    issuer, subject, token_id = claims.pop("iss", None), claims.pop("sub", None), claims.pop("jti", None)
    if not all(isinstance(value, str) and value for value in (key_id, issuer, subject, token_id)):
        raise MalformedError("the token lacks kid, iss, sub or jti")
    return Token(text, str(key_id), str(issuer), str(subject), issued, expires, claims)


def is_signed_by(ring: Ring, token: Token) -> bool:
    """Say whether the key of the ring that the token names did sign it."""
    key = next((key for key in ring.keys if key.key_id == token.key_id), None)
    return key is not None and _is_signed(token.text, key.material)


@lru_cache(maxsize=1024)
def _is_signed(text: KeyMaterial, material: KeyMaterial) -> bool:
    key, algorithm = _loaded(material)
    try:
        jose.verify(text.reveal().decode("ascii"), key, algorithm)
    except MalformedError:
        return False
    return True


@lru_cache(maxsize=64)  # loading an RSA key takes 30 ms, and thousands of tokens are signed with the same one
def _loaded(material: KeyMaterial) -> tuple[Jwk, Algorithm]:
    return jose.load_private(material)


def _numeric(time: datetime) -> int:
    return int(time.timestamp())


def _time(value: object) -> datetime:
    """Read a NumericDate (RFC 7519 2) in whole seconds. Raises MalformedError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LATEST.timestamp():
        raise MalformedError("a time of the token is not a number of seconds")
    return datetime.fromtimestamp(value, UTC)


def same_claims(token: Token, spec: TokenSpec) -> bool:
    """Say whether the token has the claims that the spec names, and no others; the order of a list means nothing."""
    return _normal(token.others) == _normal(asked_for(spec))


def _normal(claims: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(sorted(map(str, v)) if isinstance(v, list) else v) for name, v in claims.items()}
