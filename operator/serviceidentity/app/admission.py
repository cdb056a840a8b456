"""What the policy of its trust domain says to an identity, with what the inventory knows of both."""

from dataclasses import replace

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.trust_registry import TrustRegistry
from serviceidentity.domain.jwt.tokens import service_subject
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import Identity, Key, TrustDomain, spiffe_id
from serviceidentity.domain.policy.checks import CERTIFICATE, Claim, Denial, check, check_tokens, spiffe_id_in_use
from serviceidentity.domain.policy.spec import Namespace
from serviceidentity.errors import InvalidSpecError


class Admission:
    """Asks the policy. Reads only."""

    def __init__(self, inventory: Inventory, trust: TrustRegistry) -> None:
        self._inventory = inventory
        self._trust = trust

    def denials(self, identity: Identity) -> tuple[Denial, ...]:
        """Return of what nothing new may be issued for the identity, and why; nothing when nobody can say.

        Without a valid TrustDomain no certificate and no token is issued anyway.
        """
        domain = self._inventory.trust_domain(identity.trust_domain)
        if isinstance(domain, Held):
            return ()
        denied = check(identity, domain, self._namespace(identity.meta.namespace))
        if denied is not None and denied.whole:
            return (denied,)
        found = (*([denied] if denied else ()), *check_tokens(identity, domain))
        others = _named(identity) - {denial.credential for denial in found}
        taken = spiffe_id_in_use(self._claims(identity, domain), identity, domain) if others else None
        return found if taken is None else (*found, *(replace(taken, credential=one) for one in sorted(others)))

    def spiffe_id(self, identity: Identity) -> str:
        """Return the identity's SPIFFE ID; empty when another identity has it, or its trust domain is not known."""
        domain = self._inventory.trust_domain(identity.trust_domain)
        if isinstance(domain, Held):
            return ""
        if spiffe_id_in_use(self._claims(identity, domain), identity, domain) is not None:
            return ""
        return spiffe_id(domain.trust_domain, identity.meta.namespace, identity.service_account)

    def _namespace(self, name: str) -> Namespace | None:
        found = self._inventory.namespaces.get(name)
        return None if found is None else Namespace(name, found.labels, found.annotations)

    def _claims(self, identity: Identity, domain: TrustDomain) -> list[Claim]:
        """Return who asks for something with the identity's SPIFFE ID; nobody, when there is no other identity."""
        keys = self._inventory.identities_as(identity.meta.namespace, identity.service_account)
        if len(keys) == 1:
            return []
        wanted = spiffe_id(domain.trust_domain, identity.meta.namespace, identity.service_account)
        return [claim for key in keys if (claim := self._claim(key, domain.trust_domain, wanted)) is not None]

    def _claim(self, key: Key, trust_domain: str, wanted: str) -> Claim | None:
        entry = self._inventory.identities[key]
        if entry.meta.deleting or isinstance(entry.spec, InvalidSpecError) or not _named(entry.spec):
            return None
        if self._trust.spiffe_domain(entry.spec.trust_domain) != trust_domain:
            return None
        issued = bool(entry.status.get("certificate")) and entry.status.get("spiffeID") == wanted
        subjects = {token.get("subject") for token in entry.status.get("tokens") or ()}
        issued = issued or not subjects.isdisjoint((wanted, service_subject(key.namespace, entry.spec.service_account)))
        return Claim(key, issued, entry.meta.created)


def _named(identity: Identity) -> set[str]:
    """Return the credentials that say who the identity is: nobody else may have one with the same name."""
    tokens = identity.jwt.tokens if identity.jwt is not None else ()
    return {token.credential for token in tokens} | ({CERTIFICATE} if identity.certificate is not None else set())
