"""Certificate revocation lists (RFC 5280 section 5): issuing them and reading them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from serviceidentity.domain.pki.certificates import Issuer, may_sign_lists, signature_hash
from serviceidentity.domain.pki.errors import PkiError

_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
)
# What may be said of a certificate, by the names of RFC 5280 5.3.1. Not among them: certificateHold and removeFromCRL,
# because a revocation is final here, and aACompromise, which is about attribute certificates.
REASONS: Final = {
    reason.value: reason
    for reason in (
        x509.ReasonFlags.unspecified,
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    )
}
UNSPECIFIED: Final = x509.ReasonFlags.unspecified.value


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """One entry of a list: the serial number as lower-case hex, since when, and one of REASONS."""

    serial_number: str
    revoked_at: datetime
    reason: str = UNSPECIFIED


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What a list says: its number, from when until when it counts, and its entries."""

    number: int
    this_update: datetime
    next_update: datetime
    entries: tuple[RevokedCertificate, ...]


def issue(issuer: Issuer, content: RevocationList) -> bytes:
    """Sign a complete list of version 2 and return it as PEM.

    Raises PkiError when the issuer may not sign lists, or a time does not fit into one.
    """
    if not may_sign_lists(issuer.certificate):  # RFC 5280 4.2.1.3
        raise PkiError("the issuer may not sign revocation lists")
    try:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.name)
            .last_update(content.this_update)
            .next_update(content.next_update)
            .add_extension(issuer.key_identifier, critical=False)
            .add_extension(x509.CRLNumber(content.number), critical=False)
        )
        for entry in sorted(content.entries, key=lambda entry: int(entry.serial_number, 16)):
            builder = builder.add_revoked_certificate(_entry(entry))
        signed = builder.sign(issuer.private_key, signature_hash(issuer.private_key))
    except ValueError:
        raise PkiError("the revocation list has a time that can't be written") from None
    return signed.public_bytes(serialization.Encoding.PEM)


def read(pem: bytes, issuer: x509.Certificate | None) -> RevocationList:
    """Read a list that `issuer` signed; None takes anyone's. Raises PkiError when it can't be read or is another's."""
    try:
        found = x509.load_pem_x509_crl(pem)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        ours = issuer is None or (
            found.issuer == issuer.subject and found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # of a CA that signs
        )
        entries = tuple(_read_entry(entry) for entry in found)
        this_update, next_update = found.last_update_utc, found.next_update_utc
    except (TypeError, *_UNREADABLE):
        raise PkiError("not a readable revocation list") from None
    if next_update is None:
        raise PkiError("a revocation list without an end")
    if not ours:
        raise PkiError("the revocation list of another authority")
    return RevocationList(number, this_update, next_update, entries)


def serial_of(text: str) -> str:
    """Return a serial number that a person wrote in hex, with or without colons, as we write it: see CertificateFacts.

    Raises PkiError when it is not a positive number of at most 20 octets (RFC 5280 4.1.2.2).
    """
    digits = text.replace(":", "").lower()
    if not digits or set(digits) - set("0123456789abcdef"):
        raise PkiError("not a serial number in hexadecimal")
    digits = digits.lstrip("0")
    digits = digits.zfill(len(digits) + len(digits) % 2)
    if not 0 < len(digits) <= _LONGEST:
        raise PkiError("a serial number is positive and has at most 20 octets")
    return digits


_LONGEST: Final = 40


def _entry(entry: RevokedCertificate) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder().serial_number(int(entry.serial_number, 16)).revocation_date(entry.revoked_at)
    )
    if entry.reason != UNSPECIFIED:  # RFC 5280 5.3.1: absent instead of unspecified
        builder = builder.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
    return builder.build()


def _read_entry(entry: x509.RevokedCertificate) -> RevokedCertificate:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = UNSPECIFIED
    serial = serial_of(f"{entry.serial_number:x}")
    return RevokedCertificate(serial, entry.revocation_date_utc, reason if reason in REASONS else UNSPECIFIED)
