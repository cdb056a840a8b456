"""Who signs the tokens of each trust domain's identities, as read from the Secrets of the token keys."""

from datetime import datetime
from typing import Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.keyguard import KeyGuard
from serviceidentity.domain import ownership
from serviceidentity.domain.jwt import authority as token_keys
from serviceidentity.domain.jwt import documents, turning
from serviceidentity.domain.jwt.authority import TokenKeys
from serviceidentity.domain.jwt.issuer import TokenIssuer
from serviceidentity.domain.material import Held, MalformedError, SecretView
from serviceidentity.domain.model import Key, Kind, TrustDomain
from serviceidentity.domain.pki import envelope

NOT_READY: Final = "TokenIssuerNotReady"
NOT_MADE: Final = Held(NOT_READY, "the trust domain has no key for tokens yet")


class TokenIssuers:
    """The token issuers of all trust domains. Keys are read once per version of their Secret."""

    def __init__(self, inventory: Inventory, keys: KeyGuard, base_url: str) -> None:
        """`base_url` is where the operator serves the JWK Sets: https, without a slash at its end."""
        self._inventory = inventory
        self._keys = keys
        self._base_url = base_url
        self._read: dict[str, tuple[tuple[str, int, int], TokenKeys]] = {}
        self._public: dict[Key, frozenset[str]] = {}  # the IDs of keys that this process has seen published

    def of(self, name: str, _now: datetime) -> TokenIssuer | Held:
        """Return who signs tokens for the trust domain, or why nobody does now.

        A key that has never been published signs nothing: no verifier could know it.
        """
        domain = self._inventory.trust_domain(name)
        if isinstance(domain, Held):
            return domain
        try:
            keys = self.keys(domain)
        except MalformedError:
            return Held(NOT_READY, f"the token keys of trust domain {name} can't be read")
        if keys is not None and turning.revocation_is_due(domain.meta, keys.view):
            return Held(NOT_READY, f"the token keys of trust domain {name} are revoked, and there are no others yet")
        return self._issuer(domain, keys) if keys is not None else NOT_MADE

    def _issuer(self, domain: TrustDomain, keys: TokenKeys) -> TokenIssuer | Held:
        name = domain.meta.name
        if keys.ring is None:
            return Held(NOT_READY, f"the token keys of trust domain {name} can't be decrypted: {keys.locked}")
        if keys.ring.active.key_id not in self._known_as_public(domain):
            return Held(NOT_READY, f"the token key of trust domain {name} is not published yet")
        issuer = self.issuer(domain)
        return TokenIssuer(name, domain.trust_domain, issuer, keys.ring, domain.jwt.longest_lifetime)

    def issuer(self, domain: TrustDomain) -> str:
        """Return the claim `iss` of the trust domain's tokens."""
        return documents.issuer_of(domain.jwt.issuer, self._base_url, domain.meta.name)

    def view(self, domain: TrustDomain) -> SecretView | None:
        """Return the Secret of the token keys as it should be: remembered, else found."""
        location = (self._inventory.authority_namespace, token_keys.secret_name(domain.meta.name))
        view = self._inventory.good(location) or self._inventory.secrets.get(location)
        return view if view is not None and self._inventory.owns(view, Kind.TRUST_DOMAIN, domain.meta) else None

    def views(self, domain: TrustDomain) -> list[SecretView]:
        """Return the Secret of the token keys, if there is one."""
        view = self.view(domain)
        return [] if view is None else [view]

    def keys(self, domain: TrustDomain) -> TokenKeys | None:
        """Return the trust domain's token keys, None when there are none. Raises MalformedError."""
        view = self.view(domain)
        if view is None:
            return None
        version = (view.uid, view.resource_version, self._keys.epoch)
        known = self._read.get(view.name)
        if known is None or known[0] != version:
            sealed = envelope.is_sealed(view.value(token_keys.KEYS_KEY))
            opened = self._keys.key_of(domain, view) if sealed else None
            known = self._read[view.name] = version, token_keys.read_keys(view, opened)
        return known[1]

    def published(self, domain: TrustDomain) -> bytes | None:
        """Return the JWK Set that the ConfigMap has of the trust domain."""
        public = self._inventory.token_keys
        try:
            return public.value(token_keys.document_key(domain.meta.name)) if public is not None else None
        except MalformedError:
            return None

    def forget(self, key: Key) -> None:
        """Forget a trust domain that is gone."""
        self._read.pop(token_keys.secret_name(key.name), None)
        self._public.pop(key, None)

    def _known_as_public(self, domain: TrustDomain) -> frozenset[str]:
        """Return the IDs of the keys that are in the ConfigMap, or were: that somebody removed it stops nobody."""
        found = token_keys.published_ids(self.published(domain) or b"")
        known = self._public.get(domain.key, frozenset()) | found
        self._public[domain.key] = known
        return known


def is_owned(view: SecretView) -> bool:
    """Say whether the ConfigMap of the JWK Sets is ours: by its label, as no trust domain owns it alone."""
    return view.labels.get(ownership.MANAGED_BY_LABEL) == ownership.MANAGED_BY
