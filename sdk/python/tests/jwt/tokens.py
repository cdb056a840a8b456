"""Tokens made by hand with cryptography alone, so that they can be wrong in any way, and keys for them."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

NOW = datetime(2027, 1, 15, 12, 0, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value, length):
    return b64(value.to_bytes(length, "big"))


class Pair:
    """A key pair with its JWKs."""

    def __init__(self, algorithm):
        self.algorithm = algorithm
        match algorithm:
            case "ES256":
                self.private = ec.generate_private_key(ec.SECP256R1())
                point = self.private.public_key().public_numbers()
                self.public = {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}
                self.secret = {"d": number(self.private.private_numbers().private_value, 32)}
            case "EdDSA":
                self.private = ed25519.Ed25519PrivateKey.generate()
                raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
                self.public = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.private.public_key().public_bytes(*raw))}
                self.secret = {"d": b64(self.private.private_bytes_raw())}
            case "RS256" | "PS256":
                self.private = rsa.generate_private_key(65537, 2048)
                numbers = self.private.private_numbers()
                self.public = {"kty": "RSA", "n": number(numbers.public_numbers.n, 256), "e": number(65537, 3)}
                values = {"p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
                self.secret = {"d": number(numbers.d, 256)} | {
                    name: number(value, 128) for name, value in values.items()
                }
        self.kid = b64(hashlib.sha256(json.dumps(self.public, sort_keys=True, separators=(",", ":")).encode()).digest())

    def published(self, **changes):
        return self.public | {"kid": self.kid, "alg": self.algorithm, "use": "sig"} | changes

    def kept(self, **changes):
        return self.published() | self.secret | changes

    def pem(self):
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return self.private.public_key().public_bytes(*form)

    def sign(self, message):
        match self.algorithm:
            case "ES256":
                r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
                return r.to_bytes(32, "big") + s.to_bytes(32, "big")
            case "EdDSA":
                return self.private.sign(message)
            case "RS256":
                return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
            case _:
                return self.private.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


PAIRS = {algorithm: Pair(algorithm) for algorithm in ("ES256", "EdDSA", "RS256", "PS256")}
ES256 = PAIRS["ES256"]


def claims(**changes):
    found = {
        "iss": "auth-service",
        "aud": "microservices",
        "sub": "user-1",
        "iat": SECONDS,
        "nbf": SECONDS,
        "exp": SECONDS + 900,
        "jti": "id-1",
        "roles": ["customer"],
        "permissions": ["orders:read", "orders:create"],
    } | changes
    return {name: value for name, value in found.items() if value is not ...}


def compact(header, payload, sign):
    """Join any header, payload and signature; dicts become JSON, text and bytes stay."""
    parts = [
        part if isinstance(part, bytes) else (part if isinstance(part, str) else json.dumps(part)).encode()
        for part in (header, payload)
    ]
    message = f"{b64(parts[0])}.{b64(parts[1])}"
    return f"{message}.{b64(sign(message.encode()))}"


def token(payload=None, pair=ES256, header=None):
    found = {"alg": pair.algorithm, "typ": "JWT", "kid": pair.kid} | (header or {})
    found = {name: value for name, value in found.items() if value is not ...}
    return compact(found, claims() if payload is None else payload, pair.sign)


def hs256(secret):
    return lambda message: hmac.digest(secret, message, "sha256")


def jwks(*keys):
    return json.dumps({"keys": list(keys)})
