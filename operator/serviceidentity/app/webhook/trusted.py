"""Has the API server trust what is served: the webhook's caBundle follows the roots beside the served certificate.

They are in the Secret, as `ca.crt`, before anything that they vouch for is served: a new root is there together with
the old one for as long as both are in the trust domain's bundle. A certificate that somebody else made brings its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from serviceidentity.app.ports import Clock, WebhookConfigurations
from serviceidentity.domain.material import MalformedError, SecretView
from serviceidentity.domain.pki import certificates
from serviceidentity.domain.pki.errors import PkiError
from serviceidentity.errors import ForbiddenError, PortError

logger = logging.getLogger(__name__)

NAME: Final = "serviceidentity-admission"  # of the ValidatingWebhookConfiguration, as deploy/admission has it
ROOTS: Final = "ca.crt"
LOOK_EVERY: Final = 2.0  # seconds, at the Secret: that asks the API server for nothing
COMPARE_EVERY: Final = timedelta(seconds=30)
AGAIN_AFTER: Final = timedelta(seconds=5)  # when it could not be compared

ReadCertificate = Callable[[], Awaitable[SecretView | None]]


class TrustedWebhook:
    """Writes caBundle when it is another one, and nothing else of the object. Without the object nothing is done."""

    def __init__(
        self,
        configurations: WebhookConfigurations,
        read_certificate: ReadCertificate,
        clock: Clock,
        *,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._configurations = configurations
        self._read_certificate = read_certificate
        self._clock = clock
        self._look_every = look_every
        self._compared: bytes | None = None  # the roots that the object was compared with last
        self._next_look: datetime | None = None
        self._told = ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._look_every)

    async def look(self) -> None:
        """Compare when the roots are others than before, or when it is time again. What is in the way is told once."""
        now = self._clock()
        try:
            roots = await self._roots()
            if roots is None or (roots == self._compared and self._next_look is not None and now < self._next_look):
                return
            self._compared, self._next_look = roots, now + AGAIN_AFTER
            await self._compare(roots)
            self._next_look = now + COMPARE_EVERY
        except ForbiddenError:
            self._next_look = now + COMPARE_EVERY
            self._tell("there is no right to it, as without deploy/admission", logging.INFO)
        except PortError as error:
            self._tell(str(error))

    async def _roots(self) -> bytes | None:
        """Return what vouches for the served certificate, in PEM; None when nothing does, or nothing is served."""
        view = await self._read_certificate()
        if view is None or ROOTS not in view.data:
            return None
        try:
            return certificates.encode_chain(*certificates.load_chain(view.value(ROOTS)))
        except (PkiError, MalformedError):
            self._tell(f"{ROOTS} of Secret {view.namespace}/{view.name} holds no certificates")
            return None

    async def _compare(self, roots: bytes) -> None:
        found = await self._configurations.read(NAME)
        if found is None:
            self._tell("it does not exist", logging.INFO)
            return
        self._told = ""
        if all(given == roots for given in found.authorities.values()):
            return
        await self._configurations.trust(found, roots)
        logger.info("webhook %s: the API server now trusts what is served", NAME)

    def _tell(self, trouble: str, level: int = logging.WARNING) -> None:
        if trouble != self._told:
            self._told = trouble
            logger.log(level, "webhook %s: %s", NAME, trouble)
