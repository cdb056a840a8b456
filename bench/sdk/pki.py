"""A root, an intermediate, a leaf of each service and a revocation list, mounted as the operator's Secret is."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HOUR: Final = timedelta(hours=1)
Files = dict[str, bytes]


def spiffe_id(service: str) -> str:
    """Return the SPIFFE ID of a service."""
    return f"spiffe://bench.example/ns/shop/sa/{service}"


class Authority:
    """A root, or an intermediate below `parent`."""

    def __init__(self, name: str, parent: "Authority | None" = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0 if parent else None)
        usage = _usage(signs_certificates=True)
        self.certificate = (parent or self).signed(self.name, self.key, [(constraints, True), (usage, True)])

    def signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        """Return a certificate for a day."""
        now = datetime.now(UTC).replace(microsecond=0)
        builder = x509.CertificateBuilder(
            self.name, subject, key.public_key(), x509.random_serial_number(), now - _HOUR, now + 24 * _HOUR
        )
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        for extension, critical in (*extensions, (own, False), (issuer, False)):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def revocations(self, count: int) -> bytes:
        """Return a revocation list with so many entries, in PEM."""
        now = datetime.now(UTC).replace(microsecond=0)
        builder = x509.CertificateRevocationListBuilder(self.name, now - _HOUR, now + 24 * _HOUR)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        for _ in range(count):
            entry = x509.RevokedCertificateBuilder(x509.random_serial_number(), now - _HOUR)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    leaf, authority = not signs_certificates, signs_certificates
    return x509.KeyUsage(leaf, False, False, False, False, authority, authority, False, False)


class Pki:
    """One chain of authorities."""

    def __init__(self) -> None:
        self.root = Authority("Bench Root")
        self.intermediate = Authority("Bench Intermediate", self.root)

    def files(self, service: str, *, revoked: int | None = None) -> Files:
        """Return what is in the Secret of a service; with `revoked`, with lists of so many entries."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.UniformResourceIdentifier(spiffe_id(service))]
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        leaf = self.intermediate.signed(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)]),
            key,
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_usage(signs_certificates=False), True),
                (both, False),
                (x509.SubjectAlternativeName(names), False),
            ],
        )
        chain = [one.public_bytes(Encoding.PEM) for one in (leaf, self.intermediate.certificate)]
        found = {
            "tls.crt": b"".join(chain),
            "tls.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "ca.crt": self.root.certificate.public_bytes(Encoding.PEM),
        }
        if revoked is None:
            return found
        return found | {"ca.crl": self.intermediate.revocations(revoked) + self.root.revocations(0)}


class Mounted:
    """A directory as the kubelet makes it: `..data` points at one of several versions."""

    def __init__(self, path: Path, *versions: Files) -> None:
        self.path = path
        self._at = 0
        self._names = [f"..version{number}" for number in range(len(versions))]
        for name, files in zip(self._names, versions, strict=True):
            (path / name).mkdir(parents=True)
            for file, content in files.items():
                (path / name / file).write_bytes(content)
        (path / "..data").symlink_to(self._names[0])
        for file in versions[0]:
            (path / file).symlink_to(f"..data/{file}")

    def swap(self) -> None:
        """Point at the next version."""
        self._at = (self._at + 1) % len(self._names)
        new = self.path / "..data_tmp"
        new.symlink_to(self._names[self._at])
        new.rename(self.path / "..data")
