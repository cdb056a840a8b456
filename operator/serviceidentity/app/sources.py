"""Where authorities come from that are not made here. No watch tells of changes there, so they are looked at."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from serviceidentity.app.ports import Pki, Secrets
from serviceidentity.domain import authority
from serviceidentity.domain.authority import Authority, Brought, MakeAuthority, Source, Upstream
from serviceidentity.domain.authority.sources import brought_role, read_brought
from serviceidentity.domain.material import Held, SecretContent
from serviceidentity.domain.model import Key, Meta, TrustDomain, VaultIssuer
from serviceidentity.domain.pki import keys
from serviceidentity.domain.pki.paths import first_defect
from serviceidentity.errors import MissingError, PortError, RejectedError

LOOK_EVERY: Final = timedelta(seconds=10)
ASK_EVERY: Final = timedelta(seconds=30)  # at Vault, as long as it answers
At = TypeVar("At", bound=VaultIssuer)
UNAVAILABLE: Final = "VaultUnavailable"


class Sources:
    """Reads what people brought along, in the operator's own namespace, and asks Vault or OpenBao to sign."""

    def __init__(self, secrets: Secrets, namespace: str, pki: Pki | None) -> None:
        self._secrets = secrets
        self._namespace = namespace
        self._pki = pki
        self._brought: dict[Key, tuple[tuple[object, ...], Brought]] = {}
        self._issuers: dict[Key, tuple[Meta, datetime, Source]] = {}

    async def read(self, domain: TrustDomain, now: datetime) -> Source | Held | None:
        """Return the authority that is not made here, Held when it can't be used, None when all are made here.

        Raises RetryableError when the API server does not answer.
        """
        if domain.leaves is not None:
            return await self._read_issuer(domain, domain.leaves, authority.read_issuing, now)
        if domain.intermediate.vault is not None:
            return await self._read_issuer(domain, domain.intermediate.vault, authority.read_upstream, now)
        return await self._read_brought(domain, now)

    async def sign(
        self, domain: TrustDomain, step: MakeAuthority, root: Authority, upstream: Upstream, now: datetime
    ) -> SecretContent:
        """Make the key of an intermediate and have it signed. Raises PkiError, and PortError when Vault does not."""
        at = domain.intermediate.vault
        if self._pki is None or at is None:
            raise RejectedError("there is no Vault")
        key = await asyncio.to_thread(keys.generate, domain.intermediate.profile)
        request = authority.request_for(domain, root, upstream, key, now)
        answer = await self._pki.sign_intermediate(at.mount, upstream.issuer_id, request)
        return authority.signed_upstream(domain, step, root, upstream, key, answer, now)

    async def _read_brought(self, domain: TrustDomain, now: datetime) -> Brought | Held | None:
        name = domain.brought_secret
        if name is None:
            self._brought.pop(domain.key, None)
            return None
        try:
            view = await self._secrets.read(self._namespace, name)
        except (RejectedError, MissingError):
            return Held("SecretUnreadable", f"the operator is not allowed to read Secret {name}")
        version = (brought_role(domain), name, view.uid, view.resource_version) if view is not None else ()
        known = self._brought.get(domain.key)
        if known is not None and known[0] == version and first_defect(known[1].path, now) is None:
            return known[1]
        # Examining a large RSA key takes a good part of a second.
        found = await asyncio.to_thread(read_brought, domain, view, now)
        if isinstance(found, Brought):
            self._brought[domain.key] = version, found
        else:
            self._brought.pop(domain.key, None)
        return found

    async def _read_issuer(
        self,
        domain: TrustDomain,
        at: At,
        read: Callable[[At, str, Sequence[str], datetime], Source | Held],
        now: datetime,
    ) -> Source | Held:
        if self._pki is None:
            return Held("VaultNotConfigured", "the operator was started without VAULT_ADDR")
        known = self._issuers.get(domain.key)
        # Whoever changes the object, its annotations included, gets a new answer.
        if known is not None and known[0] == domain.meta and timedelta(0) <= now - known[1] < ASK_EVERY:
            return known[2]
        self._issuers.pop(domain.key, None)
        try:
            issuer = await self._pki.issuer(at.mount, at.issuer)
        except PortError as error:
            return Held(UNAVAILABLE, f"issuer {at.issuer} of Vault's PKI engine at {at.mount}: {error}")
        found = read(at, issuer.issuer_id, issuer.chain, now)
        if isinstance(found, Source):
            self._issuers[domain.key] = domain.meta, now, found
        return found
