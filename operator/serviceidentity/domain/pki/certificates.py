"""Certificates of a Root -> Intermediate -> leaf hierarchy: issuing them and reading them (RFC 5280)."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

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
    "encode_chain",
    "facts",
    "issue_intermediate",
    "issue_leaf",
    "issue_root",
    "key_matches",
    "load_chain",
    "load_issuer",
    "random_serial_number",
    "signed_by",
]

E = TypeVar("E", bound=x509.ExtensionType)

SERIAL_BITS = 159  # RFC 5280 4.1.2.2: positive and at most 20 octets, so the top bit stays clear


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, in UTC, whole seconds."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_after <= self.not_before:
            raise PkiError("a certificate has to end after it begins")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that can sign: its certificate and key, and the chain that goes with what it signs.

    `chain` leads from the issuer up to, and without, the root. Raises PkiError when key and certificate do not belong
    together, or the certificate may not sign others.
    """

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    name: x509.Name = field(init=False)
    key_identifier: x509.AuthorityKeyIdentifier = field(init=False)

    def __post_init__(self) -> None:
        if not key_matches(self.certificate, self.private_key):
            raise PkiError("the key does not belong to the issuer's certificate")
        try:
            extensions = self.certificate.extensions
            is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
            own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except (x509.ExtensionNotFound, ValueError):
            raise PkiError("the issuer's certificate is not one of a certificate authority") from None
        if not is_ca or not may_sign:
            raise PkiError("the issuer's certificate may not sign others")
        # RFC 5280 4.2.1.1: the AKI of what it signs must equal the issuer's SKI.
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        object.__setattr__(self, "name", self.certificate.subject)
        object.__setattr__(self, "key_identifier", identifier)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says. Serial and fingerprints are lower-case hex without colons, as OpenSSL prints them."""

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
    """Return a serial number of 159 random bits, never zero."""
    return secrets.randbits(SERIAL_BITS) | 1 << (SERIAL_BITS - 1)


def issue_root(subject: Subject, key: PrivateKey, validity: Validity) -> x509.Certificate:
    """Issue a self-signed root that allows one tier of intermediates below it."""
    name = subject.to_x509()
    builder = _builder(name, name, key.public_key(), validity)
    builder = _authority_extensions(builder, path_length=1)
    return builder.sign(key, _hash(key))


def issue_intermediate(subject: Subject, public_key: PublicKey, issuer: Issuer, validity: Validity) -> x509.Certificate:
    """Issue an intermediate that may sign leaves only. Raises PkiError when it would outlive its issuer."""
    builder = _builder(subject.to_x509(), issuer.name, public_key, _inside(validity, issuer))
    builder = _authority_extensions(builder, path_length=0).add_extension(issuer.key_identifier, critical=False)
    return builder.sign(issuer.private_key, _hash(issuer.private_key))


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
    return builder.sign(issuer.private_key, _hash(issuer.private_key))


def load_issuer(certificate_pem: bytes, key_pem: bytes) -> Issuer:
    """Read an authority. A self-signed one has no chain to hand out, any other hands out itself. Raises PkiError."""
    certificate, *_ = load_chain(certificate_pem)
    self_signed = certificate.issuer == certificate.subject
    return Issuer(certificate, keys.load(key_pem), () if self_signed else (certificate,))


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM text, at least one. Raises PkiError."""
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise PkiError("not a readable certificate") from None
    if not chain:
        raise PkiError("there is no certificate")
    return chain


def encode_chain(*chain: x509.Certificate) -> bytes:
    """Return certificates as one PEM text, in order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def facts(certificate: x509.Certificate) -> CertificateFacts:
    """Return what a certificate says. Raises PkiError when its extensions or its key can't be read."""
    try:
        extensions = certificate.extensions
        names = _extension(extensions, x509.SubjectAlternativeName)
        own = _extension(extensions, x509.SubjectKeyIdentifier)
        issuer = _extension(extensions, x509.AuthorityKeyIdentifier)
        constraints = _extension(extensions, x509.BasicConstraints)
        key = keys.profile_of(certificate.public_key())
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except (ValueError, UnsupportedAlgorithm):
        raise PkiError("the certificate can't be understood") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    spiffe = [uri for uri in uris if uri.startswith(SPIFFE_SCHEME)]
    return CertificateFacts(
        serial_number=f"{certificate.serial_number:x}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        subject_key_id=own.digest.hex() if own else "",
        issuer_key_id=issuer.key_identifier.hex() if issuer and issuer.key_identifier else "",
        spiffe_id=spiffe[0] if len(spiffe) == 1 else None,
        common_name=str(common[0].value) if common else None,
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
        ip_addresses=tuple(str(a) for a in names.get_values_for_type(x509.IPAddress)) if names else (),
        uris=tuple(uri for uri in uris if not uri.startswith(SPIFFE_SCHEME)),
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
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def key_matches(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Say whether the key is the certificate's. Never raises."""
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def _builder(name: x509.Name, issuer: x509.Name, public_key: PublicKey, validity: Validity) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        # RFC 5280 4.2.1.2 method 1: what every verifier and linter expects; it identifies, it protects nothing.
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
    if validity.not_after > issuer.certificate.not_valid_after_utc:
        raise PkiError("a certificate must not outlive its issuer")
    return validity


def _hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None  # RFC 8410: the algorithm brings its own
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        return hashes.SHA384()
    return hashes.SHA256()


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
