"""Private keys: which kinds there are, making, reading and writing them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from serviceidentity.domain.pki.errors import PkiError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class KeyAlgorithm(StrEnum):
    """Algorithms, by the names that cert-manager uses."""

    ECDSA = "ECDSA"
    RSA = "RSA"
    ED25519 = "Ed25519"


class KeyEncoding(StrEnum):
    """PEM encodings: PKCS1 is OpenSSL's traditional one (RFC 8017 for RSA, RFC 5915 for EC), PKCS8 is RFC 5958."""

    PKCS1 = "PKCS1"
    PKCS8 = "PKCS8"


_SIZES: Final = {KeyAlgorithm.ECDSA: (256, 384), KeyAlgorithm.RSA: (2048, 3072, 4096), KeyAlgorithm.ED25519: (0,)}
_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {256: ec.SECP256R1, 384: ec.SECP384R1}
_FORMATS: Final = {
    KeyEncoding.PKCS1: serialization.PrivateFormat.TraditionalOpenSSL,
    KeyEncoding.PKCS8: serialization.PrivateFormat.PKCS8,
}


@dataclass(frozen=True, slots=True)
class KeyProfile:
    """A kind of key: an algorithm and its size in bits (0 for Ed25519). Raises PkiError when they do not fit."""

    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA
    size: int = 256

    def __post_init__(self) -> None:
        if self.algorithm is KeyAlgorithm.ED25519:
            object.__setattr__(self, "size", 0)
        if self.size not in _SIZES[self.algorithm]:
            raise PkiError("the key size does not fit the algorithm")


def generate(profile: KeyProfile) -> PrivateKey:
    """Make a new private key."""
    match profile.algorithm:
        case KeyAlgorithm.ECDSA:
            return ec.generate_private_key(_CURVES[profile.size]())
        case KeyAlgorithm.RSA:
            return rsa.generate_private_key(public_exponent=65537, key_size=profile.size)
        case KeyAlgorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()


def encode(key: PrivateKey, encoding: KeyEncoding) -> bytes:
    """Return the key as unencrypted PEM. Raises PkiError for Ed25519 in PKCS1, which does not exist."""
    if encoding is KeyEncoding.PKCS1 and isinstance(key, ed25519.Ed25519PrivateKey):
        raise PkiError("an Ed25519 key has only the PKCS8 encoding")
    return key.private_bytes(serialization.Encoding.PEM, _FORMATS[encoding], serialization.NoEncryption())


def load(pem: bytes) -> PrivateKey:
    """Read an unencrypted PEM private key of a kind that `KeyProfile` knows. Raises PkiError on everything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    # TypeError: an encrypted key needs a password. InternalError: an Ed448 key of the wrong length, for one.
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        raise PkiError("not a readable private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise PkiError("a private key of an unsupported kind")
    profile_of(key)
    return key


def profile_of(key: PrivateKey | PublicKeyTypes) -> KeyProfile:
    """Return what kind of key this is. Raises PkiError for one that is not supported."""
    match key:
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, tuple(_CURVES.values())):
                raise PkiError("an unsupported curve")
            return KeyProfile(KeyAlgorithm.ECDSA, key.curve.key_size)
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            return KeyProfile(KeyAlgorithm.RSA, key.key_size)
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return KeyProfile(KeyAlgorithm.ED25519)
        case _:
            raise PkiError("a key of an unsupported kind")


def same_public_key(a: PrivateKey | PublicKeyTypes, b: PrivateKey | PublicKeyTypes) -> bool:
    """Say whether both are halves of one key pair, or the same half of it."""
    return _public(a) == _public(b)


def _public(key: PrivateKey | PublicKeyTypes) -> PublicKeyTypes:
    match key:
        case ec.EllipticCurvePrivateKey() | rsa.RSAPrivateKey() | ed25519.Ed25519PrivateKey():
            return key.public_key()
        case _:
            return key
