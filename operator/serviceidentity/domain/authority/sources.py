"""Authorities that people bring along: what is in their Secret, and whether it can be used.

The operator reads that Secret and never writes it. What can be used is copied into a numbered Secret of its own, and
from there on lives like an authority that was made here. So what was copied goes on working while the Secret is broken
or gone, and a renewed one is published before it signs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from serviceidentity.domain import ownership
from serviceidentity.domain.authority.records import IMPORTED_ANNOTATION, SECRET_TYPE, Authority, Role
from serviceidentity.domain.authority.signing import record_of
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.pki.keys import PrivateKey
from serviceidentity.domain.pki.paths import Path, first_defect, path_to_root, remarks, unreadable, weak

KEYLESS_TYPE: Final = "Opaque"  # kubernetes.io/tls wants a key


@dataclass(frozen=True, slots=True)
class Source:
    """An authority that was not made here; `path` leads from it up to the root. `origin` is what is noted on copies."""

    origin: str
    path: Path

    @property
    def title(self) -> str:
        """Return how to speak of where it is."""
        return f"Secret {self.origin}"

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self.path.certificates[0]

    @property
    def root(self) -> x509.Certificate:
        """The root that its path leads to."""
        return self.path.certificates[-1]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What limits the certificates that it signs."""
        return remarks(self.path)

    def certificates_of(self, role: Role) -> bytes:
        """Return the tls.crt of our copy: of a root itself, of an intermediate the path up to the root."""
        return certificates.encode_chain(*([self.root] if role is Role.ROOT else self.path.certificates))

    def key_of(self, _role: Role) -> PrivateKey | None:
        """Return the key that came with it, or with the root above it; None when that is elsewhere."""
        return None

    @property
    def has_intermediate(self) -> bool:
        """Say whether the authority itself is an intermediate that is copied, and not only the root above it."""
        return False

    def records_of(self, _role: Role) -> dict[str, str]:
        """Return what is written down on our copy besides where it is from."""
        return {}

    def is_copied_to(self, authority: Authority | None) -> bool:
        """Say whether the authority is our copy of it, or of the root above it."""
        if authority is None or (not authority.key_is_here and self.key_of(authority.role) is not None):
            return False
        return authority.view.value("tls.crt") == self.certificates_of(authority.role)


@dataclass(frozen=True, slots=True)
class Brought(Source):
    """An authority that people brought along in a Secret, and that can be used."""

    role: Role
    key: PrivateKey = field(repr=False)

    @property
    def has_intermediate(self) -> bool:
        return self.role is Role.INTERMEDIATE

    def key_of(self, role: Role) -> PrivateKey | None:
        return self.key if role is self.role else None


def brought_role(domain: TrustDomain) -> Role | None:
    """Return the role of the authority that people bring along, if they do."""
    if domain.intermediate.secret_name is not None:
        return Role.INTERMEDIATE
    return Role.ROOT if domain.root.secret_name is not None else None


def imported_role(domain: TrustDomain) -> Role | None:
    """Return the role of the authority that is copied, with the roots above it, from where it is kept; None: none."""
    return Role.INTERMEDIATE if domain.leaves is not None else brought_role(domain)


def read_brought(domain: TrustDomain, view: SecretView | None, now: datetime) -> Brought | Held | None:
    """Read the authority that people bring along; Held says what is wrong with it, None that they bring none."""
    role, name = brought_role(domain), domain.brought_secret
    if role is None or name is None:
        return None
    if view is None:
        return Held("SecretMissing", f"Secret {name} does not exist in the operator's namespace")
    if view.labels.get(ownership.MANAGED_BY_LABEL) == ownership.MANAGED_BY:
        return Held("NotAllowed", f"Secret {name} is one of the operator's own")
    try:
        path = _path(view, role, now)
        key = _key(view, path)
    except Unusable as unusable:
        return Held(unusable.reason, f"Secret {name}: {unusable.message}")
    return Brought(name, path, role, key)


class Unusable(Exception):  # noqa: N818  # not an error: a problem to report
    """What is wrong with an authority that people brought along."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def _path(view: SecretView, role: Role, now: datetime) -> Path:
    for entry in ("tls.crt", "tls.key"):
        if not view.data.get(entry):
            raise Unusable("MissingData", f"{entry} is missing")
    try:
        found = certificates.load_chain(view.value("tls.crt"))
        others = certificates.load_chain(view.value("ca.crt")) if view.data.get("ca.crt") else ()
    except (PkiError, MalformedError):
        raise Unusable("InvalidCertificate", "tls.crt or ca.crt does not hold readable certificates") from None
    path = Path(path_to_root(found[0], (*found[1:], *others), now), tiers_below=1 if role is Role.ROOT else 0)
    if (defect := unreadable(path, now) or weak(path, now)) is not None:
        raise Unusable(defect.reason, defect.message)  # a broken signature can't be verified either
    own_root = certificates.signed_by(found[0], found[0])
    if role is Role.ROOT and not own_root:
        elsewhere = "bring it along as spec.intermediate.secretRef"
        raise Unusable("NotARoot", f"another authority has signed the certificate; {elsewhere}")
    if role is Role.INTERMEDIATE and own_root:
        raise Unusable("NotAnIntermediate", "the certificate is a root; bring it along as spec.root.secretRef")
    if (defect := first_defect(path, now)) is not None:
        raise Unusable(defect.reason, defect.message)
    return path


def _key(view: SecretView, path: Path) -> PrivateKey:
    try:
        key = keys.load(view.value("tls.key"))
    except (PkiError, MalformedError):
        raise Unusable("InvalidKeyPair", "tls.key does not hold a readable key without a password") from None
    if not certificates.key_matches(path.certificates[0], key):
        raise Unusable("InvalidKeyPair", "the key does not belong to the certificate")
    return key


def judged(
    source: Source | Held | None, authorities: Iterable[Authority], tainted: Iterable[str]
) -> Source | Held | None:
    """Return what was read, unless it is not to be trusted: it, or another with the same key, is listed as tainted."""
    if not isinstance(source, Source):
        return source
    listed = set(tainted)
    others = [authority.certificate for authority in authorities if authority.fingerprint in listed]
    for one in source.path.certificates:
        if certificates.fingerprint(one) in listed or any(certificates.same_key(one, other) for other in others):
            message = f"{source.title}: it, or another certificate for the same key, is tainted"
            return Held("Tainted", message)
    return source


def copy_of(
    source: Source, domain: TrustDomain, role: Role, now: datetime, root: Authority | None = None, *, activate: bool
) -> SecretContent:
    """Return the content of our copy of the authority, or of the root above it; `root` is that root's copy."""
    data = {"tls.crt": source.certificates_of(role), "ca.crt": certificates.encode_chain(source.root)}
    if (key := source.key_of(role)) is not None:
        data["tls.key"] = keys.encode(key, keys.KeyEncoding.PKCS8)
    record = record_of(domain, role, now, root, activate=activate)
    type_ = SECRET_TYPE if "tls.key" in data else KEYLESS_TYPE
    return SecretContent.of(type_, data, record | source.records_of(role) | {IMPORTED_ANNOTATION: source.origin})
