"""Who signs for each trust domain, as read from the Secrets of its authorities."""

from datetime import datetime

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.keyguard import KeyGuard
from serviceidentity.domain import authority, ownership
from serviceidentity.domain.authority import Authority, Hierarchy, Trust, crl_records
from serviceidentity.domain.jwt.authority import secret_name
from serviceidentity.domain.material import Held, MalformedError, SecretView
from serviceidentity.domain.model import Kind, TrustDomain
from serviceidentity.domain.schedule import upcoming


class TrustRegistry:
    """Who signs for each trust domain. Keys are read once per version of their Secret."""

    def __init__(self, inventory: Inventory, keys: KeyGuard) -> None:
        self._inventory = inventory
        self.keys = keys
        self._read: dict[tuple[str, int, int], Authority] = {}
        self._trust: dict[tuple[str, str, int, tuple[tuple[str, int], ...], int], tuple[Trust, datetime, datetime]] = {}

    def of(self, name: str, now: datetime) -> Trust | Held:
        """Return who signs for the trust domain, or why nobody does now."""
        domain = self._inventory.trust_domain(name)
        if isinstance(domain, Held):
            return domain
        try:
            authorities = self.authorities(domain)
        except MalformedError:
            return Held("TrustDomainNotReady", f"an authority of trust domain {name} can't be read")
        version = tuple(sorted((a.view.name, a.view.resource_version) for a in authorities))
        state = (name, domain.meta.uid, domain.meta.generation, version, self.keys.epoch)
        known = self._trust.get(state)
        if known is not None and known[1] <= now < known[2]:
            return known[0]
        trust = authority.trust_of(Hierarchy(domain, authorities), now)
        if isinstance(trust, Trust):
            self._trust = {key: value for key, value in self._trust.items() if key[0] != name}
            until = upcoming(now, *(time for a in authorities for time in (a.not_before, a.not_after)))
            self._trust[state] = trust, now, until or now
        return trust

    def spiffe_domain(self, name: str) -> str | None:
        """Return the SPIFFE trust domain name, if the TrustDomain is there and valid."""
        domain = self._inventory.trust_domain(name)
        return None if isinstance(domain, Held) else domain.trust_domain

    def authorities(self, domain: TrustDomain) -> tuple[Authority, ...]:
        """Return the authorities of the domain as they should be: remembered, else found.

        Raises MalformedError when one can't be read.
        """
        return tuple(self._authority(domain, view) for view in self.views(domain))

    def views(self, domain: TrustDomain) -> list[SecretView]:
        """Return the Secrets of the domain's authorities as they should be: remembered, else found."""
        views = []
        for location in sorted(self._inventory.locations_of(domain.key)):
            view = self._inventory.good(location) or self._inventory.secrets.get(location)
            if view is None or view.type == crl_records.SECRET_TYPE or location[1] == secret_name(domain.meta.name):
                continue
            if ownership.is_owned(view, Kind.TRUST_DOMAIN, domain.meta):
                views.append(view)
        return views

    def _authority(self, domain: TrustDomain, view: SecretView) -> Authority:
        version = (view.uid, view.resource_version, self.keys.epoch)
        known = self._read.get(version)
        if known is None:
            sealed = authority.is_sealed(view)
            known = authority.read_authority(view, self.keys.key_of(domain, view) if sealed else None)
            self._read = {key: value for key, value in self._read.items() if key[0] != view.uid}
            self._read[version] = known
        return known
