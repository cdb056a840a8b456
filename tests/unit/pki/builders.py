"""Valid objects; a test changes only what it is about. Key material stays out of every assertion message."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509

from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Issuer, Subject, SubjectAltNames, Validity
from serviceidentity.domain.pki.keys import KeyAlgorithm, KeyProfile, PrivateKey

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SPIFFE_ID = "spiffe://example.org/ns/shop/sa/order-service"
NAMES = SubjectAltNames(SPIFFE_ID, dns_names=("order-service", "order-service.shop.svc"))
SUBJECT = Subject("order-service")

P256 = KeyProfile()
P384 = KeyProfile(KeyAlgorithm.ECDSA, 384)
RSA = KeyProfile(KeyAlgorithm.RSA, 2048)
ED25519 = KeyProfile(KeyAlgorithm.ED25519)
PROFILES = (P256, P384, RSA, KeyProfile(KeyAlgorithm.RSA, 3072), KeyProfile(KeyAlgorithm.RSA, 4096), ED25519)


def title(profile: KeyProfile) -> str:
    return f"{profile.algorithm}-{profile.size}" if profile.size else str(profile.algorithm)


@cache
def key_for(role: str, profile: KeyProfile = P256) -> PrivateKey:
    """One key a role and profile for the whole run: RSA keys take their time."""
    return keys.generate(profile)


def prepare_keys() -> None:
    """Make the keys of all roles at once; OpenSSL looks for primes outside the interpreter's lock."""
    wanted = [(role, profile) for profile in reversed(PROFILES) for role in ("root", "intermediate", "leaf")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda pair: key_for(*pair), wanted))


@dataclass(frozen=True)
class Hierarchy:
    root: Issuer
    intermediate: Issuer


@cache
def hierarchy(
    root: KeyProfile = P256, intermediate: KeyProfile | None = None, begins: datetime = T0, label: str = ""
) -> Hierarchy:
    below = intermediate or root
    root_key, intermediate_key = key_for("root" + label, root), key_for("intermediate" + label, below)
    root_validity, intermediate_validity = Validity(begins, begins + 3650 * DAY), Validity(begins, begins + 365 * DAY)
    certificate = certificates.issue_root(Subject("example root", ("Example",)), root_key, root_validity)
    top = Issuer(certificate, root_key)
    subject = Subject("example intermediate", ("Example",))
    lower = certificates.issue_intermediate(subject, intermediate_key.public_key(), top, intermediate_validity)
    return Hierarchy(top, Issuer(lower, intermediate_key, (lower,)))


def leaf(
    issuer: Issuer | None = None,
    key: PrivateKey | None = None,
    subject: Subject = SUBJECT,
    names: SubjectAltNames = NAMES,
    usages: tuple[str, ...] = certificates.DEFAULT_USAGES,
    validity: Validity | None = None,
    **changed: object,
) -> x509.Certificate:
    """A leaf; keywords beside the parameters change its alternative names."""
    issuer = issuer or hierarchy().intermediate
    begins = issuer.certificate.not_valid_before_utc
    return certificates.issue_leaf(
        subject,
        replace(names, **changed),  # type: ignore[arg-type]
        usages,
        (key or key_for("leaf")).public_key(),
        issuer,
        validity or Validity(begins, begins + DAY),
    )
