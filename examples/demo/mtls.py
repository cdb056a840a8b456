"""Mutual TLS 1.3 with what is in certificate Secrets, over real sockets."""

import socket
import ssl
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

Files = Mapping[str, bytes]
"""What is in a Secret, by key: `tls.crt`, `tls.key` and `ca.crt` for a certificate."""

TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other side, from its verified certificate."""

    common_name: str
    spiffe_id: str
    serial: str


@dataclass(slots=True)
class Connection:
    """How one connection went on either side.

    `caller` is whom the server saw and `answer` what the client read from it; the others say which side refused, why.
    """

    caller: Peer | None = None
    version: str = ""
    answer: str = ""
    server_refused: str = ""
    client_refused: str = ""

    @property
    def established(self) -> bool:
        """Whether both sides accepted the other, and something went over the wire."""
        return self.caller is not None and bool(self.answer) and not (self.server_refused or self.client_refused)


def peer_of(certificate: x509.Certificate) -> Peer:
    """Return who a certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Peer(str(common[0].value) if common else "", uris[0] if uris else "", f"{certificate.serial_number:x}")


def connect(server: Files, client: Files | None, name: str, *, roots: bytes) -> Connection:
    """Connect a client to a server that demands a certificate, and let the server answer with whom it saw.

    The client insists that the server is called `name` and trusts `roots` (PEM); it has no certificate when it is None.
    """
    seen = Connection()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        thread = threading.Thread(target=_serve, args=(listener, server, seen))
        thread.start()
        try:
            _call(listener.getsockname(), client, roots, name, seen)
        finally:
            thread.join()
    return seen


def _call(address: tuple[str, int], own: Files | None, roots: bytes, name: str, seen: Connection) -> None:
    try:
        tls = _context(ssl.PROTOCOL_TLS_CLIENT, own, roots)
        with (
            socket.create_connection(address, TIMEOUT) as plain,
            tls.wrap_socket(plain, server_hostname=name) as connection,
        ):
            seen.version = connection.version() or ""
            seen.answer = connection.recv(1024).decode()  # with TLS 1.3 the client learns only here that it is refused
    except OSError as error:
        seen.client_refused = _reason(error)


def _serve(listener: socket.socket, own: Files, seen: Connection) -> None:
    try:
        tls = _context(ssl.PROTOCOL_TLS_SERVER, own, own["ca.crt"])
        plain, _ = listener.accept()
        plain.settimeout(TIMEOUT)
        with plain, tls.wrap_socket(plain, server_side=True) as connection:
            der = connection.getpeercert(binary_form=True)
            caller = peer_of(x509.load_der_x509_certificate(der or b""))
            seen.caller = caller
            connection.sendall(f"hello {caller.common_name}, {caller.spiffe_id}".encode())
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        seen.server_refused = _reason(error)


def _context(protocol: int, own: Files | None, roots: bytes) -> ssl.SSLContext:
    """Return a context of TLS 1.3 alone that demands a certificate; a client's checks the server's name as well."""
    result = ssl.SSLContext(protocol)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    result.verify_mode = ssl.CERT_REQUIRED
    result.load_verify_locations(cadata=roots.decode())
    if own is not None:
        with tempfile.TemporaryDirectory() as directory:  # made with mode 0700; Python's ssl reads keys from files only
            for name in ("tls.crt", "tls.key"):
                (Path(directory) / name).write_bytes(own[name])
            result.load_cert_chain(Path(directory) / "tls.crt", Path(directory) / "tls.key")
    return result


def _reason(error: Exception) -> str:
    """Return OpenSSL's words for it: what is wrong with the certificate, else the alert, in lower case."""
    words = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(words).replace("_", " ").rstrip(".").lower()
