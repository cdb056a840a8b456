"""Who may go through which connection, and as whom."""

from serviceidentity.app.vault.ports import Login, VaultClient
from serviceidentity.domain.material import Held
from serviceidentity.domain.model import Identity, Key


class Connections:
    """The connections that there are."""

    async def client(self, identity: Identity) -> VaultClient | Held:
        """Return Vault as the identity may use it, or why it can't; then it is woken when that changes."""
        name = identity.vault.connection if identity.vault else ""
        return Held("VaultConnectionNotFound", f"VaultConnection {name} does not exist")

    async def client_of(self, login: Login, key: Key) -> VaultClient | Held:
        """Return Vault as a login that was used before, for what has to be given back; `key` is called back.

        It does not ask who is allowed: what was had while it was allowed can always be returned.
        """
        return Held("VaultConnectionNotFound", f"VaultConnection {login.connection} does not exist")
