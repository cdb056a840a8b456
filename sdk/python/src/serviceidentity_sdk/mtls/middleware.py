"""ASGI middleware: who calls is on the request, and who may not call is answered."""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from serviceidentity_sdk.asgi import Application, Receive, Scope, Send, refuse
from serviceidentity_sdk.mtls.identity import MutualTLS
from serviceidentity_sdk.mtls.peer import PeerIdentity, Peers
from serviceidentity_sdk.principal import Kind, Principal, attach

_LOG: Final = logging.getLogger("serviceidentity_sdk.mtls")
MISSING: Final = "Client certificate required"
NOT_TRUSTED: Final = "Client certificate not trusted"
NOT_ALLOWED: Final = "Caller not allowed"


def _now() -> datetime:
    return datetime.now(UTC)


class MutualTLSMiddleware:
    """Lets requests pass whose TLS peer is one of `allowed`, and puts the peer on them.

    `request.state.peer` is a PeerIdentity, `request.state.principal` the principal of it. 401 without a certificate,
    and with one that would not pass a handshake any more (revoked, ended, root removed), which also closes the
    connection; 403 for a caller that is not allowed. Paths in `exempt` are open to everyone, say to the kubelet's
    probes, which have no certificate; they match exactly. Who calls comes from the server's TLS extension, never from
    a header.
    """

    def __init__(
        self,
        app: Application,
        tls: MutualTLS,
        *,
        allowed: Peers,
        exempt: Collection[str] = (),
        clock: Callable[[], datetime] = _now,
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError("paths are given as a list")
        self._app, self._tls, self._allowed, self._exempt, self._clock = app, tls, allowed, frozenset(exempt), clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        peer, refusal = self._known(scope)
        if peer is not None:
            state = scope["state"] = dict(scope.get("state") or {})
            state["peer"] = peer
            attach(scope, _principal(peer))
        if refusal is not None and scope["path"] not in self._exempt:
            status, reason = refusal
            await refuse(scope, send, status, {"error": reason}, _headers(scope, status))
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> tuple[PeerIdentity | None, tuple[int, str] | None]:
        """Return who calls, if that is certain, and why the call is refused, if it is."""
        chain = tuple(((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_chain") or ())
        if not chain:
            return None, (401, MISSING)
        try:
            certificates, peer = _read(chain)
        except ValueError:
            return None, (401, NOT_TRUSTED)
        distrust = self._tls.trust.refusal(chain, certificates, self._clock())
        if distrust is not None:
            _LOG.warning("refused %s (serial %s): %s", peer.subject, peer.serial_number, distrust)
            return None, (401, NOT_TRUSTED)
        if not self._allowed.allow(peer):
            _LOG.warning("refused %s (serial %s): not an allowed caller", peer.subject, peer.serial_number)
            return peer, (403, NOT_ALLOWED)
        return peer, None


@lru_cache(maxsize=1024)
def _read(chain: tuple[str, ...]) -> tuple[tuple[x509.Certificate, ...], PeerIdentity]:
    """Read a chain once a connection, not once a request. All of it is public."""
    certificates = tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in chain)
    return certificates, PeerIdentity.of(certificates[0])


def _principal(peer: PeerIdentity) -> Principal:
    claims = {
        "serial_number": peer.serial_number,
        "fingerprint": peer.fingerprint,
        "issuer": peer.issuer,
        "not_before": peer.not_before,
        "not_after": peer.not_after,
    }
    return Principal(Kind.CERTIFICATE, peer.subject, peer.spiffe_id, claims=claims)


def _headers(scope: Scope, status: int) -> list[tuple[str, str]]:
    """A new handshake is the way to another answer than 401. RFC 9113 8.2.2: HTTP/2 has no such header."""
    ends = status == 401 and scope.get("http_version", "1.1").startswith("1")  # noqa: PLR2004
    return [("Connection", "close")] if ends else []
