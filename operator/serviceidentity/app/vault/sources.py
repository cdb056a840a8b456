"""The secrets of Vault of one identity: what is known of them, and having made what is to be made."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from serviceidentity.app.ports import Clock
from serviceidentity.app.vault.breaker import AwayError, BusyError
from serviceidentity.app.vault.connections import Connections
from serviceidentity.app.vault.leases import LeaseNotRecordedError, Leases
from serviceidentity.app.vault.maker import make
from serviceidentity.app.vault.ports import VaultClient
from serviceidentity.app.vault.reader import Reader, pause_after
from serviceidentity.domain import ownership
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


@dataclass(frozen=True, slots=True)
class _Failed:
    """How often in a row something could not be made though the server serves, and when it is asked for again."""

    times: int
    message: str
    at: datetime
    again: datetime
    asked_for: tuple[int, str | None]

    def waits(self, identity: Identity, now: datetime) -> bool:
        """Say whether its time has not come; whoever asks for something else, or anew, does not wait."""
        return self.asked_for == _asked_for(identity) and self.at <= now < self.again


class VaultSources:
    """What identities have from Vault."""

    def __init__(self, connections: Connections, reader: Reader, leases: Leases, clock: Clock) -> None:
        self._connections = connections
        self._reader = reader
        self._leases = leases
        self._clock = clock
        self._failed: defaultdict[Key, dict[str, _Failed]] = defaultdict(dict)

    async def gather(self, identity: Identity, contents: Mapping[str, SecretView]) -> dict[str, VaultView]:
        """Return what is known of each secret of the identity, by name; reads and renews what is due."""
        if identity.vault is None or identity.suspend:
            self.forget(identity.key)
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

        `stored` or `abandoned` must follow. What failed in passing is asked for again later each time, but at once for
        another spec or a new request to rotate.
        """
        client = await self._connections.client(identity)
        if isinstance(client, Held):
            raise VaultAwayError(client.message, self._clock() + _AGAIN)
        failed = self._failed.get(identity.key, {}).get(order.secret.name)
        if failed is not None and failed.waits(identity, self._clock()):
            raise VaultAwayError(failed.message, failed.again)
        try:
            answer = await self._made(identity, order, client)
        except LeaseNotRecordedError as error:
            raise error.cause from None  # it is the API server that refused, or is away
        except (AwayError, BusyError) as error:  # it is called back
            raise VaultAwayError(str(error), self._clock() + _AGAIN) from None
        except RetryableError as error:
            raise VaultAwayError(str(error), self._later(identity, order.secret.name, str(error))) from None
        except PortError as error:
            self._failed[identity.key].pop(order.secret.name, None)
            raise VaultRefusedError(f"{order.secret.source}: {error}") from None
        self._failed[identity.key].pop(order.secret.name, None)
        return answer

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
        """Forget what was asked for an identity that is gone, or that can't be understood."""
        self._reader.forget(key)
        self._failed.pop(key, None)
        self._leases.forget(key)

    def next_look(self, identity: Identity) -> datetime | None:
        """When something has to be read again or looked after; it is not in the status, because it comes for ever."""
        if identity.vault is None:
            return None
        looks = [self._reader.next_read(identity, secret) for secret in identity.vault.secrets]
        return earliest(*looks, self._leases.next_look(identity))

    async def _made(self, identity: Identity, order: VaultOrder, client: VaultClient) -> Answer:
        if isinstance(order.secret.source, LeaseSource):
            return await self._leases.issue(identity, order.secret, client)
        return await make(client, order, self._clock)

    def _later(self, identity: Identity, name: str, message: str) -> datetime:
        """Take note that something could not be made, and return when it is asked for again."""
        before, now = self._failed[identity.key].get(name), self._clock()
        times = before.times + 1 if before is not None else 1
        failed = _Failed(times, message, now, now + pause_after(times), _asked_for(identity))
        self._failed[identity.key][name] = failed
        return failed.again

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


def _asked_for(identity: Identity) -> tuple[int, str | None]:
    """Return what tells one request of people from another."""
    return identity.meta.generation, identity.meta.annotations.get(ownership.ROTATE_ANNOTATION)


def _is_read(secret: VaultSecretSpec) -> bool:
    return isinstance(secret.source, KvSource | StaticRoleSource)
