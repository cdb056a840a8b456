"""What an authority is, and how it is kept: one Secret each, with its life written down on it.

Authorities are numbered: `<trust domain>-root-1`, `<trust domain>-intermediate-1`, ... The number makes the name of the
next one certain, so two operators that both decide to make it collide on one Secret instead of making two.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography import x509

from serviceidentity.domain.authority import remote
from serviceidentity.domain.authority.remote import RemoteIssuer
from serviceidentity.domain.material import KeyMaterial, MalformedError, SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import certificates, envelope
from serviceidentity.domain.pki.certificates import Issuer
from serviceidentity.domain.pki.envelope import Binding
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import parse_time

ROLE_LABEL: Final = "serviceidentity.dev/authority-role"
GENERATION_LABEL: Final = "serviceidentity.dev/authority-generation"
SPIFFE_DOMAIN_ANNOTATION: Final = "serviceidentity.dev/spiffe-trust-domain"
PREPARED_ANNOTATION: Final = "serviceidentity.dev/prepared-at"
PUBLISHED_ANNOTATION: Final = "serviceidentity.dev/published-at"
ACTIVATED_ANNOTATION: Final = "serviceidentity.dev/activated-at"
ROOT_ANNOTATION: Final = "serviceidentity.dev/root-generation"  # the root that an intermediate was made for
UNUSED_ANNOTATION: Final = "serviceidentity.dev/unused-since"
IMPORTED_ANNOTATION: Final = "serviceidentity.dev/imported-from"  # the name of a Secret, or vault:<mount>
AUTHORITY_MISSING: Final = "AuthorityMissing"
AUTHORITY_UNREADABLE: Final = "AuthorityUnreadable"
_MOST_DIGITS: Final = 10
SECRET_TYPE: Final = "kubernetes.io/tls"  # noqa: S105  # a Secret's type, not a secret


class Role(StrEnum):
    """What an authority signs: a root signs intermediates, an intermediate signs leaves."""

    ROOT = "Root"
    INTERMEDIATE = "Intermediate"


class AuthorityState(StrEnum):
    """Where an authority is in its life."""

    PREPARED = "Prepared"  # trusted, signs nothing yet
    ACTIVE = "Active"  # signs
    RETIRING = "Retiring"  # signs nothing any more; trusted while what it signed may live
    TAINTED = "Tainted"  # not to be trusted: what it signed is replaced, then it goes
    EXPIRED = "Expired"


@dataclass(frozen=True, slots=True)
class Locked:
    """The private key of an authority can't be read now, and why."""

    message: str


class AuthorityLockedError(PkiError):
    """A signature was asked of an authority whose private key can't be read now."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority as found in its Secret. The times are those of its life, None for what has not happened yet.

    `path` is its certificate and those above it as far as they are stored with it: of an intermediate that was brought
    along, up to the root. `chain` ends before. `key` is what it signs with: None for a root whose key is elsewhere, a
    RemoteIssuer for an intermediate that signs leaves at Vault. A locked one can't sign; its certificate is trusted and
    its life goes on all the same. `kek` names the key that its private key is encrypted with at rest: None for one in
    plain, empty when that can't be told.
    """

    role: Role
    generation: int
    view: SecretView
    certificate: x509.Certificate
    path: tuple[x509.Certificate, ...]
    chain: tuple[x509.Certificate, ...]
    key: Issuer | RemoteIssuer | Locked | None
    kek: str | None
    fingerprint: str
    published_at: datetime | None = None
    activated_at: datetime | None = None
    unused_since: datetime | None = None

    @property
    def issuer(self) -> Issuer:
        """What it signs with. Raises AuthorityLockedError, and PkiError when its key is elsewhere."""
        if isinstance(self.key, Locked):
            raise AuthorityLockedError(f"the key of {self.view.name} can't be read: {self.key.message}")
        if not isinstance(self.key, Issuer):
            raise PkiError(f"the key of {self.view.name} is elsewhere")
        return self.key

    @property
    def key_is_here(self) -> bool:
        """Say whether its private key is in its Secret, readable now or not."""
        return isinstance(self.key, Issuer | Locked)

    @property
    def not_before(self) -> datetime:
        """Start of validity."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of validity; nothing it signs lives longer."""
        return min(certificate.not_valid_after_utc for certificate in self.path)

    @property
    def root_generation(self) -> int:
        """Generation of the root that an intermediate was made for; 0 when it is not on record."""
        text = self.view.annotations.get(ROOT_ANNOTATION, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS else 0

    @property
    def imported_from(self) -> str | None:
        """Where it was copied from: the name of a Secret, or vault:<mount>; None for one that was made here."""
        return self.view.annotations.get(IMPORTED_ANNOTATION)

    @property
    def prepared_at(self) -> datetime:
        """When it was made."""
        return _time(self.view, PREPARED_ANNOTATION) or self.not_before

    def signed(self, other: "Authority") -> bool:
        """Say whether this one signed the other's certificate, or the last one of the chain above it."""
        return other.role is Role.INTERMEDIATE and _signed(other.chain[-1], self.certificate)

    def has_key_of(self, other: "Authority") -> bool:
        """Say whether both have the same public key, as when a certificate was renewed for the same key."""
        return _same_key(self.certificate, other.certificate)


@dataclass(frozen=True, slots=True)
class Usage:
    """What is known about the use of a trust domain's authorities at the moment.

    `published` says whether everyone who gets the trust bundle has the current one; `waiting_for` names some who do
    not. `leaves` has, by the fingerprint of the intermediate that signed, when the last certificate in use ends.
    """

    published: bool = True
    waiting_for: tuple[str, ...] = ()
    leaves: dict[str, datetime] = field(default_factory=dict)


def authority_name(domain: str, role: Role, generation: int) -> str:
    """Return the name of an authority's Secret."""
    return f"{domain}-{role.lower()}-{generation}"


def read_authority(view: SecretView, opened: KeyMaterial | Locked | None = None) -> Authority:
    """Read an authority from its Secret; `opened` is the private key, when the Secret has it encrypted.

    Raises MalformedError with what is wrong.
    """
    try:
        role = Role(view.labels[ROLE_LABEL])
        generation = int(view.labels[GENERATION_LABEL])
        path = certificates.load_chain(view.value("tls.crt"))
        keyless = "tls.key" not in view.data and IMPORTED_ANNOTATION in view.annotations
        key = _key_elsewhere(role, view, path) if keyless else _key(view, opened)
    except (KeyError, ValueError, PkiError):  # PkiError is a ValueError; named for the reader
        raise MalformedError(f"Secret {view.name} does not hold a readable authority") from None
    if not view.name.endswith(authority_name("", role, generation)):
        raise MalformedError(f"Secret {view.name} has the labels of another authority")
    return Authority(
        role,
        generation,
        view,
        path[0],
        path,
        certificates.without_root(path),
        key,
        None if keyless else _kek(view.value("tls.key")),
        certificates.fingerprint(path[0]),
        _time(view, PUBLISHED_ANNOTATION),
        _time(view, ACTIVATED_ANNOTATION),
        _time(view, UNUSED_ANNOTATION),
    )


def newest(authorities: Iterable[Authority], role: Role) -> Authority | None:
    """Return the authority of the role with the highest generation."""
    return max((a for a in authorities if a.role is role), key=lambda a: a.generation, default=None)


def made_for(view: SecretView, domain: TrustDomain) -> str:
    """Return the SPIFFE trust domain that an authority was made for."""
    return view.annotations.get(SPIFFE_DOMAIN_ANNOTATION, domain.trust_domain)


def binding_of(view: SecretView, domain: TrustDomain) -> Binding:
    """Return what the private key in an authority's Secret belongs to. Raises MalformedError."""
    try:
        return binding_for(Role(view.labels[ROLE_LABEL]), view.name, made_for(view, domain), view.value("tls.crt"))
    except (KeyError, ValueError):
        raise MalformedError(f"Secret {view.name} does not hold a readable authority") from None


def is_sealed(view: SecretView) -> bool:
    """Say whether the private key in a Secret, if there is one, is encrypted. Raises MalformedError."""
    return "tls.key" in view.data and envelope.is_sealed(view.value("tls.key"))


def binding_for(role: Role, secret_name: str, trust_domain: str, chain: bytes) -> Binding:
    """Return what the private key of the first certificate of a PEM text belongs to. Raises PkiError."""
    fingerprint = certificates.facts(certificates.load_chain(chain)[0]).fingerprint
    return Binding(trust_domain, role.value, secret_name, fingerprint)


def _key(view: SecretView, opened: KeyMaterial | Locked | None) -> Issuer | Locked:
    """Return what the authority in a Secret signs with. Raises MalformedError and PkiError."""
    chain, stored = view.value("tls.crt"), view.value("tls.key")
    if not envelope.is_sealed(stored):
        return certificates.load_issuer(chain, stored)
    if isinstance(opened, KeyMaterial):
        return certificates.load_issuer(chain, opened.reveal())
    return opened or Locked("it is encrypted")


def _key_elsewhere(role: Role, view: SecretView, path: tuple[x509.Certificate, ...]) -> RemoteIssuer | None:
    """Return how an authority without a key here signs; None for a root. Raises ValueError."""
    if role is Role.ROOT:
        return None
    return remote.read(view.annotations, view.annotations[IMPORTED_ANNOTATION], path)


def _kek(stored: bytes) -> str | None:
    if not envelope.is_sealed(stored):
        return None
    try:
        return envelope.decode(stored).wrapped.kek
    except PkiError:
        return ""


@lru_cache(maxsize=1024)
def _same_key(one: x509.Certificate, other: x509.Certificate) -> bool:
    return certificates.same_key(one, other)


@lru_cache(maxsize=1024)
def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    return certificates.signed_by(certificate, issuer)


def _time(view: SecretView, annotation: str) -> datetime | None:
    """Return a recorded time; one that can't be read has not been recorded."""
    try:
        return parse_time(view.annotations[annotation])
    except (KeyError, ValueError):
        return None
