"""The certificate that the operator serves with: a Secret of its own namespace."""

from datetime import datetime, timedelta
from typing import Final

from serviceidentity.app.inventory import Inventory
from serviceidentity.app.ports import Clock, Secrets
from serviceidentity.domain.material import SecretView

LOOK_EVERY: Final = timedelta(seconds=30)


class ServingCertificate:
    """Reads the Secret: one that the operator made is in the inventory, any other is asked for now and then."""

    def __init__(self, inventory: Inventory, secrets: Secrets, name: str, clock: Clock) -> None:
        self._inventory = inventory
        self._secrets = secrets
        self._name = name
        self._clock = clock
        self._read: SecretView | None = None
        self._next_look: datetime | None = None

    async def read(self) -> SecretView | None:
        """Return the Secret, or None when it does not exist. Raises PortError."""
        namespace = self._inventory.authority_namespace
        if (view := self._inventory.secrets.get((namespace, self._name))) is not None:
            return view
        now = self._clock()
        if self._next_look is None or now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._read = await self._secrets.read(namespace, self._name)
        return self._read
