"""Certificates of a Root -> Intermediate -> leaf hierarchy: issuing them and reading them (RFC 5280)."""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyProfile, PrivateKey, PublicKey
from serviceidentity.domain.pki.names import (
    DEFAULT_USAGES,
    SPIFFE_SCHEME,
    Subject,
    SubjectAltNames,
    extended_key_usage,
    key_usage,
)

__all__ = [
    "DEFAULT_USAGES",
    "CertificateFacts",
    "Issuer",
    "Subject",
    "SubjectAltNames",
    "Validity",
    "certificate_request",
    "encode_chain",
    "extension",
    "facts",
    "fingerprint",
    "issue_intermediate",
    "issue_leaf",
    "issue_root",
    "key_matches",
    "load_chain",
    "load_issuer",
    "may_sign_lists",
    "public_key",
    "random_serial_number",
    "same_key",
    "serial_number",
    "signature_hash",
    "signed_by",
    "without_root",
]

E = TypeVar("E", bound=x509.ExtensionType)

_EPOCH: Final = datetime(1950, 1, 1, tzinfo=UTC)  # where UTCTime begins (RFC 5280 4.1.2.5.1)
_SERIAL_BITS: Final = 159  # RFC 5280 4.1.2.2: positive and at most 20 octets, so the top bit stays clear
# What reading a certificate or one of its extensions raises. Not all of these are ValueErrors.
_UNREADABLE: Final = (
    ValueError,
    TypeError,  # a name with an attribute of another type
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when; kept in UTC and whole seconds, which is what a certificate can say (RFC 5280 4.1.2.5).

    Raises PkiError on times without a zone, before 1950, or in the wrong order.
    """

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for field_name, instant in (("not_before", self.not_before), ("not_after", self.not_after)):
            if instant.utcoffset() is None:
                raise PkiError("a validity needs times with a time zone")
            object.__setattr__(self, field_name, instant.astimezone(UTC).replace(microsecond=0))
        if self.not_before < _EPOCH:
            raise PkiError("a certificate can't begin before 1950")
        if self.not_after <= self.not_before:
            raise PkiError("a certificate has to end after it begins")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that can sign: its certificate and key, and the chain that goes with what it signs.

    `chain` leads from the issuer up to, and without, the root; it is empty for a root. `root_ends` is when the root
    above does, if that is known. `not_after` is when the first of them all ends. Raises PkiError when key and
    certificate do not belong together, the certificate may not sign others, or the chain is not the certificate's.
    """

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    root_ends: datetime | None = None
    name: x509.Name = field(init=False)
    key_identifier: x509.AuthorityKeyIdentifier = field(init=False)
    path_length: int | None = field(init=False)
    not_after: datetime = field(init=False)

    def __post_init__(self) -> None:
        if not key_matches(self.certificate, self.private_key):
            raise PkiError("the key does not belong to the issuer's certificate")
        try:
            extensions = self.certificate.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
            may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
            own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            name = self.certificate.subject
        except (x509.ExtensionNotFound, *_UNREADABLE):
            raise PkiError("the issuer's certificate is not one of a certificate authority") from None
        if not constraints.ca or not may_sign or not list(name):  # RFC 5280 4.1.2.6: an authority has a name
            raise PkiError("the issuer's certificate may not sign others")
        if self.chain and self.chain[0] != self.certificate:
            raise PkiError("the chain does not begin with the issuer's certificate")
        if not all(signed_by(lower, upper) for lower, upper in pairwise(self.chain)):
            raise PkiError("the issuer's chain is broken or out of order")
        # RFC 5280 4.2.1.1: the AKI of what it signs must equal the issuer's SKI.
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        ends = [certificate.not_valid_after_utc for certificate in (self.certificate, *self.chain)]
        end = min([*ends, self.root_ends] if self.root_ends else ends)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "key_identifier", identifier)
        object.__setattr__(self, "path_length", constraints.path_length)
        object.__setattr__(self, "not_after", end)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says. Serial number, fingerprint and key IDs are lower-case hex without colons.

    The serial number has an even number of digits, as OpenSSL prints it; `uris` are those beside the SPIFFE ID.
    """

    serial_number: str
    fingerprint: str
    subject_key_id: str
    issuer_key_id: str
    spiffe_id: str | None
    common_name: str | None
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    email_addresses: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_ca: bool
    key: KeyProfile


def random_serial_number() -> int:
    """Return a positive serial number of 20 octets, 158 bits of it random: all have the same length."""
    return secrets.randbits(_SERIAL_BITS) | 1 << (_SERIAL_BITS - 1)


def issue_root(subject: Subject, key: PrivateKey, validity: Validity) -> x509.Certificate:
    """Issue a self-signed root that allows one tier of intermediates below it. Raises PkiError without a name."""
    name = _authority_name(subject)
    builder = _builder(name, name, key.public_key(), validity)
    builder = _authority_extensions(builder, path_length=1)
    return builder.sign(key, signature_hash(key))


def issue_intermediate(subject: Subject, public_key: PublicKey, issuer: Issuer, validity: Validity) -> x509.Certificate:
    """Issue an intermediate that may sign leaves only.

    Raises PkiError when it would outlive its issuer, has no name, or the issuer may itself sign leaves only.
    """
    if issuer.path_length == 0:
        raise PkiError("the issuer may sign leaves only")  # RFC 5280 4.2.1.9
    builder = _builder(_authority_name(subject), issuer.name, public_key, _inside(validity, issuer))
    builder = _authority_extensions(builder, path_length=0).add_extension(issuer.key_identifier, critical=False)
    return builder.sign(issuer.private_key, signature_hash(issuer.private_key))


def issue_leaf(
    subject: Subject,
    names: SubjectAltNames,
    usages: tuple[str, ...],
    public_key: PublicKey,
    issuer: Issuer,
    validity: Validity,
) -> x509.Certificate:
    """Issue an end-entity certificate.

    Raises PkiError when it would outlive its issuer, or when a name, subject field or usage can't be encoded.
    """
    name = subject.to_x509()
    builder = _builder(name, issuer.name, public_key, _inside(validity, issuer))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(usages, keys.profile_of(public_key)), critical=True)
        # RFC 5280 4.2.1.6: with an empty subject the alternative names are critical.
        .add_extension(names.to_x509(), critical=not list(name))
        .add_extension(issuer.key_identifier, critical=False)
    )
    if (extended := extended_key_usage(usages)) is not None:
        builder = builder.add_extension(extended, critical=False)
    return builder.sign(issuer.private_key, signature_hash(issuer.private_key))


def certificate_request(subject: Subject, key: PrivateKey) -> bytes:
    """Return a PKCS#10 request (RFC 2986) in PEM for the name and key. Raises PkiError without a name."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_authority_name(subject))
    return builder.sign(key, signature_hash(key)).public_bytes(serialization.Encoding.PEM)


def load_issuer(certificate_pem: bytes, key_pem: bytes) -> Issuer:
    """Read an authority: its certificate, then those above it if there are any. Raises PkiError.

    What it hands out is all of them without the root. Equal names do not make a root, a signature of its own does.
    """
    certificates = load_chain(certificate_pem)
    chain = without_root(certificates)
    above = certificates[len(chain) :]
    return Issuer(certificates[0], keys.load(key_pem), chain, above[0].not_valid_after_utc if above else None)


def without_root(certificates: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a chain up to, and without, its root."""
    return tuple(takewhile(lambda certificate: not signed_by(certificate, certificate), certificates))


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM text, at least one. Raises PkiError."""
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
    except _UNREADABLE:
        raise PkiError("not a readable certificate") from None
    if not chain:
        raise PkiError("there is no certificate")
    return chain


def encode_chain(*chain: x509.Certificate) -> bytes:
    """Return certificates as one PEM text, in order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in lower-case hex, whatever kind of key it has."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_number(certificate: x509.Certificate) -> str:
    """Return the serial number in lower-case hex, with an even number of digits."""
    return _hex(certificate.serial_number)


def facts(certificate: x509.Certificate) -> CertificateFacts:
    """Return what a certificate says. Raises PkiError when its extensions or its key can't be read."""
    try:
        extensions = certificate.extensions
        names = _extension(extensions, x509.SubjectAlternativeName)
        own = _extension(extensions, x509.SubjectKeyIdentifier)
        issuer = _extension(extensions, x509.AuthorityKeyIdentifier)
        constraints = _extension(extensions, x509.BasicConstraints)
        key = keys.profile_of(certificate.public_key())
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except _UNREADABLE:
        raise PkiError("the certificate can't be understood") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    spiffe = [uri for uri in uris if uri.lower().startswith(SPIFFE_SCHEME)]
    return CertificateFacts(
        serial_number=serial_number(certificate),
        fingerprint=fingerprint(certificate),
        subject_key_id=own.digest.hex() if own else "",
        issuer_key_id=issuer.key_identifier.hex() if issuer and issuer.key_identifier else "",
        spiffe_id=spiffe[0] if len(spiffe) == 1 else None,
        common_name=str(common[0].value) if common else None,
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
        ip_addresses=tuple(str(a) for a in names.get_values_for_type(x509.IPAddress)) if names else (),
        uris=tuple(uri for uri in uris if uri not in spiffe),
        email_addresses=tuple(names.get_values_for_type(x509.RFC822Name)) if names else (),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=constraints.ca if constraints else False,
        key=key,
    )


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Say whether `issuer` signed the certificate: names agree and the signature verifies. Never raises."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return True


def key_matches(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Say whether the key is the certificate's. Never raises."""
    try:
        return keys.same_public_key(certificate.public_key(), key)
    except _UNREADABLE:
        return False


def may_sign_lists(certificate: x509.Certificate) -> bool:
    """Say whether the authority's key may sign revocation lists (RFC 5280 4.2.1.3). Never raises."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return False


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """Return the hash that goes with a signature of the key; None when the algorithm brings its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None  # RFC 8410: the algorithm brings its own
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return hashes.SHA384()
    return hashes.SHA256()


def same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Say whether both certificates are for the same key. Never raises."""
    try:
        return keys.same_public_key(one.public_key(), other.public_key())
    except _UNREADABLE:
        return False


def public_key(certificate: x509.Certificate) -> PublicKeyTypes:
    """Return the certificate's key, of whatever kind. Raises PkiError when it can't be read."""
    try:
        return certificate.public_key()
    except _UNREADABLE:
        raise PkiError("the certificate's key can't be read") from None


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """Return an extension of that kind, if it is there. Raises PkiError when the extensions can't be read."""
    try:
        return _extension(certificate.extensions, kind)
    except _UNREADABLE:
        raise PkiError("the certificate's extensions can't be read") from None


def _builder(name: x509.Name, issuer: x509.Name, public_key: PublicKey, validity: Validity) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        # RFC 5280 4.2.1.2 method 1 (SHA-1), not RFC 7093: what OpenSSL, Go and cert-manager compute, so other tools
        # arrive at the same ID. It only tells keys apart; nothing is trusted because of it.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_extensions(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


def _inside(validity: Validity, issuer: Issuer) -> Validity:
    if validity.not_after > issuer.not_after:
        raise PkiError("a certificate must not outlive its chain")
    return validity


def _authority_name(subject: Subject) -> x509.Name:
    name = subject.to_x509()
    if not list(name):
        raise PkiError("an authority needs a subject")  # RFC 5280 4.1.2.6
    return name


def _hex(number: int) -> str:
    digits = f"{abs(number):x}"
    return ("-" if number < 0 else "") + digits.zfill(len(digits) + len(digits) % 2)


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
