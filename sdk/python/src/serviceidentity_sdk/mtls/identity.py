"""The TLS side of a service's identity, followed through every rotation."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from typing import Final

from serviceidentity_sdk.credentials import CredentialError, Directory, Snapshot, Watch
from serviceidentity_sdk.mtls.contexts import ClientCertificate, LiveContext, client_context, server_context
from serviceidentity_sdk.mtls.material import LISTS_FILE, Material, Revocation, read_material
from serviceidentity_sdk.mtls.peer import Peers
from serviceidentity_sdk.mtls.trust import Trust

_LOG: Final = logging.getLogger("serviceidentity_sdk.mtls")
_INTERVAL: Final = 5.0


def _now() -> datetime:
    return datetime.now(UTC)


class MutualTLS(Watch[Material]):
    """A service's certificate and whom it trusts, out of mounted directories; see `Watch` for following them.

    `tls` is where the `<name>-tls` Secret is mounted, `trust` where the trust bundle is, if it has one: then roots and
    revocation lists come from there. With `lists_required` a service without `ca.crl` does not start. A list that was
    there once stays in force until it ends, even when its file goes away. Raises CredentialError, as `Watch` does.
    """

    def __init__(
        self,
        tls: str | PathLike[str],
        trust: str | PathLike[str] | None = None,
        *,
        revocation: Revocation = Revocation.LEAF,
        lists_required: bool = False,
        interval: float = _INTERVAL,
        on_error: Callable[[CredentialError], None] | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        last: list[bytes] = []

        def parse(tls: Snapshot, trust: Snapshot | None = None) -> Material:
            required = lists_required and not last
            found = read_material(tls, trust, clock(), revocation=revocation, lists_required=required)
            if found.lists is None and last:
                _LOG.warning("%s is gone; the last one stays in force until it ends", LISTS_FILE)
                found = replace(found, lists=last[0])
            server_context(found)  # what OpenSSL refuses is not taken over
            if found.lists is not None:
                last[:] = [found.lists]
            return found

        self._trust: tuple[Material, Trust] | None = None
        directories = [Directory(path) for path in (tls, trust) if path is not None]
        super().__init__(directories, parse, interval=interval, on_error=on_error, clock=clock)

    @property
    def trust(self) -> Trust:
        """Roots and revocation lists as they are now."""
        material, known = self.current, self._trust
        if known is None or known[0] is not material:
            known = self._trust = (material, Trust(material))
        return known[1]

    def server_context(self, client_certificate: ClientCertificate = ClientCertificate.REQUIRED) -> LiveContext:
        """Return a context for a server that uses the newest material in each handshake."""
        return LiveContext.following(
            ssl.PROTOCOL_TLS_SERVER, lambda: self.current, lambda found: server_context(found, client_certificate)
        )

    def client_context(self, *, servers: Peers | None = None, check_hostname: bool = True) -> LiveContext:
        """Return a context for a client that uses the newest material in each handshake.

        Connections that it opened go on with the certificate they began with; `mtls.client` also moves those.
        """
        return LiveContext.following(
            ssl.PROTOCOL_TLS_CLIENT,
            lambda: self.current,
            lambda found: client_context(found, servers=servers, check_hostname=check_hostname),
        )
