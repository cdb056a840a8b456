"""A hierarchy for tests, of any key profile."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Issuer, Subject, SubjectAltNames, Validity
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyProfile, PrivateKey

NOW = datetime.now(UTC).replace(microsecond=0)
PROFILES = [
    KeyProfile(KeyAlgorithm.ECDSA, 256),
    KeyProfile(KeyAlgorithm.ECDSA, 384),
    KeyProfile(KeyAlgorithm.RSA, 2048),
    KeyProfile(KeyAlgorithm.ED25519),
]
SPIFFE_ID = "spiffe://example.org/ns/shop/sa/order-service"
_KEYS: dict[KeyProfile, PrivateKey] = {}


def validity(days: float) -> Validity:
    return Validity(NOW - timedelta(minutes=5), NOW + timedelta(days=days))


def key_of(profile: KeyProfile) -> PrivateKey:
    """A key of the profile, made once: what is tested here is not key generation."""
    return _KEYS.setdefault(profile, keys.generate(profile))


@dataclass(frozen=True)
class Hierarchy:
    root: Issuer
    intermediate: Issuer

    def leaf(self, profile: KeyProfile = PROFILES[0], **changes: Any) -> x509.Certificate:
        request: dict[str, Any] = {
            "subject": Subject("order-service", organizations=("Shop",), countries=("NL",)),
            "names": SubjectAltNames(SPIFFE_ID, ("order-service.shop.svc",), ("10.0.0.1", "2001:db8::1")),
            "usages": certificates.DEFAULT_USAGES,
            "public_key": key_of(profile).public_key(),
            "validity": validity(1),
        }
        return certificates.issue_leaf(**(request | {"issuer": self.intermediate} | changes))

    def pem(self, leaf: x509.Certificate) -> tuple[bytes, bytes]:
        """tls.crt and ca.crt."""
        chain = certificates.encode_chain(leaf, *self.intermediate.chain)
        return chain, certificates.encode_chain(self.root.certificate)


def hierarchy(profile: KeyProfile = PROFILES[0]) -> Hierarchy:
    root_key, key = keys.generate(profile), keys.generate(profile)
    root = Issuer(certificates.issue_root(Subject("root"), root_key, validity(100)), root_key)
    certificate = certificates.issue_intermediate(Subject("intermediate"), key.public_key(), root, validity(50))
    intermediate = certificates.load_issuer(
        certificates.encode_chain(certificate), keys.encode(key, keys.KeyEncoding.PKCS8)
    )
    return Hierarchy(root, intermediate)
