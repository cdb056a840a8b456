"""Who may go through which connection, and as whom."""

from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import Identity


class Connections:
    """The connections that there are."""

    async def client(self, identity: Identity) -> VaultClient | Held:
        """Return Vault as the identity may use it, or why it can't; then it is woken when that changes."""
        name = identity.vault.connection if identity.vault else ""
        return Held("VaultConnectionNotFound", f"VaultConnection {name} does not exist")

    def turned_away(self, identity: Identity) -> None:
        """Take note that the identity has to be called back, though somebody else asked for it."""
