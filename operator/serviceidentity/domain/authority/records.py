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

from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import Issuer
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
class Authority:
    """An authority as found in its Secret. The times are those of its life, None for what has not happened yet."""

    role: Role
    generation: int
    view: SecretView
    issuer: Issuer
    fingerprint: str
    published_at: datetime | None = None
    activated_at: datetime | None = None
    unused_since: datetime | None = None

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self.issuer.certificate

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


def read_authority(view: SecretView) -> Authority:
    """Read an authority from its Secret. Raises MalformedError with what is wrong."""
    try:
        role = Role(view.labels[ROLE_LABEL])
        generation = int(view.labels[GENERATION_LABEL])
        issuer = certificates.load_issuer(view.value("tls.crt"), view.value("tls.key"))
        fingerprint = certificates.facts(issuer.certificate).fingerprint
    except (KeyError, ValueError, PkiError):  # PkiError is a ValueError; named for the reader
        raise MalformedError(f"Secret {view.name} does not hold a readable authority") from None
    if not view.name.endswith(authority_name("", role, generation)):
        raise MalformedError(f"Secret {view.name} has the labels of another authority")
    return Authority(
        role,
        generation,
        view,
        issuer,
        fingerprint,
        _time(view, PUBLISHED_ANNOTATION),
        _time(view, ACTIVATED_ANNOTATION),
        _time(view, UNUSED_ANNOTATION),
    )


def newest(authorities: Iterable[Authority], role: Role) -> Authority | None:
    """Return the authority of the role with the highest generation."""
    return max((a for a in authorities if a.role is role), key=lambda a: a.generation, default=None)


def made_for(authority: Authority, domain: TrustDomain) -> str:
    """Return the SPIFFE trust domain that an authority was made for."""
    return authority.view.annotations.get(SPIFFE_DOMAIN_ANNOTATION, domain.trust_domain)


@lru_cache(maxsize=1024)
def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    return certificates.signed_by(certificate, issuer)


def _time(view: SecretView, annotation: str) -> datetime | None:
    """Return a recorded time; one that can't be read has not been recorded."""
    try:
        return parse_time(view.annotations[annotation])
    except (KeyError, ValueError):
        return None
