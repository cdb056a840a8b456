"""What an identity needs of its trust domain: who signs now, and whom to trust."""

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from serviceidentity.domain.authority.hierarchy import Hierarchy
from serviceidentity.domain.authority.lifecycle import made_for_another
from serviceidentity.domain.authority.records import Authority, Locked, Role
from serviceidentity.domain.authority.remote import RemoteIssuer
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.certificates import Issuer
from serviceidentity.domain.schedule import format_time


@dataclass(frozen=True, slots=True)
class Trust:
    """Who signs for a trust domain now, or why nobody does; and which roots to trust.

    `tainted` has the fingerprints of the intermediates whose certificates have to be replaced. `waiting` says that the
    life of an authority goes on when identities have been served.
    """

    domain: TrustDomain
    signer: Issuer | RemoteIssuer | Held
    roots: tuple[x509.Certificate, ...]
    bundle: bytes = field(repr=False)
    tainted: frozenset[str] = frozenset()
    waiting: bool = False


def trust_of(seen: Hierarchy, now: datetime) -> Trust | Held:
    """Return what to trust, and who signs. Never an expired or tainted authority. Held when nothing is known."""
    if isinstance(conflict := made_for_another(seen, now), Held):
        return Held("TrustDomainNotReady", conflict.message)
    trusted = (
        root.certificate
        for root in seen.of(Role.ROOT)
        if now < root.not_after and not seen.domain.tainted.get(root.fingerprint, False)
    )
    roots = tuple(dict.fromkeys(trusted))  # one that was brought along twice is there once
    if not roots:
        return Held("TrustDomainNotReady", f"trust domain {seen.domain.meta.name} has no root to trust now")
    prepared = seen.prepared(Role.ROOT, now)
    tainted = frozenset(a.fingerprint for a in seen.of(Role.INTERMEDIATE) if seen.is_tainted(a))
    return Trust(
        seen.domain,
        _signer(seen, now),
        roots,
        certificates.encode_chain(*roots),
        tainted,
        waiting=bool(tainted) or (prepared is not None and prepared.published_at is None),
    )


def _signer(seen: Hierarchy, now: datetime) -> Issuer | RemoteIssuer | Held:
    name, active = seen.domain.meta.name, _who_signs(seen, now)
    if isinstance(active, Held):
        return active
    if isinstance(active.key, Locked):
        return Held("TrustDomainNotReady", f"the key of trust domain {name} can't be read now: {active.key.message}")
    if isinstance(active.key, RemoteIssuer):
        return active.key.asked_as(seen.domain.leaves)
    return active.key or Held("TrustDomainNotReady", f"the key of trust domain {name} is elsewhere")


def _who_signs(seen: Hierarchy, now: datetime) -> Authority | Held:
    name = seen.domain.meta.name
    active = seen.active(Role.INTERMEDIATE)
    if active is None:
        return Held("TrustDomainNotReady", f"trust domain {name} has no authority that can sign yet")
    root = seen.root_of(active)
    if now >= active.not_after or (root is not None and now >= root.not_after):
        return Held("IssuerExpired", f"the authority of trust domain {name} has expired; its successor is on its way")
    if seen.is_tainted(active):
        return Held("IssuerTainted", f"the authority of trust domain {name} is tainted; its successor is on its way")
    if now < active.not_before:
        begin = format_time(active.not_before)
        return Held("IssuerNotYetValid", f"the authority of trust domain {name} begins at {begin}; is the clock right?")
    if not seen.is_usable(active, now):
        return Held("TrustDomainNotReady", f"trust domain {name} has no authority that can sign yet")
    return active
