"""Verifying tokens: the SDK beside the one signature that has to be verified, and beside a bare JOSE library."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from bench.sdk.measure import Case, WrongAnswerError, finish
from serviceidentity_sdk.jwt import Algorithm, MountedKeys, TokenVerifier
from serviceidentity_sdk.jwt.jose import KeySet, read_private, read_public, sign
from serviceidentity_sdk.source import Fixed

ISSUER: Final = "auth-service"
AUDIENCE: Final = "microservices"
_DIGEST: Final = hashes.SHA256()
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@dataclass(frozen=True)
class Issued:
    """A token, what verifies it, and the bare verification of its signature."""

    token: str
    verifier: TokenVerifier
    key: ECKey | OKPKey | RSAKey
    algorithm: str
    bare: Callable[[], None]


def issued(algorithm: str) -> Issued:
    """Return a token of a customer, with the claims that auth-service writes."""
    key = _generated(algorithm)
    named = {"kid": key.thumbprint(), "alg": algorithm, "use": "sig"}
    private = read_private(key.as_dict(private=True) | named)
    public = read_public(key.as_dict(private=False) | named)
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "8b0c3c5e-6a0a-4c55-b9a4-0f3b1a2f4d11",
        "iat": now,
        "nbf": now,
        "exp": now + 86_400,
        "jti": "Zx3n0l1k9Q7a2b4c6d8e0f",
        "sid": "p0o9i8u7y6t5r4e3w2q1",
        "roles": ["customer"],
        "permissions": ["orders:read", "orders:create", "payments:create"],
    }
    token = sign(claims, private)
    verifier = TokenVerifier(
        MountedKeys(Fixed(KeySet((public,)))), issuer=ISSUER, audience=AUDIENCE, algorithms=list(Algorithm)
    )
    return Issued(token, verifier, key, algorithm, _bare(private.jwk, token))


def _generated(algorithm: str) -> ECKey | OKPKey | RSAKey:
    match algorithm:
        case "ES256":
            return ECKey.generate_key("P-256")
        case "EdDSA":
            return OKPKey.generate_key("Ed25519")
        case _:
            return RSAKey.generate_key(2048)


def _bare(key: ECKey | OKPKey | RSAKey, token: str) -> Callable[[], None]:
    """Return the verification alone: message, signature and key are ready."""
    message, _, text = token.encode().rpartition(b".")
    signature = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    public: Any = key.public_key
    if isinstance(public, ec.EllipticCurvePublicKey):
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: PLC0415

        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        return lambda: public.verify(der, message, ec.ECDSA(_DIGEST))
    if isinstance(public, ed25519.Ed25519PublicKey):
        return lambda: public.verify(signature, message)
    if not isinstance(public, rsa.RSAPublicKey):
        raise WrongAnswerError("a key of another kind")
    alg = json.loads(base64.urlsafe_b64decode(message.split(b".")[0] + b"=="))["alg"]
    form = _PSS if alg == "PS256" else padding.PKCS1v15()
    return lambda: public.verify(signature, message, form, _DIGEST)


def cases() -> Iterator[Case]:
    """Each algorithm that the SDK accepts."""
    for algorithm in ("ES256", "EdDSA", "RS256", "PS256"):
        one = issued(algorithm)
        yield Case(
            f"token {algorithm}",
            {"floor": one.bare, "sdk": _with_the_sdk(one), "joserfc": _with_joserfc(one)},
        )


def _with_the_sdk(one: Issued) -> Callable[[], object]:
    return lambda: finish(one.verifier.verify(one.token))


def _with_joserfc(one: Issued) -> Callable[[], None]:
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": AUDIENCE}, exp={"essential": True}
    )
    names = [one.algorithm]

    def call() -> None:
        registry.validate(jwt.decode(one.token, one.key, algorithms=names).claims)

    return call
