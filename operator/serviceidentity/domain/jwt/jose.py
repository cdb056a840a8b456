"""JOSE: keys as JWKs (RFC 7517), their thumbprints (RFC 7638), and compact JWS (RFC 7515). The one user of joserfc."""

import json
import warnings
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from serviceidentity.domain.material import KeyMaterial, MalformedError

Json = Mapping[str, Any]
Jwk = ECKey | OKPKey | RSAKey

# RFC 9864 gives EdDSA a new name; the old one is the one that libraries know.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)

LEAST_RSA_BITS: Final = 2048  # RFC 7518 3.3 and 3.5
LONGEST_TOKEN: Final = 64 * 1024  # in characters: more is not even looked at


class Algorithm(StrEnum):
    """Signature algorithms, by their names in RFC 7518 and RFC 8037. Nothing symmetric, and never "none"."""

    ES256 = "ES256"
    RS256 = "RS256"
    PS256 = "PS256"
    EDDSA = "EdDSA"  # with Ed25519 only; RFC 9864 calls that Ed25519, which few libraries know yet


_GENERATE: Final[Mapping[Algorithm, Callable[[], Jwk]]] = {
    Algorithm.ES256: lambda: ECKey.generate_key("P-256", auto_kid=False),
    Algorithm.RS256: lambda: RSAKey.generate_key(LEAST_RSA_BITS, auto_kid=False),
    Algorithm.PS256: lambda: RSAKey.generate_key(LEAST_RSA_BITS, auto_kid=False),
    Algorithm.EDDSA: lambda: OKPKey.generate_key("Ed25519", auto_kid=False),
}
_KINDS: Final[Mapping[Algorithm, tuple[str, str | None]]] = {
    Algorithm.ES256: ("EC", "P-256"),
    Algorithm.RS256: ("RSA", None),
    Algorithm.PS256: ("RSA", None),
    Algorithm.EDDSA: ("OKP", "Ed25519"),
}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class SignatureError(MalformedError):
    """A token that is not signed by the key, or no token at all."""


def make_key(algorithm: Algorithm) -> tuple[str, KeyMaterial]:
    """Make a key pair; return its ID, which is its RFC 7638 thumbprint (SHA-256), and its private JWK as JSON."""
    key = _GENERATE[algorithm]()
    key_id = key.thumbprint()
    jwk = {**key.as_dict(private=True), "kid": key_id, "alg": algorithm.value, "use": "sig"}
    return key_id, KeyMaterial(json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode())


def load_private(material: KeyMaterial) -> tuple[Jwk, Algorithm]:
    """Return the private key in a JWK. Raises MalformedError when it is none, or its ID is not its thumbprint."""
    jwk = _object(material.reveal())
    key, algorithm = _import(jwk)
    if not key.is_private or jwk.get("kid") != key.thumbprint():
        raise MalformedError("a key is not a private key with its thumbprint as its ID")
    return key, algorithm


def public_jwk(material: KeyMaterial) -> dict[str, str]:
    """Return the public half of a private JWK, with kid, alg and use: no private member. Raises MalformedError."""
    jwk = _object(material.reveal())
    if not isinstance(jwk.get("kty"), str):
        raise MalformedError("a key is no JWK")
    return {name: value for name, value in sorted(jwk.items()) if name not in _PRIVATE and isinstance(value, str)}


def private_pem(material: KeyMaterial) -> bytes:
    """Return the private key as PKCS#8 PEM (RFC 5958). Raises MalformedError."""
    key, _ = load_private(material)
    return bytes(key.as_pem(private=True))


def read_public(jwk: Json) -> tuple[Jwk, Algorithm]:
    """Return the key of a public JWK that may verify signatures. Raises MalformedError.

    A JWK without `alg` is taken for the algorithm that fits its kind, for RSA that is RS256.
    """
    if _PRIVATE & jwk.keys():
        raise MalformedError("a published key has private members")
    if jwk.get("use", "sig") not in ("sig", "jwt-svid") or "verify" not in (jwk.get("key_ops") or ["verify"]):
        raise MalformedError("a published key is not for signatures")
    return _import(jwk)


def sign(payload: Json, key: Jwk, algorithm: Algorithm, key_id: str) -> str:
    """Sign claims; return the compact token (RFC 7519) with typ, alg and kid in its header."""
    header = {"alg": algorithm.value, "kid": key_id, "typ": "JWT"}
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    return jws.serialize_compact(header, text, key, algorithms=[algorithm.value])


def header_of(token: str) -> dict[str, Any]:
    """Return a token's header, of which nothing is verified. Raises SignatureError when it is no compact JWS."""
    if len(token) > LONGEST_TOKEN:
        raise SignatureError("the token is too long")
    try:
        found = jws.extract_compact(token.encode()).protected
    except (JoseError, ValueError, TypeError, RecursionError):
        raise SignatureError("it is no signed token in compact form") from None
    return dict(found)


def unverified_claims(token: str) -> dict[str, Any]:
    """Return a token's claims, of which nothing is verified. Raises MalformedError when there are none."""
    header_of(token)
    return _object(jws.extract_compact(token.encode()).payload)


def verify(token: str, key: Jwk, algorithm: Algorithm) -> dict[str, Any]:
    """Verify a token's signature with this key and this algorithm, whatever its header says; return its claims.

    Raises SignatureError. Nothing of the claims is checked but that they are a JSON object.
    """
    if header_of(token).get("alg") != algorithm.value:
        raise SignatureError("the token's algorithm is not the key's")
    try:
        payload = jws.deserialize_compact(token.encode(), key, algorithms=[algorithm.value]).payload
    except (JoseError, ValueError, TypeError):
        raise SignatureError("the signature does not verify") from None
    return _object(payload)


def _import(jwk: Json) -> tuple[Jwk, Algorithm]:
    kind = jwk.get("kty")
    named = jwk.get("alg") or {"EC": "ES256", "RSA": "RS256", "OKP": "EdDSA"}.get(str(kind))
    try:
        algorithm = Algorithm("EdDSA" if named == "Ed25519" else str(named))
    except ValueError:
        raise MalformedError("a key is for an algorithm that is not accepted") from None
    if (kind, jwk.get("crv")) != _KINDS[algorithm]:
        raise MalformedError("a key is not of its algorithm's kind")
    members = {name: value for name, value in jwk.items() if name not in ("alg", "use", "key_ops", "x5c")}
    try:
        key = JWKRegistry.import_key(members)
        if isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS:
            raise MalformedError("an RSA key has fewer than 2048 bits")
        if not isinstance(key, ECKey | OKPKey | RSAKey):
            raise MalformedError("a key is of an unsupported kind")
        key.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError):
        raise MalformedError("a key can't be read") from None
    return key, algorithm


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("it is not JSON") from None
    if not isinstance(found, dict):
        raise MalformedError("it is no JSON object")
    return found
