"""Subjects, subject alternative names and usages, from plain values to X.509."""

import ipaddress
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyProfile

SPIFFE_SCHEME: Final = "spiffe://"
DEFAULT_USAGES: Final = ("digital signature", "server auth", "client auth")

_EXTENDED: Final = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
}
_BASIC: Final = frozenset(
    {"digital signature", "content commitment", "key encipherment", "data encipherment", "key agreement"}
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A distinguished name (RFC 5280 4.1.2.6)."""

    common_name: str
    organizations: tuple[str, ...] = ()
    organizational_units: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    provinces: tuple[str, ...] = ()
    localities: tuple[str, ...] = ()
    street_addresses: tuple[str, ...] = ()
    postal_codes: tuple[str, ...] = ()
    serial_number: str | None = None

    def to_x509(self) -> x509.Name:
        """Return the name, from country to common name. Raises PkiError when a part does not fit its attribute."""
        values = (
            (NameOID.COUNTRY_NAME, self.countries),
            (NameOID.STATE_OR_PROVINCE_NAME, self.provinces),
            (NameOID.LOCALITY_NAME, self.localities),
            (NameOID.STREET_ADDRESS, self.street_addresses),
            (NameOID.POSTAL_CODE, self.postal_codes),
            (NameOID.ORGANIZATION_NAME, self.organizations),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, self.organizational_units),
            (NameOID.SERIAL_NUMBER, (self.serial_number,) if self.serial_number else ()),
            (NameOID.COMMON_NAME, (self.common_name,) if self.common_name else ()),
        )
        try:
            return x509.Name([x509.NameAttribute(oid, value) for oid, group in values for value in group])
        except (ValueError, TypeError):
            raise PkiError("a subject field is too long or has characters that it can't have") from None


@dataclass(frozen=True, slots=True)
class SubjectAltNames:
    """What a leaf is for: its one SPIFFE ID (SPIFFE X.509-SVID 2), and the names that clients look for."""

    spiffe_id: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    email_addresses: tuple[str, ...] = ()

    def to_x509(self) -> x509.SubjectAlternativeName:
        """Return the extension. Raises PkiError on a second SPIFFE ID and on names that are not what they should be."""
        if not self.spiffe_id.startswith(SPIFFE_SCHEME) or any(u.lower().startswith(SPIFFE_SCHEME) for u in self.uris):
            raise PkiError("a leaf has exactly one SPIFFE ID")
        try:
            names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(self.spiffe_id)]
            names += (x509.DNSName(name) for name in self.dns_names)  # A-labels: refuses anything but ASCII
            names += (x509.IPAddress(ipaddress.ip_address(address)) for address in self.ip_addresses)
            names += (x509.UniformResourceIdentifier(uri) for uri in self.uris)
            names += (x509.RFC822Name(address) for address in self.email_addresses)
        except ValueError:
            raise PkiError("a subject alternative name can't be encoded") from None
        return x509.SubjectAlternativeName(names)


def key_usage(usages: tuple[str, ...], profile: KeyProfile) -> x509.KeyUsage:
    """Return a leaf's key usage: always digitalSignature, never keyCertSign or cRLSign (RFC 5280 4.2.1.3).

    Encipherment is left out for keys that can't do it (RFC 5480 3, RFC 8410 5), and key agreement for RSA (RFC 3279).
    """
    encipher = profile.algorithm is KeyAlgorithm.RSA
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment="content commitment" in usages,
        key_encipherment="key encipherment" in usages and encipher,
        data_encipherment="data encipherment" in usages and encipher,
        key_agreement="key agreement" in usages and profile.algorithm is KeyAlgorithm.ECDSA,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def extended_key_usage(usages: tuple[str, ...]) -> x509.ExtendedKeyUsage | None:
    """Return the extended key usages among `usages`, or None. Raises PkiError on a usage that nobody knows."""
    if unknown := [usage for usage in usages if usage not in _EXTENDED and usage not in _BASIC]:
        raise PkiError(f"{len(unknown)} of the usages are unknown")
    found = [oid for usage, oid in _EXTENDED.items() if usage in usages]
    return x509.ExtendedKeyUsage(found) if found else None
