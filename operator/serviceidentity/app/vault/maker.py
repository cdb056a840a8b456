"""Having made what Vault makes on request: certificates and data keys."""

from datetime import datetime

from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.domain.vault.views import Answer, VaultOrder


async def make(client: VaultClient, order: VaultOrder, now: datetime) -> Answer:
    """Have it made. Raises PortError."""
    raise NotImplementedError
