"""JOSE: keys as JWKs (RFC 7517), their thumbprints (RFC 7638), and compact JWS (RFC 7515). The one user of joserfc.

What a token or a key says is read here, strictly, before joserfc sees it: every input is either good or an error of
this module's own.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, NoReturn

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from serviceidentity.domain.material import KeyMaterial, MalformedError

Json = Mapping[str, Any]
Jwk = ECKey | OKPKey | RSAKey

LEAST_RSA_BITS: Final = 2048  # RFC 7518 3.3 and 3.5
MOST_RSA_BITS: Final = 8192  # verifying with more takes so long that it is an attack
LONGEST_TOKEN: Final = 64 * 1024  # in characters: more is not even looked at
LONGEST_DOCUMENT: Final = 768 * 1024  # the same for what is signed and no token, such as rules
LONGEST_HEADER: Final = 8 * 1024


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
_VALUES: Final = frozenset({"kty", "crv", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi"})
_PUBLISHED: Final = frozenset({"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"})
MEMBERS: Final = _VALUES | _PUBLISHED  # of the keys of this operator
_OTHER_NAMES: Final = {"Ed25519": "EdDSA"}  # RFC 9864
_COORDINATE: Final = 43  # characters of 32 octets in base64url: all of them, RFC 7518 6.2.1.2 and RFC 8032 5.1.2
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
# Points of small order on Curve25519's Edwards form, and their other encodings, without the sign bit. With one of them
# as the key, there are signatures that verify for every message (RFC 8032 5.1.7 does not forbid it).
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


class SignatureError(MalformedError):
    """A token that is not signed by the key, or no token at all."""


class Token(NamedTuple):
    """A compact JWS, taken apart: its header and claims, of which nothing is verified."""

    header: dict[str, Any]
    claims: dict[str, Any]


class _Registry(jws.JWSRegistry):
    """Header members that are not registered are ignored (RFC 7515 4), and nobody is warned of EdDSA's new name.

    Sizes are checked before it comes to this.
    """

    max_header_length = LONGEST_TOKEN
    max_payload_length = LONGEST_DOCUMENT
    max_signature_length = LONGEST_TOKEN

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> Any:
        if name != self._algorithm:
            raise SignatureError("the token's algorithm is not the key's")
        return self.algorithms[name]


def make_key(algorithm: Algorithm) -> tuple[str, KeyMaterial]:
    """Make a key pair; return its ID, which is its RFC 7638 thumbprint (SHA-256), and its private JWK as JSON."""
    key = _GENERATE[algorithm]()
    key_id = key.thumbprint()
    jwk = {**key.as_dict(private=True), "kid": key_id, "alg": algorithm.value, "use": "sig"}
    return key_id, KeyMaterial(json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode())


def load_private(material: KeyMaterial) -> tuple[Jwk, Algorithm]:
    """Return the private key in a JWK, which names its algorithm.

    Raises MalformedError when it is none, its public half is another key's, or its ID is not its thumbprint.
    """
    jwk = _object(material.reveal())
    key, algorithm = _import(jwk)
    if jwk.get("alg") != algorithm.value or not key.is_private or jwk.get("kid") != key.thumbprint():
        raise MalformedError("a key is not a private key with its thumbprint as its ID")
    # An OKP key is read from its private half alone. What is published has to be the key that signs.
    if isinstance(key, OKPKey) and key.public_key.public_bytes_raw() != _octets(jwk["x"]):
        raise MalformedError("a key's public half is not that of its private half")
    return key, algorithm


def public_jwk(material: KeyMaterial) -> dict[str, str]:
    """Return the public half of a private JWK, with kid, alg and use, and nothing else. Raises MalformedError."""
    jwk = _object(material.reveal())
    if not isinstance(jwk.get("kty"), str):
        raise MalformedError("a key is no JWK")
    return {name: value for name, value in sorted(jwk.items()) if name in _PUBLISHED and isinstance(value, str)}


def private_pem(material: KeyMaterial) -> bytes:
    """Return the private key as PKCS#8 PEM (RFC 5958). Raises MalformedError."""
    key, _ = load_private(material)
    return bytes(key.as_pem(private=True))


def published_members(jwk: Json) -> dict[str, Any]:
    """Return what is published of a public JWK, and nothing else that somebody wrote there."""
    return {name: value for name, value in jwk.items() if name in _PUBLISHED}


def read_public(jwk: Json) -> tuple[Jwk, Algorithm]:
    """Return the key of a public JWK that may verify signatures. Raises MalformedError.

    A JWK without `alg` is taken for the algorithm that fits its kind, for RSA that is RS256.
    """
    if not isinstance(jwk, Mapping):
        raise MalformedError("a key is no JWK")
    if _PRIVATE & jwk.keys():
        raise MalformedError("a published key has private members")
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("use", "sig") not in ("sig", "jwt-svid")
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        raise MalformedError("a published key is not for signatures")
    return _import(jwk)


def read_set(text: bytes) -> list[Any]:
    """Return the members of a JWK Set (RFC 7517 5) as they are. Raises MalformedError when it is none."""
    found = _object(text).get("keys")
    if not isinstance(found, list):
        raise MalformedError("it is no JWK Set: it has no list of keys")
    return found


def sign(payload: Json, key: Jwk, algorithm: Algorithm, key_id: str, type_: str = "JWT") -> str:
    """Sign claims; return the compact token (RFC 7519) with typ, alg and kid in its header.

    With another `type_` than a token's it is none, and is refused as one (RFC 8725 3.11).
    """
    header = {"alg": algorithm.value, "kid": key_id, "typ": type_}
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return jws.serialize_compact(header, text, key, registry=_Registry(algorithm.value))


def verify_document(text: str, key: Jwk, algorithm: Algorithm, type_: str) -> dict[str, Any]:
    """Verify something signed that is no token, by its `typ`; return the JSON object. Raises SignatureError."""
    header = header_of(text, LONGEST_DOCUMENT)
    if header.get("typ") != type_ or algorithm_named(header["alg"]) is not algorithm:
        raise SignatureError("it is not of the type or the algorithm that is expected")
    return _claims(_verified(text, key, header["alg"]))


def header_of(token: str, longest: int = LONGEST_TOKEN) -> dict[str, Any]:
    """Return a token's header, of which nothing is verified. Raises SignatureError when it is no compact JWS."""
    header, _, _ = _parts(token, longest)
    return _header(header)


def unverified(token: str) -> Token:
    """Take a token apart without verifying anything. Raises SignatureError when it is no compact JWS of claims."""
    header, payload, _ = _parts(token)
    return Token(_header(header), _claims(payload))


def algorithm_named(name: object) -> Algorithm | None:
    """Return the algorithm that a header or a JWK names, if it is one that is accepted."""
    if not isinstance(name, str):
        return None
    try:
        return Algorithm(_OTHER_NAMES.get(name, name))
    except ValueError:
        return None


def unverified_claims(token: str) -> dict[str, Any]:
    """Return a token's claims, of which nothing is verified. Raises MalformedError when there are none."""
    header_of(token)
    return _object(jws.extract_compact(token.encode()).payload)


def verify(token: str, key: Jwk, algorithm: Algorithm) -> dict[str, Any]:
    """Verify a token's signature with this key and this algorithm, whatever its header says; return its claims.

    Raises SignatureError. Nothing of the claims is checked but that they are a JSON object.
    """
    return _claims(verify_signature(token, key, algorithm))


def verify_signature(token: str, key: Jwk, algorithm: Algorithm) -> bytes:
    """Verify as `verify` does; return what was signed, whatever it is. Raises SignatureError."""
    name = header_of(token)["alg"]
    if algorithm_named(name) is not algorithm:
        raise SignatureError("the token's algorithm is not the key's")
    return _verified(token, key, name)


def _verified(token: str, key: Jwk, name: str) -> bytes:
    try:
        return jws.deserialize_compact(token.encode(), key, registry=_Registry(name)).payload
    except (JoseError, ValueError, TypeError):
        raise SignatureError("the signature does not verify") from None


def _parts(token: str, longest: int = LONGEST_TOKEN) -> tuple[bytes, bytes, bytes]:
    """Return header, payload and signature of RFC 7515 7.1, each decoded."""
    if len(token) > longest:
        raise SignatureError("the token is too long")
    parts = token.split(".")
    if len(parts) != 3 or len(parts[0]) > LONGEST_HEADER:  # noqa: PLR2004  # as the RFC says
        raise SignatureError("it is no signed token in compact form")
    try:
        header, payload, signature = map(_octets, parts)
    except MalformedError:
        raise SignatureError("it is no signed token in compact form") from None
    return header, payload, signature


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = _object(text)
    except MalformedError:
        raise SignatureError("its header is no JSON object") from None
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise SignatureError("its header names no algorithm, or a key ID that is no text")
    if "crit" in header or "b64" in header:  # RFC 7515 4.1.11, RFC 7797: there is no extension that is understood here
        raise SignatureError("its header asks for an extension that is not supported")
    return header


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        return _object(payload)
    except MalformedError:
        raise SignatureError("what it carries is no JSON object of claims") from None


def _import(jwk: Json) -> tuple[Jwk, Algorithm]:
    kind = jwk.get("kty")
    named = jwk.get("alg") or {"EC": "ES256", "RSA": "RS256", "OKP": "EdDSA"}.get(str(kind))
    algorithm = algorithm_named(named)
    if algorithm is None:
        raise MalformedError("a key is for an algorithm that is not accepted")
    if (kind, jwk.get("crv")) != _KINDS[algorithm]:
        raise MalformedError("a key is not of its algorithm's kind")
    _check_size(jwk)
    try:
        key = JWKRegistry.import_key({name: value for name, value in jwk.items() if name in _VALUES})
        if not isinstance(key, ECKey | OKPKey | RSAKey):
            raise MalformedError("a key is of an unsupported kind")
        key.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError):
        raise MalformedError("a key can't be read") from None
    return key, algorithm


def _check_size(jwk: Json) -> None:
    """Look at how large the numbers are before anybody calculates with them. Raises MalformedError."""
    if jwk.get("kty") == "RSA":
        bits = int.from_bytes(modulus := _octets(jwk.get("n"))).bit_length()
        if bits < LEAST_RSA_BITS:
            raise MalformedError("an RSA key has fewer than 2048 bits")
        if (
            bits > MOST_RSA_BITS
            or not modulus[0]
            or any(len(_octets(jwk[name])) > len(modulus) for name in _VALUES & jwk.keys() - {"kty"})
        ):
            raise MalformedError("an RSA key has more than 8192 bits, or numbers that are too large")
        return
    for name in {"x", "y", "d"} & jwk.keys():
        if len(_octets(jwk[name])) != 32:  # noqa: PLR2004  # the size of both curves
            raise MalformedError("a key's numbers have the wrong length")
    point = bytearray(_octets(jwk.get("x")))
    if jwk["kty"] == "OKP":
        point[-1] &= 0x7F
        if bytes(point) in _SMALL_ORDER:
            raise MalformedError("a key is a point of small order, which verifies whatever it is given")


def _octets(text: object) -> bytes:
    """Decode base64url without padding, in its one canonical form (RFC 7515 2, RFC 4648 3.5). Raises MalformedError."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise MalformedError("it is not base64url")
    decoded = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=").decode() != text:
        raise MalformedError("it is not base64url in its canonical form")
    return decoded


def _object(text: bytes) -> dict[str, Any]:
    """Read a JSON object in UTF-8, strictly: no member twice (RFC 7515 4, RFC 7519 4), and no NaN."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_members, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedError("it is not JSON") from None
    if not isinstance(found, dict):
        raise MalformedError("it is no JSON object")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a member twice")
    return found


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not a number of JSON")
