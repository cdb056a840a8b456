"""A small certificate authority for tests: root, intermediate, leaves and revocation lists as the operator makes them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = timedelta(hours=1)
TRUST_DOMAIN = "shop.example"


def now():
    return datetime.now(UTC).replace(microsecond=0)


def spiffe_id(service):
    return f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/{service}"


def pem(*things):
    return b"".join(thing.public_bytes(Encoding.PEM) for thing in things)


def key_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(**wanted):
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


class Authority:
    """One that signs: a root, or below `parent`."""

    def __init__(self, name, parent=None, key=None):
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.parent = parent
        self.revoked = []
        extensions = [
            (x509.BasicConstraints(ca=True, path_length=None if parent is None else 0), True),
            (_usage(key_cert_sign=True, crl_sign=True), True),
        ]
        self.certificate = (parent or self).sign(self.name, self.key.public_key(), extensions)

    def sign(self, subject, public_key, extensions, begin=None, end=None):
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=begin or now() - HOUR,
            not_valid_after=end or now() + 24 * HOUR,
        )
        own = x509.SubjectKeyIdentifier.from_public_key(public_key)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        for extension, critical in (*extensions, (own, False), (issuer, False)):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def revocation_list(self, *leaves, end=None):
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self.name, last_update=now() - 2 * HOUR, next_update=end or now() + HOUR
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        for leaf in leaves:
            certificate = getattr(leaf, "certificate", leaf)
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(certificate.serial_number, now() - HOUR).build()
            )
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True)
class Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    pki: "Pki"

    def files(self, *, roots=None, lists=()):
        """What the operator puts into the Secret."""
        found = {
            "tls.crt": pem(self.certificate, self.pki.intermediate.certificate),
            "tls.key": key_pem(self.key),
            "ca.crt": roots or self.pki.roots,
        }
        return {**found, "ca.crl": pem(*lists)} if lists else found

    @property
    def serial(self):
        digits = f"{self.certificate.serial_number:x}"
        return "0" * (len(digits) % 2) + digits


class Pki:
    """Root, intermediate, and what they sign."""

    def __init__(self, name="Shop"):
        self.root = Authority(f"{name} Root")
        self.intermediate = Authority(f"{name} Intermediate", self.root)

    @cached_property
    def roots(self):
        return pem(self.root.certificate)

    def leaf(self, service="order-service", *, uris=None, dns=("localhost",), begin=None, end=None, names=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ([service] if names is None else names)]
        )
        alternative = [
            *(x509.DNSName(name) for name in dns),
            *(x509.UniformResourceIdentifier(uri) for uri in ([spiffe_id(service)] if uris is None else uris)),
        ]
        extensions = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        ]
        if alternative:
            extensions.append((x509.SubjectAlternativeName(alternative), False))
        return Leaf(self.intermediate.sign(subject, key.public_key(), extensions, begin, end), key, self)

    def lists(self, *revoked, end=None):
        """A list of each authority; `revoked` are on that of the intermediate."""
        return [self.intermediate.revocation_list(*revoked, end=end), self.root.revocation_list()]
