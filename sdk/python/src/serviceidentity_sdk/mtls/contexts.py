"""TLS contexts of one set of material, and one that always is that of the newest.

TLS 1.3 only, and both sides show a certificate. An `ssl.SSLContext` can be given another certificate, but roots and
revocation lists can only be added to it, never taken out; so each set of material has a context of its own, and a
connection keeps the one of its handshake.
"""

import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final

from cryptography import x509

from serviceidentity_sdk.credentials import CredentialError
from serviceidentity_sdk.mtls.material import Material, Revocation
from serviceidentity_sdk.mtls.peer import PeerIdentity, Peers

_LOG: Final = logging.getLogger("serviceidentity_sdk.mtls")
_FLAGS: Final = {
    Revocation.LEAF: ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF,
    Revocation.CHAIN: ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN,
}


class ClientCertificate(Enum):
    """What a server does with a client that shows no certificate. One that does not verify is refused in both cases."""

    REQUIRED = ssl.CERT_REQUIRED  # the handshake is refused
    OPTIONAL = ssl.CERT_OPTIONAL  # the handshake goes on, and MutualTLSMiddleware answers 401


def server_context(
    material: Material, client_certificate: ClientCertificate = ClientCertificate.REQUIRED
) -> ssl.SSLContext:
    """Return a context that accepts clients. Raises CredentialError if OpenSSL refuses the material."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, material)
    context.verify_mode = client_certificate.value
    context.sslobject_class = _LoggedObject
    context.num_tickets = 0  # a resumed session would skip the look at the client's certificate
    return context


def client_context(material: Material, *, servers: Peers | None = None, check_hostname: bool = True) -> ssl.SSLContext:
    """Return a context that connects to servers. Raises CredentialError if OpenSSL refuses the material.

    The name that is connected to has to be in the server's certificate; with `servers` it also has to be one of them,
    which is known before a byte of the request is sent. With `servers` the name may be left unchecked, as SPIFFE does.
    """
    if servers is None and not check_hostname:
        raise ValueError("without check_hostname, say in `servers` who may answer")
    context = _context(ssl.PROTOCOL_TLS_CLIENT, material)
    context.check_hostname = check_hostname
    if servers is not None:
        context.sslobject_class, context.sslsocket_class = _checking(servers)
    return context


def _context(protocol: int, material: Material) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with _as_file(material.key.reveal() + b"\n" + material.chain) as path:
            # Without a password to return, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(path, password=lambda: b"")
        context.load_verify_locations(cadata=material.roots.decode("ascii"))
        if material.lists is not None:
            with _as_file(material.lists) as path:
                context.load_verify_locations(path)
            context.verify_flags |= _FLAGS[material.revocation]
    except (ssl.SSLError, UnicodeDecodeError):
        raise CredentialError("OpenSSL refuses the mounted certificate, key, roots or revocation lists") from None
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give OpenSSL a path to these bytes: it reads keys and revocation lists from files only.

    The mounted files may be another version by now. Memory without a name on Linux; elsewhere a file that only this
    user can read, removed at once.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as memory:
            memory.write(content)
            memory.flush()
            yield f"/proc/self/fd/{fd}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name


class _LoggedObject(ssl.SSLObject):
    """A handshake at a server that says why it failed: asyncio keeps that to itself, and drops the alert as well."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError, ssl.SSLEOFError):
            raise  # it goes on, or the client went away
        except ssl.SSLCertVerificationError as error:
            _LOG.warning("handshake refused: %s", error.verify_message)
            raise
        except ssl.SSLError as error:
            _LOG.warning("handshake refused: %s", (error.reason or "TLS error").lower().replace("_", " "))
            raise


def _checking(servers: Peers) -> tuple[type[ssl.SSLObject], type[ssl.SSLSocket]]:
    """Return connections whose handshake fails if the peer is none of these."""

    def check(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        certificate = connection.getpeercert(binary_form=True)
        try:
            allowed = certificate is not None and servers.allow(
                PeerIdentity.of(x509.load_der_x509_certificate(certificate))
            )
        except ValueError:
            allowed = False
        if not allowed:
            raise ssl.SSLCertVerificationError(1, "the server is not one that may answer here")

    class CheckedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self)

    class CheckedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self)

    return CheckedObject, CheckedSocket


class LiveContext(ssl.SSLContext):
    """A context for whatever takes one: every new handshake uses the newest material.

    Handshakes under way and connections that are open are not touched. It verifies nothing by itself: it has no roots,
    so a library that takes the settings out of it instead of calling `wrap_bio` or `wrap_socket` can't connect.
    """

    _newest: Callable[[], Material]
    _build: Callable[[Material], ssl.SSLContext]
    _built: tuple[Material, ssl.SSLContext]
    _protocols: list[str] | None

    @classmethod
    def following(
        cls, protocol: int, newest: Callable[[], Material], build: Callable[[Material], ssl.SSLContext]
    ) -> "LiveContext":
        """Return a context for what `newest` returns, made by `build`."""
        context = cls(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context._newest, context._build, context._protocols = newest, build, None
        first = newest()
        context._built = (first, build(first))
        return context

    @property
    def newest(self) -> ssl.SSLContext:
        """The context that the next handshake uses."""
        material = self._newest()
        built = self._built
        if built[0] is not material:
            built = (material, self._build(material))
            if self._protocols is not None:
                built[1].set_alpn_protocols(self._protocols)
            self._built = built
        return built[1]

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Offer these in every handshake from now on."""
        self._protocols = list(alpn_protocols)
        super().set_alpn_protocols(self._protocols)
        self._built[1].set_alpn_protocols(self._protocols)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a handshake with the newest material."""
        return self.newest.wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Begin a handshake with the newest material."""
        return self.newest.wrap_socket(*args, **options)
