"""Authorities as a company's own PKI makes them, with everything that can be wrong with one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from tests.unit.pki.builders import DAY, T0

USAGE = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # its own signature


@dataclass(frozen=True)
class Company:
    """One authority. `signed_by` makes one below it; a test changes only what it is about."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    above: "Company | None" = None

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *(self.above.path if self.above else ()))

    def secret(self, *, chain_in_ca: bool = False) -> dict[str, bytes]:
        """What people put into a Secret."""
        upper = [pem(one) for one in self.path[1:]]
        data = {
            "tls.crt": pem(self.certificate) + (b"" if chain_in_ca else b"".join(upper)),
            "tls.key": key_pem(self.key),
        }
        return data | ({"ca.crt": b"".join(upper)} if chain_in_ca else {})

    def renewed(self, begins: datetime, lives: timedelta) -> "Company":
        """The same key under new dates; what it signed stays good."""
        made = company(
            str(self.certificate.subject.rdns[0].rfc4514_string())[3:],
            self.above,
            key=self.key,
            begins=begins,
            lives=lives,
        )
        return replace(made, above=self.above)


def company(
    name: str = "Company root",
    above: Company | None = None,
    *,
    key: object = None,
    begins: datetime = T0 - DAY,
    lives: timedelta = 3650 * DAY,
    path_length: int | None = None,
    ca: bool | None = True,
    usage: x509.KeyUsage | None = USAGE,
    key_id: bool = True,
    digest: hashes.HashAlgorithm | None = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> Company:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lives)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if key_id:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signer = above.key if above else key
    digest = digest or (None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return Company(builder.sign(signer, digest), key, above)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: object, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def without(data: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in data.items() if key != name}
