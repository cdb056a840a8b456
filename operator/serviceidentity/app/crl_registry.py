"""The revocation lists of each trust domain, as read from their Secrets, and what is revoked by them."""

from collections.abc import Iterable

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.trust_registry import TrustRegistry
from serviceidentity.domain import ownership
from serviceidentity.domain.authority import Authority, Hierarchy
from serviceidentity.domain.authority.crl_records import SECRET_TYPE, Crl, authority_of, read_crl
from serviceidentity.domain.authority.crls import Lists
from serviceidentity.domain.material import Held, MalformedError, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain

Revoked = frozenset[tuple[str, str]]


class CrlRegistry:
    """The lists of each trust domain. A list is read once per version of its Secret."""

    def __init__(self, inventory: Inventory, trust: TrustRegistry) -> None:
        self._inventory = inventory
        self._trust = trust
        self._read: dict[Key, dict[tuple[str, int, str], Crl | None]] = {}
        self._revoked: dict[str, tuple[object, Revoked]] = {}

    def views(self, domain: TrustDomain) -> dict[str, SecretView]:
        """Return the Secrets of the lists as they should be, by the name of their authority's Secret."""
        found = {}
        for location in self._inventory.locations_of(domain.key):
            view = self._inventory.good(location) or self._inventory.secrets.get(location)
            if view is None or view.type != SECRET_TYPE:
                continue
            if ownership.is_owned(view, Kind.TRUST_DOMAIN, domain.meta):
                found[authority_of(view)] = view
        return found

    def read(self, domain: TrustDomain, authorities: Iterable[Authority]) -> tuple[dict[str, Crl], frozenset[str]]:
        """Return the lists by the name of their authority's Secret, and the names of those that can't be read."""
        issuers = {a.view.name: a for a in authorities}
        found: dict[str, Crl] = {}
        broken = set()
        before, read = self._read.get(domain.key, {}), {}
        for name, view in self.views(domain).items():
            issuer = issuers.get(name)
            version = (view.uid, view.resource_version, issuer.fingerprint if issuer else "")
            crl = before[version] if version in before else _read(view, issuer)
            read[version] = crl
            if crl is None:
                broken.add(name)
            else:
                found[name] = crl
        self._read[domain.key] = read
        return found, frozenset(broken)

    def revoked(self, name: str) -> Revoked:
        """Return what is revoked in a trust domain: issuer's fingerprint ("" when not known) and serial number."""
        domain = self._inventory.trust_domain(name)
        if isinstance(domain, Held):
            return frozenset()
        views = self.views(domain)
        version = (
            domain.meta.uid,
            domain.meta.generation,
            frozenset((v.uid, v.resource_version) for v in views.values()),
        )
        known = self._revoked.get(name)
        if known is not None and known[0] == version:
            return known[1]
        found = {(item.issuer or "", item.serial_number) for item in domain.revoked}
        try:
            seen = self._lists(name)
        except MalformedError:
            return frozenset(found)
        fingerprints = {a.view.name: a.fingerprint for a in seen.hierarchy.authorities}
        for authority, crl in seen.found.items():
            if authority in fingerprints:
                found |= {(fingerprints[authority], serial) for serial in crl.entries}
        self._revoked[name] = version, frozenset(found)
        return self._revoked[name][1]

    def _lists(self, name: str) -> Lists:
        domain = self._inventory.trust_domain(name)
        if isinstance(domain, Held):
            raise MalformedError("the trust domain can't be understood")
        authorities = self._trust.authorities(domain)
        found, broken = self.read(domain, authorities)
        return Lists(Hierarchy(domain, authorities), found, broken)


def _read(view: SecretView, issuer: Authority | None) -> Crl | None:
    try:
        return read_crl(view, issuer.certificate if issuer else None)
    except MalformedError:
        return None
