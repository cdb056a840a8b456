"""Authorities that others made: the path from one up to its root, and what is wrong with it (RFC 5280 6.1)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.certificates import extension, public_key, signed_by
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import format_time

LONGEST_PATH: Final = 8
SMALLEST_RSA: Final = 2048
SMALLEST_CURVE: Final = 256
_BROKEN_HASHES: Final = (hashes.MD5, hashes.SHA1)
_PURPOSES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})


class Defect(NamedTuple):
    """Why an authority can't be used: a CamelCase reason and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Path:
    """An authority's certificate and those above it. `tiers_below` says how many tiers of authorities it is to sign."""

    certificates: tuple[x509.Certificate, ...]
    tiers_below: int

    @property
    def not_before(self) -> datetime:
        """When the last of them begins."""
        return max(certificate.not_valid_before_utc for certificate in self.certificates)

    @property
    def not_after(self) -> datetime:
        """When the first of them ends."""
        return min(certificate.not_valid_after_utc for certificate in self.certificates)

    @property
    def is_complete(self) -> bool:
        """Say whether it ends with a root: one that signed itself."""
        return signed_by(self.certificates[-1], self.certificates[-1])

    def name(self, index: int) -> str:
        """Return how to speak of a certificate of the path."""
        if index == 0:
            return "the certificate"
        is_root = index == len(self.certificates) - 1 and self.is_complete
        return "its root" if is_root else f"certificate {index + 1} of its chain"


def path_to_root(
    certificate: x509.Certificate, others: Iterable[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the path from a certificate up, as far as it goes through the others.

    It is complete if it ends with one that signed itself. Of several that signed the same, as when a root was renewed
    for the same key, the first is one that is valid now and signed itself.
    """
    candidates = list(dict.fromkeys(others))
    candidates.sort(key=lambda one: (not _is_valid(one, now), not signed_by(one, one)))
    path = [certificate]
    while not signed_by(path[-1], path[-1]) and len(path) < LONGEST_PATH:
        above = next((one for one in candidates if one not in path and signed_by(path[-1], one)), None)
        if above is None:
            break
        path.append(above)
    return tuple(path)


def unreadable(path: Path, _now: datetime) -> Defect | None:
    """A certificate that can't be understood."""
    for index, certificate in enumerate(path.certificates):
        try:
            public_key(certificate), extension(certificate, x509.BasicConstraints), _hash_of(certificate)
        except PkiError:
            return Defect("InvalidCertificate", f"{path.name(index)} can't be understood")
    return None


def weak(path: Path, _now: datetime) -> Defect | None:
    """A key or a signature that can be forged."""
    for index, certificate in enumerate(path.certificates):
        match public_key(certificate):
            case rsa.RSAPublicKey(key_size=size) if size >= SMALLEST_RSA:
                pass
            case ec.EllipticCurvePublicKey(key_size=size) if size >= SMALLEST_CURVE:
                pass
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                pass
            case _:
                return Defect("WeakKey", f"{path.name(index)} has a weak key: RSA needs 2048 bits, ECDSA 256")
        if isinstance(_hash_of(certificate), _BROKEN_HASHES):
            return Defect("WeakSignature", f"{path.name(index)} is signed with a broken hash, MD5 or SHA-1")
    return None


def unsupported(path: Path, _now: datetime) -> Defect | None:
    """A key that the operator can't sign with."""
    try:
        keys.profile_of(public_key(path.certificates[0]))
    except PkiError:
        message = "its key must be ECDSA P-256 or P-384, RSA 2048, 3072 or 4096, or Ed25519"
        return Defect("UnsupportedKey", message)
    return None


def not_an_authority(path: Path, _now: datetime) -> Defect | None:
    """One that may not sign certificates."""
    for index, certificate in enumerate(path.certificates):
        who = path.name(index)
        constraints = extension(certificate, x509.BasicConstraints)
        usage = extension(certificate, x509.KeyUsage)
        if constraints is None or not constraints.ca:
            return Defect("NotAnAuthority", f"{who} is not one of a certificate authority (basicConstraints CA:TRUE)")
        if (usage is None and index == 0) or (usage is not None and not usage.key_cert_sign):
            return Defect("NotAnAuthority", f"{who} may not sign certificates (keyUsage keyCertSign)")
        if not list(certificate.subject):
            return Defect("NotAnAuthority", f"{who} has no subject name")
        if index == 0 and extension(certificate, x509.SubjectKeyIdentifier) is None:
            return Defect("NotAnAuthority", f"{who} has no subjectKeyIdentifier")
    return None


def path_length_exceeded(path: Path, _now: datetime) -> Defect | None:
    """One that may not have so many authorities below it."""
    for index, certificate in enumerate(path.certificates):
        constraints = extension(certificate, x509.BasicConstraints)
        needed = index + path.tiers_below
        if constraints is not None and constraints.path_length is not None and constraints.path_length < needed:
            allowed = f"allows {constraints.path_length} authorities below it, {needed} are needed"
            return Defect("PathLengthTooSmall", f"{path.name(index)} {allowed} (basicConstraints pathlen)")
    return None


def not_valid_now(path: Path, now: datetime) -> Defect | None:
    """One that has ended, or has not begun."""
    for index, certificate in enumerate(path.certificates):
        if now >= certificate.not_valid_after_utc:
            ended = format_time(certificate.not_valid_after_utc)
            return Defect("Expired", f"{path.name(index)} expired at {ended}")
        if now < certificate.not_valid_before_utc:
            begins = format_time(certificate.not_valid_before_utc)
            return Defect("NotYetValid", f"{path.name(index)} is not valid before {begins}")
    return None


def incomplete(path: Path, _now: datetime) -> Defect | None:
    """A path that does not reach a root."""
    if path.is_complete:
        return None
    who, where = path.name(len(path.certificates) - 1), "to tls.crt or ca.crt"
    message = f"what signed {who} is missing; add the certificates above it, up to the root, {where}"
    return Defect("IncompleteChain", message)


DEFECTS: Final[tuple[Callable[[Path, datetime], Defect | None], ...]] = (
    unreadable,
    weak,
    unsupported,
    not_an_authority,
    incomplete,
    path_length_exceeded,
    not_valid_now,
)


def first_defect(path: Path, now: datetime, *, key_is_here: bool = True) -> Defect | None:
    """Return the first thing that is wrong with an authority; what kind of key it has matters to who signs with it."""
    checks = (check for check in DEFECTS if key_is_here or check is not unsupported)
    return next((defect for check in checks if (defect := check(path, now)) is not None), None)


def remarks(path: Path) -> tuple[str, ...]:
    """Return what limits the certificates that the authority signs, as far as others will hold them to it."""
    found: list[str] = []
    if any(extension(one, x509.NameConstraints) for one in path.certificates):
        found.append("its name constraints apply to every certificate under it")
    for certificate in path.certificates[:-1]:
        usage = extension(certificate, x509.ExtendedKeyUsage)
        if (
            usage is not None
            and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage
            and not set(usage) >= _PURPOSES
        ):
            found.append("its extended key usage does not allow both server auth and client auth")
            break
    return tuple(found)


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _hash_of(certificate: x509.Certificate) -> hashes.HashAlgorithm | None:
    try:
        return certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        raise PkiError("the certificate's signature can't be read") from None
