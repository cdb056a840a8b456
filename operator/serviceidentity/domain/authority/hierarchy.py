"""A trust domain and all of its authorities: who is above whom, who may sign, where each is in its life."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.domain.authority.records import Authority, AuthorityState, Role, Usage
from serviceidentity.domain.authority.sources import Source, imported_role
from serviceidentity.domain.authority.upstream import Upstream
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import TrustDomain
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.schedule import renewal_time

BROUGHT_LEAD: Final = timedelta(days=30)  # how long before its end people are asked to renew what they brought along
PROPAGATION_SHARE: Final = 4  # propagation takes at most this part of an authority's lifetime
CLOCKS_DIFFER: Final = timedelta(hours=1)  # at most, between two operators


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A trust domain and all of its authorities.

    `recorded` names the Secrets of the roots that its status says are Active. `source` is the authority that is
    not made here, or what is wrong with it; None when all are.
    """

    domain: TrustDomain
    authorities: tuple[Authority, ...]
    usage: Usage = field(default_factory=Usage)
    recorded: frozenset[str] = frozenset()
    source: Source | Held | None = None

    def of(self, role: Role) -> list[Authority]:
        """Return the authorities of a role, oldest first."""
        return sorted((a for a in self.authorities if a.role is role), key=lambda a: a.generation)

    def active(self, role: Role) -> Authority | None:
        """Return the newest that was activated, even when it is over by now; of the newest root if there is one."""
        return max((a for a in self.of(role) if a.activated_at is not None), key=self.order, default=None)

    def order(self, authority: Authority) -> tuple[int, int]:
        """Return what authorities of a role follow each other by. Not by time: a clock may have been wrong."""
        root = self.root_of(authority)
        return (root.generation if root else 0, authority.generation)

    def root_of(self, intermediate: Authority) -> Authority | None:
        """Return the root that signed an intermediate; None for a root.

        Of several with one key, it is the active one that ends last, but none that was there before the intermediate's.
        """
        if intermediate.role is Role.ROOT:
            return None
        signed = [root for root in self.of(Role.ROOT) if root.signed(intermediate)]
        later = [root for root in signed if root.generation >= intermediate.root_generation]
        return max(
            later or signed,
            key=lambda root: (root.activated_at is not None, root.not_after, root.generation),
            default=None,
        )

    def is_elsewhere(self, role: Role) -> bool:
        """Say whether authorities of that role are not made here but copied from where they are kept."""
        return self.domain.root_is_elsewhere if role is Role.ROOT else imported_role(self.domain) is Role.INTERMEDIATE

    def can_sign(self, root: Authority, now: datetime) -> bool:
        """Say whether an intermediate can be made under the root: its key is here, or where requests are sent to."""
        if self.domain.intermediate.vault is not None:
            source = self.source
            return isinstance(source, Upstream) and source.root == root.certificate and now < source.signs_until
        return root.key_is_here and not self.is_elsewhere(Role.INTERMEDIATE)

    def is_tainted(self, authority: Authority) -> bool:
        """Say whether the authority, or the one that signed it, is not to be trusted."""
        tainted = self.domain.tainted.keys()
        if not tainted:
            return False
        if authority.fingerprint in tainted or any(certificates.fingerprint(c) in tainted for c in authority.chain):
            return True
        if any(other.fingerprint in tainted and other.has_key_of(authority) for other in self.authorities):
            return True  # a new certificate does not make a key safe again
        root = self.root_of(authority)
        return root is not None and root.fingerprint in tainted

    def is_usable(self, authority: Authority | None, now: datetime) -> bool:
        """Say whether the authority may sign now: activated, alive, and so is the root above it."""
        if authority is None or authority.activated_at is None or not authority.not_before <= now < authority.not_after:
            return False
        if self.is_tainted(authority):
            return False
        if authority.role is Role.ROOT:
            return True
        root = self.root_of(authority)
        return root is not None and self.is_usable(root, now)

    def prepared(self, role: Role, now: datetime) -> Authority | None:
        """Return the newest one that waits to be activated."""
        waiting = [a for a in self.of(role) if self.waits(a) and in_time(a, now) and not self.is_tainted(a)]
        return waiting[-1] if waiting else None

    def waits(self, authority: Authority) -> bool:
        """Say whether an authority is still to be activated. One that is older than the active one never will be."""
        active = self.active(authority.role)
        return authority.activated_at is None and (active is None or self.order(authority) > self.order(active))


def state_of(seen: Hierarchy, authority: Authority, now: datetime) -> AuthorityState:
    """Return where an authority is in its life."""
    if now >= authority.not_after:
        return AuthorityState.EXPIRED
    if seen.is_tainted(authority):
        return AuthorityState.TAINTED
    if authority.activated_at is None:
        return AuthorityState.PREPARED
    return AuthorityState.ACTIVE if authority == seen.active(authority.role) else AuthorityState.RETIRING


def renewal_of(domain: TrustDomain, authority: Authority) -> datetime:
    """When an authority's successor is prepared: early enough that neither waiting nor a leaf is cut short.

    Of one that people brought along: when they are asked to renew it.
    """
    spec = domain.root if authority.role is Role.ROOT else domain.intermediate
    lifetime = authority.not_after - authority.not_before
    needed = domain.max_leaf_duration + propagation_of(domain, authority)
    if authority.role is Role.ROOT:
        needed += propagation_of(domain, authority)
    if authority.imported_from is not None:
        usual = min(lifetime / 3, BROUGHT_LEAD)
        lead = max(spec.renew_before or usual, needed)
        return renewal_time(authority.not_before, authority.not_after, lead, authority.view.name)
    lead = max(spec.renew_before or lifetime / 3, needed)
    due = renewal_time(authority.not_before, authority.not_after, lead, authority.view.name)
    # With a duration that was shortened since, a successor made any earlier would end first.
    return max(due, authority.not_after - spec.duration + timedelta(seconds=1))


def propagation_of(domain: TrustDomain, authority: Authority) -> timedelta:
    """How long an authority is Prepared: as configured, but only a part of its life."""
    lifetime: timedelta = authority.not_after - authority.not_before
    return min(domain.propagation, lifetime / PROPAGATION_SHARE)


def in_time(authority: Authority, now: datetime) -> bool:
    """Say whether an authority that waits is of use. One that begins much later was made while the clock was ahead."""
    return authority.not_before - CLOCKS_DIFFER <= now < authority.not_after
