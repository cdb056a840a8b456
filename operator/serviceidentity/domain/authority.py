"""Certificate authorities of a trust domain: what is there, what should be made next, who signs.

Authorities are numbered: `<trust domain>-root-1`, `<trust domain>-intermediate-1`, ... The number makes the name of the
next one certain, so two operators that both decide to make it collide on one Secret instead of making two.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509

from serviceidentity.domain import ownership
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import AuthoritySpec, TrustDomain
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Issuer, Subject, Validity
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import earliest, renewal_time

ROLE_LABEL: Final = "serviceidentity.dev/authority-role"
GENERATION_LABEL: Final = "serviceidentity.dev/authority-generation"
SPIFFE_DOMAIN_ANNOTATION: Final = "serviceidentity.dev/spiffe-trust-domain"
SECRET_TYPE: Final = "kubernetes.io/tls"  # noqa: S105  # a Secret's type, not a secret


class Role(StrEnum):
    """What an authority signs: a root signs intermediates, an intermediate signs leaves."""

    ROOT = "Root"
    INTERMEDIATE = "Intermediate"


class AuthorityState(StrEnum):
    """Where an authority is in its life."""

    ACTIVE = "Active"
    RETIRING = "Retiring"
    EXPIRED = "Expired"


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority as found in its Secret."""

    role: Role
    generation: int
    view: SecretView
    issuer: Issuer

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


@dataclass(frozen=True, slots=True)
class MakeAuthority:
    """Make an authority and store it under `secret_name`."""

    role: Role
    generation: int
    secret_name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RetireAuthority:
    """Delete an authority that nothing in use depends on any more."""

    secret_name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Trust:
    """What an identity needs of its trust domain: who signs now, and which roots to trust."""

    domain: TrustDomain
    issuer: Issuer
    roots: tuple[x509.Certificate, ...]
    bundle: bytes = field(repr=False)


def authority_name(domain: str, role: Role, generation: int) -> str:
    """Return the name of an authority's Secret."""
    return f"{domain}-{role.lower()}-{generation}"


def read_authority(view: SecretView) -> Authority:
    """Read an authority from its Secret. Raises MalformedError with what is wrong."""
    try:
        role = Role(view.labels[ROLE_LABEL])
        generation = int(view.labels[GENERATION_LABEL])
        issuer = certificates.load_issuer(view.value("tls.crt"), view.value("tls.key"))
    except (KeyError, ValueError, PkiError):  # PkiError is a ValueError; named for the reader
        raise MalformedError(f"Secret {view.name} does not hold a readable authority") from None
    return Authority(role, generation, view, issuer)


def state_of(authority: Authority, newest: Authority, now: datetime) -> AuthorityState:
    """Return an authority's state: the newest of its role signs, the others only finish."""
    if now >= authority.not_after:
        return AuthorityState.EXPIRED
    return AuthorityState.ACTIVE if authority is newest else AuthorityState.RETIRING


def newest(authorities: Iterable[Authority], role: Role) -> Authority | None:
    """Return the authority of the role with the highest generation."""
    return max((a for a in authorities if a.role is role), key=lambda a: a.generation, default=None)


def authority_renewal(domain: TrustDomain, authority: Authority) -> datetime:
    """When an intermediate's successor is due: early enough that no leaf is ever cut short by it, if it lives so long."""
    lifetime = authority.not_after - authority.not_before
    lead = max(lifetime / 3, domain.max_leaf_duration)
    return renewal_time(authority.not_before, authority.not_after, lead, authority.view.name)


def plan(
    domain: TrustDomain, authorities: tuple[Authority, ...], now: datetime
) -> MakeAuthority | RetireAuthority | Held | None:
    """Return the one next thing to do for a trust domain's authorities, or None."""
    for authority in authorities:
        made_for = authority.view.annotations.get(SPIFFE_DOMAIN_ANNOTATION, domain.trust_domain)
        if made_for != domain.trust_domain:
            return Held("Conflict", f"Secret {authority.view.name} was made for trust domain {made_for}")
    root = newest(authorities, Role.ROOT)
    if root is None:
        return _make(domain, Role.ROOT, None, "DoesNotExist", "the trust domain has no root yet")
    if now >= root.not_after:
        return Held("RootExpired", f"root {root.view.name} has expired; nothing is signed with it")
    intermediate = newest(authorities, Role.INTERMEDIATE)
    if intermediate is None:
        return _make(domain, Role.INTERMEDIATE, None, "DoesNotExist", "the trust domain has no intermediate yet")
    if not certificates.signed_by(intermediate.certificate, root.certificate):
        return _make(domain, Role.INTERMEDIATE, intermediate, "IncorrectIssuer", "the root has changed")
    if ownership.rotation_requested(domain.meta, intermediate.view):
        return _make(domain, Role.INTERMEDIATE, intermediate, "RotationRequested", "rotation asked for by annotation")
    can_outlive = _validity(domain.intermediate, domain, root.issuer, now).not_after > intermediate.not_after
    if can_outlive and now >= authority_renewal(domain, intermediate):
        return _make(domain, Role.INTERMEDIATE, intermediate, "Renewing", "the intermediate's renewal time has passed")
    for authority in authorities:
        if authority.role is Role.INTERMEDIATE and authority is not intermediate:
            if now >= _last_use(domain, authority, intermediate):
                return RetireAuthority(authority.view.name, "Retired", "everything it signed has expired")
    return None


def deadline(domain: TrustDomain, authorities: tuple[Authority, ...]) -> datetime | None:
    """When the trust domain needs attention next."""
    intermediate = newest(authorities, Role.INTERMEDIATE)
    root = newest(authorities, Role.ROOT)
    if intermediate is None or root is None:
        return None
    retirements = (
        _last_use(domain, authority, intermediate)
        for authority in authorities
        if authority.role is Role.INTERMEDIATE and authority is not intermediate
    )
    due = authority_renewal(domain, intermediate) if intermediate.not_after < root.not_after else root.not_after
    return earliest(due, *retirements)


def issue(domain: TrustDomain, action: MakeAuthority, root: Authority | None, now: datetime) -> SecretContent:
    """Make the authority that `action` names: a key and its certificate, as the content of its Secret.

    Raises PkiError when the root can't sign it.
    """
    spec = domain.root if action.role is Role.ROOT else domain.intermediate
    key = keys.generate(spec.profile)
    subject = Subject(common_name=spec.common_name, organizations=(spec.organization,) if spec.organization else ())
    if action.role is Role.ROOT:
        certificate = certificates.issue_root(subject, key, _validity(spec, domain, None, now))
        anchor = certificate
    else:
        if root is None:
            raise PkiError("an intermediate needs a root")
        validity = _validity(spec, domain, root.issuer, now)
        certificate = certificates.issue_intermediate(subject, key.public_key(), root.issuer, validity)
        anchor = root.certificate
    data = {
        "tls.crt": certificates.encode_chain(certificate),
        "tls.key": keys.encode(key, keys.KeyEncoding.PKCS8),
        "ca.crt": certificates.encode_chain(anchor),
    }
    annotations = {SPIFFE_DOMAIN_ANNOTATION: domain.trust_domain} | ownership.rotation_record(domain.meta)
    return SecretContent.of(SECRET_TYPE, data, annotations)


def trust_of(domain: TrustDomain, authorities: tuple[Authority, ...], now: datetime) -> Trust | Held:
    """Return who signs for the trust domain now, or why nobody does. Never an expired authority."""
    intermediate = newest(authorities, Role.INTERMEDIATE)
    roots = tuple(a.certificate for a in authorities if a.role is Role.ROOT and now < a.not_after)
    if intermediate is None or not any(certificates.signed_by(intermediate.certificate, root) for root in roots):
        return Held("TrustDomainNotReady", f"trust domain {domain.meta.name} has no authority that can sign yet")
    if now >= intermediate.not_after:
        return Held("IssuerExpired", f"the intermediate of trust domain {domain.meta.name} has expired")
    return Trust(domain, intermediate.issuer, roots, certificates.encode_chain(*roots))


def _make(domain: TrustDomain, role: Role, predecessor: Authority | None, reason: str, message: str) -> MakeAuthority:
    generation = predecessor.generation + 1 if predecessor else 1
    return MakeAuthority(role, generation, authority_name(domain.meta.name, role, generation), reason, message)


def _validity(spec: AuthoritySpec, domain: TrustDomain, issuer: Issuer | None, now: datetime) -> Validity:
    not_before, not_after = now - domain.backdate, now + spec.duration
    if issuer is not None:
        not_before = max(not_before, issuer.certificate.not_valid_before_utc)
        not_after = min(not_after, issuer.certificate.not_valid_after_utc)
    return Validity(not_before, not_after)


def _last_use(domain: TrustDomain, authority: Authority, successor: Authority) -> datetime:
    """When the last leaf of a superseded authority is gone: it signs nothing once its successor is there."""
    superseded = successor.not_before + domain.backdate
    return min(authority.not_after, superseded + max(domain.max_leaf_duration, timedelta(seconds=1)))
