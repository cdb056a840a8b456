"""Subjects, subject alternative names and usages, from plain values to X.509."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

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

# RFC 5280 appendix A.1, the upper bounds; cryptography checks those of country and common name, the latter in bytes.
_LIMITS: Final = {
    NameOID.COUNTRY_NAME: 2,
    NameOID.STATE_OR_PROVINCE_NAME: 128,
    NameOID.LOCALITY_NAME: 128,
    NameOID.STREET_ADDRESS: 128,
    NameOID.POSTAL_CODE: 40,
    NameOID.ORGANIZATION_NAME: 64,
    NameOID.ORGANIZATIONAL_UNIT_NAME: 64,
    NameOID.SERIAL_NUMBER: 64,
    NameOID.COMMON_NAME: 64,
}
_ALPHABETS: Final = {
    NameOID.COUNTRY_NAME: re.compile(r"[A-Z]{2}"),  # ISO 3166-1
    NameOID.SERIAL_NUMBER: re.compile(r"[A-Za-z0-9 '()+,./:=?-]+"),  # PrintableString
}
_PLAIN_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"
# RFC 5280 4.2.1.6 with RFC 1034 3.5, and "*" as the whole first label (RFC 6125 6.4.3). Other scripts as A-labels.
_QUOTED: Final = 80
_DNS_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_HOST}")
# RFC 2821 4.1.2, the dot-string form.
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL: Final = re.compile(rf"(?=.{{1,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_HOST}")
# RFC 3986: absolute, in its alphabet.
_URI: Final = re.compile(
    r"(?=.{1,2048}\Z)[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
)
# SPIFFE-ID 2: no user, port, query, fragment or percent-encoding, and no empty, "." or ".." segments; a leaf has a
# path (X.509-SVID 3). Go's crypto/x509 refuses to parse a certificate whose URI has an empty label in its host.
_TRUST_DOMAIN: Final = r"(?=[^/]{1,255}/)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_SPIFFE_ID: Final = re.compile(rf"(?=.{{1,2048}}\Z)spiffe://{_TRUST_DOMAIN}(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._-]+)+")


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
        """Return the name, from country to common name. Raises PkiError when a part does not fit its attribute.

        A common name of "" is left out; whether there has to be something else instead is for the caller to say.
        """
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
        return x509.Name([_attribute(oid, value) for oid, group in values for value in group])


@dataclass(frozen=True, slots=True)
class SubjectAltNames:
    """What a leaf is for: its one SPIFFE ID, and the names that clients look for.

    X.509-SVID 2 allows no URI besides: with `uris` a leaf is good for mutual TLS, but SPIFFE libraries refuse it.
    """

    spiffe_id: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    email_addresses: tuple[str, ...] = ()

    def to_x509(self) -> x509.SubjectAlternativeName:
        """Return the extension. Raises PkiError on a second SPIFFE ID and on names that are not what they should be."""
        if not _SPIFFE_ID.fullmatch(self.spiffe_id):
            raise PkiError("not a SPIFFE ID with a trust domain and a path")
        if any(uri.lower().startswith("spiffe:") for uri in self.uris):
            raise PkiError("a leaf has exactly one SPIFFE ID")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(self.spiffe_id)]
        names += (_dns_name(name) for name in self.dns_names)
        names += (_ip_address(address) for address in self.ip_addresses)
        names += (_uri(uri) for uri in self.uris)
        names += (_email_address(address) for address in self.email_addresses)
        return x509.SubjectAlternativeName(names)


@dataclass(frozen=True, slots=True)
class PlainNames:
    """The names of a leaf that is no SPIFFE identity; there may be none."""

    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()

    def to_x509(self) -> x509.SubjectAlternativeName | None:
        """Return the extension, which can't be empty (RFC 5280 4.2.1.6). Raises PkiError on what is no such name."""
        names: list[x509.GeneralName] = [_dns_name(name) for name in self.dns_names]
        names += (_ip_address(address) for address in self.ip_addresses)
        names += (_uri(uri) for uri in self.uris)
        return x509.SubjectAlternativeName(names) if names else None


def is_dns_name(name: str) -> bool:
    """Say whether a certificate can have this as a DNS name."""
    return _DNS_NAME.fullmatch(name) is not None


def is_spiffe_id(text: str) -> bool:
    """Say whether this is a SPIFFE ID that a leaf can have: with a trust domain and a path."""
    return _SPIFFE_ID.fullmatch(text) is not None


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


def _attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    problem = PkiError(f"the subject's {oid._name} is empty, too long or has characters that it can't have")  # noqa: SLF001
    if len(value) > _LIMITS[oid] or not _ALPHABETS.get(oid, _PLAIN_TEXT).fullmatch(value):
        raise problem
    try:
        return x509.NameAttribute(oid, value)
    except (ValueError, TypeError):
        raise problem from None


def _quoted(text: str) -> str:
    """Return the start of what the user wrote, for a message."""
    return ascii(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def _dns_name(name: str) -> x509.DNSName:
    if not _DNS_NAME.fullmatch(name):
        raise PkiError(f"DNS name {_quoted(name)} is not one, or not in its ASCII form")
    return x509.DNSName(name)


def _ip_address(address: str) -> x509.IPAddress:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise PkiError(f"IP address {_quoted(address)} is not one") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise PkiError(f"IP address {_quoted(address)} has a zone, which a certificate can't say")
    return x509.IPAddress(parsed)


def _uri(uri: str) -> x509.UniformResourceIdentifier:
    try:
        if not _URI.fullmatch(uri):
            raise PkiError("not an absolute URI")
        parts = urlsplit(uri)
        _ = parts.port  # raises when it is not a number
        # RFC 5280 4.2.1.6: an authority has a domain name or an IP address as its host.
        if parts.netloc and not _is_host(parts.hostname or ""):
            raise PkiError("no host in a URI")
    except ValueError:
        raise PkiError(f"URI {_quoted(uri)} is not absolute, or its host is none") from None
    return x509.UniformResourceIdentifier(uri)


def _is_host(host: str) -> bool:
    if ":" in host:
        return ipaddress.IPv6Address(host).scope_id is None
    return re.fullmatch(_HOST, host) is not None


def _email_address(address: str) -> x509.RFC822Name:
    if not _EMAIL.fullmatch(address):
        raise PkiError(f"e-mail address {_quoted(address)} is not one in ASCII")
    return x509.RFC822Name(address)
