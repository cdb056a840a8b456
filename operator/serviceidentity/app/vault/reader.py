"""Reading secrets, once for all who read the same one with the same login."""

from datetime import datetime

from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.domain.model import Identity
from serviceidentity.domain.vault.spec import VaultSecretSpec
from serviceidentity.domain.vault.views import Reading


class Reader:
    """What was read, and when it is to be read again."""

    async def read(self, identity: Identity, secret: VaultSecretSpec, client: VaultClient) -> Reading:
        """Return the secret, as it was read `refreshEvery` ago at most. Raises PortError."""
        raise NotImplementedError

    def next_read(self, identity: Identity, secret: VaultSecretSpec) -> datetime | None:
        """When it has to be read again."""
        return None
