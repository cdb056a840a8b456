"""Certificate authorities of a trust domain: what is there, what should be made next, who signs.

Authorities are numbered: `<trust domain>-root-1`, `<trust domain>-intermediate-1`, ... The number makes the name of the
next one certain, so two operators that both decide to make it collide on one Secret instead of making two.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509

from serviceidentity.domain import ownership
from serviceidentity.domain.material import Held, MalformedError, SecretContent, SecretView
from serviceidentity.domain.model import AuthoritySpec, TrustDomain
from serviceidentity.domain.pki import certificates, keys
from serviceidentity.domain.pki.certificates import Issuer, Subject, Validity
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.domain.schedule import renewal_time, upcoming

ROLE_LABEL: Final = "serviceidentity.dev/authority-role"
GENERATION_LABEL: Final = "serviceidentity.dev/authority-generation"
SPIFFE_DOMAIN_ANNOTATION: Final = "serviceidentity.dev/spiffe-trust-domain"
AUTHORITY_MISSING: Final = "AuthorityMissing"
AUTHORITY_UNREADABLE: Final = "AuthorityUnreadable"
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
    """When an intermediate's successor is due: early enough that it cuts no leaf short, if it lives long enough."""
    lifetime = authority.not_after - authority.not_before
    lead = max(lifetime / 3, domain.max_leaf_duration)
    return renewal_time(authority.not_before, authority.not_after, lead, authority.view.name)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A trust domain and what it has: the newest root and intermediate, and all authorities.

    `recorded` names the Secrets of the roots that its status says are Active.
    """

    domain: TrustDomain
    authorities: tuple[Authority, ...]
    root: Authority | None
    intermediate: Authority | None
    recorded: frozenset[str] = frozenset()


Verdict = MakeAuthority | RetireAuthority | Held
Check = Callable[[Hierarchy, datetime], Verdict | None]


def made_for_another(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """A Secret left by a TrustDomain of the same name that had another SPIFFE trust domain: never signed with."""
    for authority in seen.authorities:
        made_for = authority.view.annotations.get(SPIFFE_DOMAIN_ANNOTATION, seen.domain.trust_domain)
        if made_for != seen.domain.trust_domain:
            return Held("Conflict", f"Secret {authority.view.name} was made for trust domain {made_for}")
    return None


def root_lost(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """A root that was there is gone. A new one would be a CA that nobody trusts yet: that is for people to decide."""
    lost = seen.recorded - {authority.view.name for authority in seen.authorities}
    if lost:
        return Held(AUTHORITY_MISSING, f"Secret {min(lost)} is gone; put it back, or make the TrustDomain anew")
    return None


def root_missing(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """There is nothing to trust yet."""
    if seen.root is None:
        return _make(seen.domain, Role.ROOT, None, "DoesNotExist", "the trust domain has no root yet")
    return None


def root_expired(seen: Hierarchy, now: datetime) -> Verdict | None:
    """Nothing is signed with an expired root, and no successor is made behind the back of those who trust it."""
    if seen.root is not None and now >= seen.root.not_after:
        return Held("RootExpired", f"root {seen.root.view.name} has expired; nothing is signed with it")
    return None


def intermediate_missing(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """Nobody can sign leaves yet."""
    if seen.intermediate is None:
        return _make(seen.domain, Role.INTERMEDIATE, None, "DoesNotExist", "the trust domain has no intermediate yet")
    return None


def intermediate_of_another_root(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """The newest root did not sign the newest intermediate."""
    root, intermediate = seen.root, seen.intermediate
    if root and intermediate and not certificates.signed_by(intermediate.certificate, root.certificate):
        return _make(seen.domain, Role.INTERMEDIATE, intermediate, "IncorrectIssuer", "the root has changed")
    return None


def rotation_requested(seen: Hierarchy, _now: datetime) -> Verdict | None:
    """The rotate annotation has a new value: a new intermediate."""
    if seen.intermediate and ownership.rotation_requested(seen.domain.meta, seen.intermediate.view):
        message = "rotation asked for by annotation"
        return _make(seen.domain, Role.INTERMEDIATE, seen.intermediate, "RotationRequested", message)
    return None


def intermediate_expires_soon(seen: Hierarchy, now: datetime) -> Verdict | None:
    """The intermediate's renewal time has come, and a new one would live longer than it."""
    root, intermediate = seen.root, seen.intermediate
    if root is None or intermediate is None or now < authority_renewal(seen.domain, intermediate):
        return None
    if _validity(seen.domain.intermediate, seen.domain, root.issuer, now).not_after <= intermediate.not_after:
        return None
    return _make(seen.domain, Role.INTERMEDIATE, intermediate, "Renewing", "the intermediate's renewal time has passed")


def predecessor_finished(seen: Hierarchy, now: datetime) -> Verdict | None:
    """A superseded intermediate's last leaf is gone."""
    for authority, last_use in _superseded(seen.domain, seen.authorities):
        if now >= last_use:
            return RetireAuthority(authority.view.name, "Retired", "everything it signed has expired")
    return None


CHECKS: Final[tuple[Check, ...]] = (
    made_for_another,
    root_lost,
    root_missing,
    root_expired,
    intermediate_missing,
    intermediate_of_another_root,
    rotation_requested,
    intermediate_expires_soon,
    predecessor_finished,
)


def plan(
    domain: TrustDomain, authorities: tuple[Authority, ...], now: datetime, recorded: frozenset[str] = frozenset()
) -> Verdict | None:
    """Return the one next thing to do for a trust domain's authorities, or None.

    `recorded` names the Secrets of the roots that the status says are Active.
    """
    hierarchy = Hierarchy(
        domain, authorities, newest(authorities, Role.ROOT), newest(authorities, Role.INTERMEDIATE), recorded
    )
    return next((verdict for check in CHECKS if (verdict := check(hierarchy, now)) is not None), None)


def deadline(domain: TrustDomain, authorities: tuple[Authority, ...], now: datetime) -> datetime | None:
    """When the trust domain needs attention next."""
    intermediate = newest(authorities, Role.INTERMEDIATE)
    root = newest(authorities, Role.ROOT)
    if intermediate is None or root is None:
        return None
    retirements = (last_use for _, last_use in _superseded(domain, authorities))
    due = authority_renewal(domain, intermediate) if intermediate.not_after < root.not_after else root.not_after
    return upcoming(now, due, root.not_after, *retirements)


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
    if isinstance(conflict := made_for_another(Hierarchy(domain, authorities, None, None), now), Held):
        return Held("TrustDomainNotReady", conflict.message)
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


def _superseded(domain: TrustDomain, authorities: tuple[Authority, ...]) -> list[tuple[Authority, datetime]]:
    """Return the intermediates that sign nothing any more, each with the moment its last leaf is gone."""
    successor = newest(authorities, Role.INTERMEDIATE)
    if successor is None:
        return []
    last_leaf = successor.not_before + domain.backdate + domain.max_leaf_duration
    return [
        (authority, min(authority.not_after, last_leaf))
        for authority in authorities
        if authority.role is Role.INTERMEDIATE and authority is not successor
    ]
