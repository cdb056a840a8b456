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
UNUSED_ANNOTATION: Final = "serviceidentity.dev/unused-since"
AUTHORITY_MISSING: Final = "AuthorityMissing"
AUTHORITY_UNREADABLE: Final = "AuthorityUnreadable"
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

    `key` is what it signs with. A locked one can't sign; its certificate is trusted and its life goes on all the same.
    `kek` names the key that its private key is encrypted with at rest: None for one in plain, empty when that can't be
    told.
    """

    role: Role
    generation: int
    view: SecretView
    certificate: x509.Certificate
    key: Issuer | Locked
    kek: str | None
    fingerprint: str
    published_at: datetime | None = None
    activated_at: datetime | None = None
    unused_since: datetime | None = None

    @property
    def issuer(self) -> Issuer:
        """What it signs with. Raises AuthorityLockedError."""
        if isinstance(self.key, Locked):
            raise AuthorityLockedError(f"the key of {self.view.name} can't be read: {self.key.message}")
        return self.key

    @property
    def not_before(self) -> datetime:
        """Start of validity."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of validity; nothing it signs lives longer."""
        return self.certificate.not_valid_after_utc

    @property
    def prepared_at(self) -> datetime:
        """When it was made."""
        return _time(self.view, PREPARED_ANNOTATION) or self.not_before

    def signed(self, other: "Authority") -> bool:
        """Say whether this one signed the other's certificate."""
        return _signed(other.certificate, self.certificate)


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
        chain, stored = view.value("tls.crt"), view.value("tls.key")
        certificate = certificates.load_chain(chain)[0]
        key: Issuer | Locked
        if not envelope.is_sealed(stored):
            key = certificates.load_issuer(chain, stored)
        elif isinstance(opened, KeyMaterial):
            key = certificates.load_issuer(chain, opened.reveal())
        else:
            key = opened or Locked("it is encrypted")
        fingerprint = certificates.facts(certificate).fingerprint
    except (KeyError, ValueError, PkiError):  # PkiError is a ValueError; named for the reader
        raise MalformedError(f"Secret {view.name} does not hold a readable authority") from None
    if not view.name.endswith(authority_name("", role, generation)):
        raise MalformedError(f"Secret {view.name} has the labels of another authority")
    return Authority(
        role,
        generation,
        view,
        certificate,
        key,
        _kek(stored),
        fingerprint,
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
    """Say whether the private key in a Secret is encrypted. Raises MalformedError when there is none."""
    return envelope.is_sealed(view.value("tls.key"))


def binding_for(role: Role, secret_name: str, trust_domain: str, chain: bytes) -> Binding:
    """Return what the private key of the first certificate of a PEM text belongs to. Raises PkiError."""
    fingerprint = certificates.facts(certificates.load_chain(chain)[0]).fingerprint
    return Binding(trust_domain, role.value, secret_name, fingerprint)


def _kek(stored: bytes) -> str | None:
    if not envelope.is_sealed(stored):
        return None
    try:
        return envelope.decode(stored).wrapped.kek
    except PkiError:
        return ""


@lru_cache(maxsize=1024)
def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    return certificates.signed_by(certificate, issuer)


def _time(view: SecretView, annotation: str) -> datetime | None:
    """Return a recorded time; one that can't be read has not been recorded."""
    try:
        return parse_time(view.annotations[annotation])
    except (KeyError, ValueError):
        return None
