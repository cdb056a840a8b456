"""The secrets of Vault of one identity: what is known of them, and having made what is to be made."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from datetime import datetime, timedelta

from serviceidentity.app.ports import Clock
from serviceidentity.app.vault.connections import Connections
from serviceidentity.app.vault.leases import LeaseNotRecordedError, Leases
from serviceidentity.app.vault.maker import make
from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.app.vault.reader import Reader
from serviceidentity.domain.material import Held, SecretView
from serviceidentity.domain.model import Identity, Key
from serviceidentity.domain.schedule import earliest
from serviceidentity.domain.vault.spec import KvSource, LeaseSource, StaticRoleSource, VaultSecretSpec
from serviceidentity.domain.vault.views import Answer, Open, VaultOrder, VaultView
from serviceidentity.errors import MissingError, PortError, RetryableError, ServiceIdentityError

UNAVAILABLE = "VaultUnavailable"
REFUSED = "VaultRefused"
NOT_FOUND = "NotFoundInVault"
_AGAIN = timedelta(minutes=1)


class VaultRefusedError(ServiceIdentityError):
    """Vault refused to make something: trying again soon won't help."""


class VaultAwayError(ServiceIdentityError):
    """Vault can't be asked now. Whoever was turned away is woken when it can be again; `retry` is the latest."""

    def __init__(self, message: str, retry: datetime) -> None:
        super().__init__(message)
        self.reason, self.retry = UNAVAILABLE, retry


class VaultSources:
    """What identities have from Vault."""

    def __init__(self, connections: Connections, reader: Reader, leases: Leases, clock: Clock) -> None:
        self._connections = connections
        self._reader = reader
        self._leases = leases
        self._clock = clock

    async def gather(self, identity: Identity, contents: Mapping[str, SecretView]) -> dict[str, VaultView]:
        """Return what is known of each secret of the identity, by name; reads and renews what is due."""
        if identity.vault is None or identity.suspend:
            self._reader.forget(identity.key)
        if identity.vault is None:
            return {}
        self._reader.forget(identity.key, but={secret.name for secret in identity.vault.secrets if _is_read(secret)})
        client = await self._connections.client(identity)
        if isinstance(client, Held):
            self._reader.forget(identity.key)  # nobody reads for it; it is woken when that changes
            return {
                secret.name: self._unattended(identity, secret, contents.get(secret.secret_name), client)
                for secret in identity.vault.secrets
            }
        looks = (
            self._look(identity, secret, client, contents.get(secret.secret_name)) for secret in identity.vault.secrets
        )
        names = (secret.name for secret in identity.vault.secrets)
        return dict(zip(names, await _all(looks), strict=True))

    async def deliver(self, identity: Identity, order: VaultOrder) -> Answer:
        """Have made what is ordered. Raises VaultRefusedError and VaultAwayError.

        `stored` or `abandoned` must follow.
        """
        client = await self._connections.client(identity)
        if isinstance(client, Held):
            raise VaultAwayError(client.message, self._clock() + _AGAIN)
        try:
            if isinstance(order.secret.source, LeaseSource):
                return await self._leases.issue(identity, order.secret, client)
            return await make(client, order, self._clock)
        except LeaseNotRecordedError as error:
            raise error.cause from None  # it is the API server that refused, or is away
        except RetryableError as error:
            raise VaultAwayError(str(error), self._clock() + _AGAIN) from None
        except PortError as error:
            raise VaultRefusedError(f"{order.secret.source}: {error}") from None

    async def stored(self, identity: Identity, answer: Answer) -> None:
        """Take note that the answer is in its Secret."""
        if answer.lease is not None:
            await self._leases.stored(identity, answer)

    async def abandoned(self, identity: Identity, answer: Answer, *, perhaps_stored: bool) -> None:
        """Take note that the answer could not be stored: what it holds is given back.

        Nobody knows when the API server did not answer. Then its Secret tells in a while whether it is in use.
        """
        if answer.lease is None:
            return
        client = None if perhaps_stored else await self._connections.client(identity)
        await self._leases.abandoned(identity, answer, None if isinstance(client, Held) else client)

    def forget(self, key: Key) -> None:
        """Forget what was read for an identity that is gone, or that can't be understood."""
        self._reader.forget(key)

    def next_look(self, identity: Identity) -> datetime | None:
        """When something has to be read again or looked after; it is not in the status, because it comes for ever."""
        if identity.vault is None:
            return None
        looks = [self._reader.next_read(identity, secret) for secret in identity.vault.secrets]
        return earliest(*looks, self._leases.next_look(identity))

    def _unattended(
        self, identity: Identity, secret: VaultSecretSpec, view: SecretView | None, held: Held
    ) -> VaultView:
        """What is known of a secret while nobody may be asked about it: of a lease, how it was last."""
        is_leased = isinstance(secret.source, LeaseSource)
        return self._leases.unattended(identity, secret, view, held) if is_leased else held

    async def _look(
        self, identity: Identity, secret: VaultSecretSpec, client: VaultClient, view: SecretView | None
    ) -> VaultView:
        try:
            if _is_read(secret) and not identity.suspend:
                return await self._reader.read(identity, secret, client)
            if isinstance(secret.source, LeaseSource):
                return await self._leases.look(identity, secret, client, view)
        except MissingError:
            return Held(NOT_FOUND, f"there is no {secret.source}", retry=self._clock() + _AGAIN)
        except RetryableError as error:
            self._connections.turned_away(identity)  # perhaps it was another one that asked
            return Held(UNAVAILABLE, f"{secret.source} can't be read: {error}", retry=self._clock() + _AGAIN)
        except PortError as error:
            return Held(REFUSED, f"{secret.source}: {error}", retry=self._clock() + _AGAIN)
        return Open()


async def _all(looks: Iterable[Awaitable[VaultView]]) -> list[VaultView]:
    """Look side by side; the first error is raised when all have come to their end."""
    found = await asyncio.gather(*looks, return_exceptions=True)
    if (error := next((one for one in found if isinstance(one, BaseException)), None)) is not None:
        raise error
    return [one for one in found if not isinstance(one, BaseException)]


def _is_read(secret: VaultSecretSpec) -> bool:
    return isinstance(secret.source, KvSource | StaticRoleSource)
