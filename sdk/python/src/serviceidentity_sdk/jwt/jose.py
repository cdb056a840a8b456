"""Keys as JWKs (RFC 7517) and compact JWS (RFC 7515). The one user of joserfc.

A key belongs to one algorithm, and the pinned algorithms are asymmetric: `none`, or HS256 with a public key for its
secret, have no key that they could verify with. Keys come from the configured set alone; jku, jwk, x5u and x5c in a
token's header are never looked at (RFC 8725 3.1, 3.10).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey
from joserfc.jws import CompactSignature, JWSRegistry

from serviceidentity_sdk.jwt.errors import Refusal, TokenError

Jwk = ECKey | OKPKey | RSAKey

LONGEST_TOKEN: Final = 16 * 1024  # characters: more than a server takes in one header is not even looked at
LONGEST_DOCUMENT: Final = 768 * 1024  # characters of what is signed and no token, such as rules
MOST_KEYS: Final = 100  # in one set
_LEAST_RSA_BITS: Final = 2048  # RFC 7518 3.3
_LEAST_RSA_DIGITS: Final = 342  # of base64url
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_OURS: Final = frozenset({"alg", "use", "key_ops", "x5c", "x5t", "x5t#S256", "x5u", "state", "changed", "until"})


class Algorithm(StrEnum):
    """Signature algorithms by their names in RFC 7518 and RFC 8037."""

    ES256 = "ES256"
    RS256 = "RS256"
    PS256 = "PS256"
    EDDSA = "EdDSA"  # with Ed25519


DEFAULT_ALGORITHMS: Final = frozenset({Algorithm.ES256, Algorithm.RS256, Algorithm.EDDSA})
_KINDS: Final = {
    Algorithm.ES256: ("EC", "P-256"),
    Algorithm.RS256: ("RSA", None),
    Algorithm.PS256: ("RSA", None),
    Algorithm.EDDSA: ("OKP", "Ed25519"),
}
_USUAL: Final = {"EC": "ES256", "RSA": "RS256", "OKP": "EdDSA"}


class KeyFormatError(ValueError):
    """A JWK or a set of them that can't be used. The message does not quote it."""


class _Pinned(JWSRegistry):
    """One algorithm; headers that we do not know are ignored, as RFC 7515 4 has it, unless `crit` lists them."""

    max_header_length = LONGEST_TOKEN
    max_payload_length = LONGEST_DOCUMENT

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__(algorithms=[algorithm.value], strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> Any:
        if name != self._algorithm.value:
            raise KeyFormatError("another algorithm than the key's")
        return self.algorithms[name]  # the library warns at EdDSA that RFC 9864 has a new name for it


class _Unverified(JWSRegistry):
    """For looking at a header only."""

    max_payload_length = LONGEST_DOCUMENT


_UNVERIFIED: Final = _Unverified(strict_check_header=False)
_REGISTRIES: Final = {algorithm: _Pinned(algorithm) for algorithm in Algorithm}


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its ID and its one algorithm. The key itself does not show."""

    key_id: str | None
    algorithm: Algorithm
    jwk: Jwk = field(repr=False, compare=False)
    thumbprint: str = ""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The public keys that verify tokens."""

    keys: tuple[Key, ...] = ()

    def candidates(self, header: "Header") -> tuple[Key, ...]:
        """Return the keys that may have signed a token: its kid names one; without a kid, all of its algorithm."""
        fitting = (key for key in self.keys if key.algorithm.value == header.algorithm)
        return tuple(key for key in fitting if header.key_id is None or key.key_id == header.key_id)

    def knows(self, key_id: str | None) -> bool:
        """Say whether there is a key of this ID; no ID is no reason to look for more keys."""
        return key_id is None or any(key.key_id == key_id for key in self.keys)


@dataclass(frozen=True, slots=True)
class Header:
    """What is used of a token's header."""

    algorithm: str
    key_id: str | None
    type: str | None


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token that was taken apart, once, and of which nothing is verified yet."""

    header: Header
    parts: CompactSignature = field(repr=False)


def read_key_set(text: bytes | str) -> KeySet:
    """Read a JWK Set. Keys that can't verify signatures here are left out (RFC 7517 5). Raises KeyFormatError."""
    try:
        keys = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeyFormatError("it is no JWK Set") from None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise KeyFormatError("it is no JWK Set")
    return KeySet(tuple(_usable(keys)))


def _usable(jwks: Iterable[object]) -> Iterable[Key]:
    for jwk in jwks:
        try:
            if isinstance(jwk, dict):
                yield read_public(jwk)
        except KeyFormatError:
            continue


def read_public(jwk: Mapping[str, Any]) -> Key:
    """Return a published key. Raises KeyFormatError, also for one with private members: who published it leaked it."""
    if _PRIVATE & jwk.keys():
        raise KeyFormatError("a published key has private members")
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("use", "sig") not in ("sig", "jwt-svid")
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        raise KeyFormatError("a published key is not for signatures")
    return _read(jwk)


def read_private(jwk: Mapping[str, Any]) -> Key:
    """Return a key that signs. Raises KeyFormatError when it is none, or its ID is not its RFC 7638 thumbprint."""
    key = _read(jwk)
    if not key.jwk.is_private or key.key_id != key.thumbprint:
        raise KeyFormatError("it is no private key with its thumbprint as its ID")
    return key


def _read(jwk: Mapping[str, Any]) -> Key:
    kind, key_id = jwk.get("kty"), jwk.get("kid")
    try:
        algorithm = Algorithm(str(jwk.get("alg") or _USUAL.get(str(kind))))
    except ValueError:
        raise KeyFormatError("a key is for an algorithm that is not accepted") from None
    if (kind, jwk.get("crv")) != _KINDS[algorithm] or not (key_id is None or isinstance(key_id, str)):
        raise KeyFormatError("a key is not of its algorithm's kind")
    if kind == "RSA" and len(str(jwk.get("n"))) < _LEAST_RSA_DIGITS:  # the library warns of it, and takes it
        raise KeyFormatError("an RSA key has fewer than 2048 bits")
    try:
        found = JWKRegistry.import_key({name: value for name, value in jwk.items() if name not in _OURS})
        thumbprint = found.thumbprint()
        weak = isinstance(found, RSAKey) and found.public_key.key_size < _LEAST_RSA_BITS
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise KeyFormatError("a key can't be read") from None
    if weak or not isinstance(found, ECKey | OKPKey | RSAKey):
        raise KeyFormatError("a key is too weak, or of another kind")
    return Key(key_id, algorithm, found, thumbprint)


def read(token: str, longest: int = LONGEST_TOKEN) -> Unverified:
    """Take a token apart. Raises TokenError when it is no compact JWS, or has a header that is not understood."""
    if len(token) > longest or not _COMPACT.fullmatch(token):
        raise TokenError(Refusal.INVALID, "no signed token in compact form")
    try:
        parts = jws.extract_compact(token.encode(), registry=_UNVERIFIED)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise TokenError(Refusal.INVALID, "no signed token in compact form") from None
    header = parts.protected
    algorithm, key_id, type_ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or not all(part is None or isinstance(part, str) for part in (key_id, type_)):
        raise TokenError(Refusal.INVALID, "a header parameter has the wrong type")
    if "crit" in header:
        raise TokenError(Refusal.INVALID, "it has a critical header parameter")  # RFC 7515 4.1.11: none is understood
    return Unverified(Header(algorithm, key_id, type_), parts)


def payload_of(token: Unverified, key: Key) -> bytes | None:
    """Return what a token says if this key, with its algorithm, signed it."""
    try:
        signed = jws.validate_compact(token.parts, key.jwk, registry=_REGISTRIES[key.algorithm])
    except (JoseError, ValueError, TypeError):
        return None
    return bytes(token.parts.payload) if signed is True else None


def document_of(text: str, keys: KeySet, type_: str) -> bytes | None:
    """Return what a signed document of this `typ`, which is no token, says; None if none of the keys signed it."""
    try:
        document = read(text, LONGEST_DOCUMENT)
    except TokenError:
        return None
    if document.header.type != type_:
        return None
    found = (payload_of(document, key) for key in keys.candidates(document.header))
    return next((payload for payload in found if payload is not None), None)


def sign(claims: Mapping[str, Any], key: Key, type_: str = "JWT") -> str:
    """Return a compact token (RFC 7519) with typ, alg and kid in its header. Raises TypeError or ValueError."""
    header = {"alg": key.algorithm.value, "kid": key.key_id, "typ": type_}
    text = json.dumps(claims, separators=(",", ":"), allow_nan=False).encode()
    return jws.serialize_compact(header, text, key.jwk, registry=_REGISTRIES[key.algorithm])
