"""Having leaves signed: here at once, or at Vault, few at a time, and with a pause for everyone while it is away."""

import asyncio
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.app.ports import Clock, Pki
from serviceidentity.app.sources import UNAVAILABLE
from serviceidentity.domain.authority import RemoteIssuer
from serviceidentity.domain.credentials import leaf, remote_leaf
from serviceidentity.domain.credentials.leaf import Leaf, Order
from serviceidentity.errors import PortError, RetryableError, ServiceIdentityError

AT_ONCE: Final = 3  # one thread of the connection to Vault is left for everything else that is asked there
WAIT_FOR_PLACE: Final = 2.0
LONGEST_ANSWER: Final = 10.0
PAUSE_FIRST: Final = timedelta(seconds=2)
PAUSE_LIMIT: Final = timedelta(seconds=10)
SPREAD: Final = 5  # seconds over which those who were turned away come back


class LeafRefusedError(ServiceIdentityError):
    """Vault refused to sign or revoke a leaf: trying again soon won't help."""


class SignerAwayError(ServiceIdentityError):
    """Vault can't be asked for a leaf now; `retry` says when to come back."""

    def __init__(self, reason: str, message: str, retry: datetime) -> None:
        super().__init__(message)
        self.reason, self.retry = reason, retry


class LeafSigner:
    """Has leaves signed by whoever the order names.

    A worker waits a moment for its place and then goes on with other work: a Vault that hangs holds up nobody else.
    After a failure nobody asks that issuer for a while; then one does, and only when it has its answer the others.
    """

    def __init__(self, pki: Pki | None, clock: Clock) -> None:
        self._pki = pki
        self._clock = clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._gates: dict[tuple[str, str], Gate] = {}

    async def sign(self, order: Order) -> Leaf:
        """Have a leaf signed. Raises PkiError when it is not as asked for, LeafRefusedError and SignerAwayError."""
        if not isinstance(order.signer, RemoteIssuer):
            return leaf.sign(order)
        if self._pki is None:
            raise self._not_configured()
        answer = await self._ask(self._pki, order, order.signer)
        return remote_leaf.examined(order, answer, self._clock())

    async def revoke(self, certificates: Iterable[tuple[RemoteIssuer, str]]) -> None:
        """Have certificates revoked where they were signed. Raises LeafRefusedError and SignerAwayError."""
        for signer, certificate in certificates:
            if self._pki is None:
                raise self._not_configured()
            try:
                async with self._places:
                    await self._pki.revoke(signer.mount, certificate)
            except RetryableError as error:
                raise Gate(self._clock).away(f"the one before it can't be revoked at Vault: {error}") from None
            except PortError as error:
                message = f"the certificate to replace was not revoked by Vault's PKI engine at {signer.mount}: {error}"
                raise LeafRefusedError(message) from None

    def _not_configured(self) -> SignerAwayError:
        retry = self._clock() + timedelta(seconds=30)
        return SignerAwayError("VaultNotConfigured", "the operator was started without VAULT_ADDR", retry)

    async def _ask(self, pki: Pki, order: Order, signer: RemoteIssuer) -> str:
        gate = self._gates.setdefault((signer.mount, signer.issuer_id), Gate(self._clock))
        first = gate.let_in()
        try:
            async with asyncio.timeout(WAIT_FOR_PLACE):
                await self._places.acquire()
        except TimeoutError:
            raise gate.away("too much is asked of Vault at once") from None
        try:
            if not first:
                gate.check()  # it went away while others were asking
            request = remote_leaf.request_for(order, self._clock())
            async with asyncio.timeout(LONGEST_ANSWER):
                answer = await pki.sign_leaf(signer.mount, signer.issuer_id, signer.role, request)
        except (RetryableError, TimeoutError) as error:
            gate.close(str(error) or "Vault does not answer in time")
            raise gate.away() from None
        except PortError as error:
            gate.open()  # it answers
            message = f"role {signer.role} of Vault's PKI engine at {signer.mount} did not sign: {error}"
            raise LeafRefusedError(message) from None
        finally:
            self._places.release()
        gate.open()
        return answer


class Gate:
    """Who may ask one issuer: everyone, or after a failure nobody for a while, and then one until it has its answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._trouble = ""
        self._closed_until: datetime | None = None
        self._asked_until: datetime | None = None

    def let_in(self) -> bool:
        """Say whether this is the first one who asks again. Raises SignerAwayError while nobody is to ask."""
        self.check()
        if self._closed_until is None:
            return False
        self._asked_until = self._clock() + PAUSE_LIMIT
        return True

    def check(self) -> None:
        """Raise SignerAwayError while nobody is to ask."""
        if self._is_to_come(self._closed_until) or self._is_to_come(self._asked_until):
            raise self.away()

    def close(self, trouble: str) -> None:
        """Turn everyone away for a while, longer each time."""
        self._asked_until = None
        self._closed_until = self._clock() + min(PAUSE_FIRST * 2 ** min(self._failures, 10), PAUSE_LIMIT)
        self._failures += 1
        self._trouble = trouble

    def open(self) -> None:
        """Let everyone in: it answers."""
        self._closed_until = self._asked_until = None
        self._failures = 0

    def away(self, trouble: str = "") -> SignerAwayError:
        """Return what to tell who is turned away: what the trouble is, and when to come back, each at another time."""
        until = self._closed_until
        back = until if until is not None and self._is_to_come(until) else self._clock()
        spread = timedelta(seconds=random.randint(1, SPREAD))  # noqa: S311  # not for secrets
        message = f"the certificate can't be signed now: {trouble or self._trouble}"
        return SignerAwayError(UNAVAILABLE, message, back + spread)

    def _is_to_come(self, until: datetime | None) -> bool:
        # A pause that is longer than any was made before the clock was put back.
        return until is not None and self._clock() < until <= self._clock() + PAUSE_LIMIT
