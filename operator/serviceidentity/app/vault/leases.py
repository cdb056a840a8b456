"""Leases: issued on a record, renewed in time, given back when they are not needed any more."""

from datetime import datetime

from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import Identity
from serviceidentity.domain.vault.spec import VaultSecretSpec
from serviceidentity.domain.vault.views import Answer, Lease, Open


class Leases:
    """The leases of identities."""

    async def look(
        self, identity: Identity, secret: VaultSecretSpec, client: VaultClient, view: SecretView | None
    ) -> Lease | Open | Held:
        """Return the lease behind a Secret as it is now, after renewing it if that is due. Raises PortError."""
        raise NotImplementedError

    async def issue(self, identity: Identity, secret: VaultSecretSpec, client: VaultClient) -> Answer:
        """Have new credentials made, on record before they are. Raises PortError."""
        raise NotImplementedError

    async def stored(self, identity: Identity, answer: Answer) -> None:
        """Take note that they are in their Secret."""

    async def abandoned(self, identity: Identity, answer: Answer) -> None:
        """Give back what could not be stored."""

    def next_look(self, identity: Identity) -> datetime | None:
        """When a lease of the identity has to be looked after."""
        return None
